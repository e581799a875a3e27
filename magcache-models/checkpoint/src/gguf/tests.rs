use candle_core::{DType, Device};
use proptest::prelude::*;

use super::*;
use crate::{Matrix, WeightDtype, Weights};

/// Writes a file: pairs as they are, tensors as name, axes (fastest first), code and bytes.
struct Writer {
    version: u32,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(&'static str, Vec<u64>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    fn bytes(&self) -> Vec<u8> {
        self.with_offsets(|offset| offset)
    }

    fn with_offsets(&self, moved: impl Fn(u64) -> u64) -> Vec<u8> {
        let mut file = [MAGIC, &self.version.to_le_bytes()].concat();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        let mut data = Vec::new();
        for (name, axes, code, bytes) in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            file.extend(text(name));
            file.extend((axes.len() as u32).to_le_bytes());
            file.extend(axes.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(code.to_le_bytes());
            file.extend(moved(data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data].concat()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `general.architecture = wan`, a 5-D tensor, one of two blocks of `Q8_0`, and one row of `Q4_K`.
fn small() -> Writer {
    let q8: Vec<u8> = (0..2)
        .flat_map(|row| [&[0, 0x3c][..], &(0..32).map(|i| i + row).collect::<Vec<u8>>()].concat())
        .collect();
    let q4 = [&[0, 0x3c, 0, 0x3c][..], &[1; 12], &[0x21; 128]].concat();
    Writer {
        version: 3,
        pairs: vec![[text("general.architecture"), 8u32.to_le_bytes().to_vec(), text("wan")].concat()],
        tensors: vec![
            ("patch", vec![2, 1, 1, 1, 3], 0, floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
            ("q8", vec![32, 2], 8, q8),
            ("q4", vec![256, 1], 12, q4),
        ],
    }
}

fn open(bytes: Vec<u8>) -> Result<Weights, CheckpointError> {
    Weights::from_bytes("f", bytes, &Device::Cpu, WeightDtype::Keep)
}

fn message(bytes: Vec<u8>) -> String {
    open(bytes).expect_err("is damaged").to_string()
}

#[test]
fn five_axes_and_blocks_are_read() {
    let weights = open(small().bytes()).expect("is valid");
    assert_eq!(weights.architecture(), Some("wan"));
    assert_eq!(weights.shape("patch"), Some([3, 1, 1, 1, 2].as_slice()));
    let patch = weights.get("patch", &[3, 1, 1, 1, 2]).expect("is there");
    assert_eq!(
        patch.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32"),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    );
    let q8 = weights.get("q8", &[2, 32]).expect("is there");
    assert_eq!(
        (q8.dtype(), q8.get(1).and_then(|row| row.to_vec1::<f32>()).expect("f32")[5]),
        (DType::F32, 6.0)
    );
    // Scale 1, sub-scales and minima 1: low halves are 1 - 1, high halves 2 - 1.
    let q4 = weights.get("q4", &[1, 256]).and_then(|x| Ok(x.to_vec2::<f32>()?)).expect("is there");
    assert_eq!((q4[0][0], q4[0][32]), (0.0, 1.0));
    let types: Vec<_> = weights.stored_dtypes().into_keys().collect();
    assert_eq!(types, ["F32", "Q4_K", "Q8_0"]);
}

#[test]
fn a_matrix_is_decoded_in_pieces() {
    let weights = open(small().bytes()).expect("is valid");
    let Matrix::Coded(q4) = weights.matrix("q4", [1, 256]).expect("is there") else { panic!("was decoded") };
    let whole = q4.to_tensor().and_then(|x| x.to_vec2::<f32>()).expect("decodes");
    for (start, length) in [(0, 256), (7, 60), (31, 2), (250, 6)] {
        let mut piece = vec![9.0; length];
        q4.decode(0, start, &mut piece);
        assert_eq!(piece, whole[0][start..start + length], "{length} from {start}");
    }
    // A device gets whole blocks.
    let half = Matrix::Coded(q4).narrow_columns(0, 128).expect("fits");
    let Matrix::Coded(half) = half else { panic!("was decoded") };
    assert!(half.on_device().expect("nothing to do").is_none());
}

#[test]
fn damage_is_named_with_its_place() {
    let file = |change: fn(&mut Writer)| {
        let mut file = small();
        change(&mut file);
        file
    };
    assert!(message(file(|file| file.version = 1).bytes()).contains("its version is 1"));
    assert!(message(file(|file| file.tensors[1].2 = 20).bytes()).contains("\"q8\" is stored as IQ4_NL"));
    assert!(message(file(|file| file.tensors[1].1 = vec![31, 2]).bytes()).contains("blocks of 32"));
    assert!(message(file(|file| file.tensors[0].1 = vec![1; 9]).bytes()).contains("9 axes"));
    assert!(message(file(|file| file.tensors[1].0 = "patch").bytes()).contains("comes twice"));
    assert!(message(file(|file| file.tensors[0].1 = vec![u64::MAX, 2]).bytes()).contains("whole number"));
    assert!(message(small().with_offsets(|offset| offset + 1)).contains("no multiple of 32"));
    assert!(message(small().with_offsets(|_| 0)).contains("two tensors share byte"));
    assert!(message(small().with_offsets(|offset| offset + (1 << 62))).contains("truncated"));
    assert!(message(small().with_offsets(|offset| offset + (u64::MAX - 31))).contains("beyond any file"));
    let whole = small().bytes();
    let cut = message(whole[..whole.len() - 3].to_vec());
    assert!(
        cut.contains(&format!("got {} bytes, its header needs {}", whole.len() - 3, whole.len())),
        "{cut}"
    );
    assert!(message(whole[..40].to_vec()).contains("at byte"), "{}", message(whole[..40].to_vec()));
    assert!(message([b"lmgg", &whole[4..]].concat()).contains("older container"));
    // Counts far beyond the file end where the file does, and take no memory before.
    let mut many = whole;
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(open(many).is_err());
}

proptest! {
    /// Damage anywhere is either noticed or changes values only.
    #[test]
    fn no_damaged_file_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut file = small().bytes();
        let (at, cut) = (at % file.len(), cut % file.len());
        file[at] = byte;
        if byte % 3 == 0 {
            file.truncate(file.len() - cut);
        }
        if let Ok(weights) = open(file) {
            for name in weights.names() {
                let shape = weights.shape(name).unwrap_or_default().to_vec();
                let _ = weights.get(name, &shape);
            }
        }
    }
}
