//! Files that PyTorch wrote: what is read, what is refused, and damage anywhere.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use proptest::prelude::*;

use crate::{CheckpointError, Folder, Mapped, WeightDtype, Weights};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/torch")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).expect("a fixture")
}

fn from_bytes(bytes: Vec<u8>) -> Result<Weights, CheckpointError> {
    Weights::from_bytes("f", bytes, &Device::Cpu, WeightDtype::Keep)
}

fn open(name: &str) -> Weights {
    let folder = Folder::open(fixtures()).expect("exists");
    Weights::open_files(&folder, &[name], &Device::Cpu, WeightDtype::Keep).expect(name)
}

fn refusal(name: &str) -> String {
    from_bytes(bytes(name)).expect_err(name).to_string()
}

fn values(weights: &Weights, name: &str) -> (DType, Vec<usize>, Vec<f32>) {
    let shape = weights.shape(name).expect(name).to_vec();
    let tensor = weights.get(name, &shape).expect(name);
    let dtype = tensor.dtype();
    let flat = tensor.to_dtype(DType::F32).and_then(|x| x.flatten_all()?.to_vec1()).expect("f32");
    (dtype, shape, flat)
}

#[test]
fn every_form_of_a_state_dictionary_has_the_values_of_its_safetensors_file() {
    let expected = open("expected.safetensors");
    for file in ["state_dict.pth", "protocol4.pth", "zip64.pth", "legacy.pth", "wrapped.pth"] {
        let weights = open(file);
        for name in expected.names() {
            assert_eq!(values(&weights, name), values(&expected, name), "{file}: {name}");
        }
        assert_eq!(weights.names().count(), expected.names().count() + 3, "{file}");
        let mut dtypes = weights.stored_dtypes();
        assert_eq!(dtypes.remove("F8_E4M3"), Some(12), "{file}");
        assert_eq!(dtypes.remove("I64"), Some(24), "{file}");
        for other in ["double", "long"] {
            let shape = weights.shape(other).expect("is there").to_vec();
            let error = weights.get(other, &shape).expect_err("is not a float we compute with");
            assert!(matches!(error, CheckpointError::UnsupportedDtype { .. }), "{file}: {error}");
        }
    }
}

#[test]
fn a_view_counts_its_elements_and_can_be_split_and_squeezed() {
    let map = |name: &str| match name {
        "permuted" => Some(Mapped::Split(["a", "b", "c", "d"].map(|name| (name.into(), 1)).into())),
        "plain" => Some(Mapped::Split(["p", "q"].map(|name| (name.into(), 1)).into())),
        "strided" => Some(Mapped::Split(vec![("s".into(), 1)])),
        _ => Some(Mapped::Omitted),
    };
    let (whole, parts) = (open("state_dict.pth"), open("state_dict.pth").mapped(map).expect("fits"));
    assert_eq!(whole.total_bytes(), open("legacy.pth").total_bytes());
    for (name, pieces) in [("permuted", "abcd"), ("plain", "pq"), ("strided", "s")] {
        let joined: Vec<f32> =
            pieces.chars().flat_map(|piece| values(&parts, &piece.to_string()).2).collect();
        assert_eq!(joined, values(&whole, name).2, "{name}");
    }
    assert_eq!(parts.shape("a"), Some([1, 2, 3].as_slice()));
    let squeezed = parts.mapped(|name| Some(Mapped::Squeezed(name.into()))).expect("fits");
    assert_eq!(squeezed.shape("a"), Some([2, 3].as_slice()));
    assert_eq!(values(&squeezed, "a").2, values(&open("state_dict.pth"), "permuted").2[..6]);
    let swap = |name: &str| (name == "permuted").then(|| Mapped::Swapped("permuted".into()));
    let (swapped, mut whole) =
        (open("state_dict.pth").mapped(swap).expect("fits"), values(&whole, "permuted").2);
    let half = whole.len() / 2;
    whole.rotate_left(half);
    assert_eq!(values(&swapped, "permuted").2, whole);
    let odd = |_: &str| Some(Mapped::Split(vec![("x".into(), 1); 5]));
    assert!(matches!(squeezed.mapped(odd), Err(CheckpointError::BadConfig { .. })));
}

#[test]
fn code_is_named_and_not_run() {
    assert!(refusal("namespace.pth").contains("asks for \"argparse.Namespace\""));
    let shell = refusal("shell.pth");
    assert!(shell.contains("\"posix.system\"") && shell.contains("nothing of it was run"), "{shell}");
}

#[test]
fn what_cannot_be_read_says_why() {
    assert!(refusal("compressed.pth").contains("is compressed (Deflated)"));
    assert!(refusal("ambiguous.pth").contains("several dictionaries, of which none is the usual one: a, b"));
    assert!(refusal("list.pth").contains("no dictionary of tensors"));
    assert!(refusal("expanded.pth").contains("does not fit storage"));
    let replaced = |name: &str, old: &[u8], new: &[u8]| {
        let mut file = bytes(name);
        let at = file.windows(old.len()).position(|window| window == old).expect("is there");
        file[at..at + new.len()].copy_from_slice(new);
        from_bytes(file).expect_err("is refused").to_string()
    };
    assert!(replaced("state_dict.pth", b"little", b"bigbig").contains("byteorder is bigbig"));
    assert!(
        replaced("legacy.pth", b"little_endianq\x02\x88", b"little_endianq\x02\x89").contains("big-endian")
    );
    assert!(replaced("legacy.pth", b"\x8a\x0a\x6c", b"\x8a\x0a\x6d").contains("not one of torch.save"));
    assert!(replaced("state_dict.pth", b"FloatStorage", b"FlaatStorage").contains("torch.FlaatStorage"));
    let state = bytes("state_dict.pth");
    let cut = from_bytes(state[..state.len() / 2].to_vec()).expect_err("is cut").to_string();
    assert!(cut.contains("ends before the table of contents"), "{cut}");
    let legacy = bytes("legacy.pth");
    let cut = from_bytes(legacy[..legacy.len() - 1].to_vec()).expect_err("is cut").to_string();
    assert!(cut.contains("it ends inside storage"), "{cut}");
}

#[test]
fn nesting_and_repetition_cost_no_stack_and_no_memory() {
    // A million nested tuples, and a tuple doubled thirty times.
    let mut nested = b"\x80\x02)".to_vec();
    nested.extend(std::iter::repeat_n(0x85, 1_000_000));
    let mut doubled = b"\x80\x02)".to_vec();
    for _ in 0..30 {
        doubled.extend(b"q\x00h\x00\x86");
    }
    for mut pickle in [nested, doubled] {
        pickle.push(b'.');
        let mut machine = super::pickle::Machine::default();
        let value = machine.run(&pickle).expect("is valid");
        assert!(super::dictionary::tensors(&machine, value).is_err());
    }
}

fn read_all(file: Vec<u8>) {
    if let Ok(weights) = from_bytes(file) {
        for name in weights.names() {
            let shape = weights.shape(name).unwrap_or_default().to_vec();
            let _ = weights.get(name, &shape);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Damage anywhere is either noticed or changes values only.
    #[test]
    fn no_damaged_file_panics(which in 0usize..4, at in any::<usize>(), byte in any::<u8>(), cut in 0usize..400) {
        let mut file = bytes(["state_dict.pth", "legacy.pth", "zip64.pth", "protocol4.pth"][which]);
        let at = at % file.len();
        file[at] = byte;
        file.truncate(file.len() - if cut < 200 { 0 } else { cut });
        read_all(file);
    }

    /// Damages the pickle itself, where every byte is an instruction or a number.
    #[test]
    fn no_damaged_pickle_panics(at in 0usize..1800, bytes in proptest::collection::vec(any::<u8>(), 1..4)) {
        let mut file = self::bytes("legacy.pth");
        let at = at.min(file.len() - bytes.len());
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        read_all(file);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = super::pickle::Machine::default().run(&bytes);
        let _ = from_bytes([b"PK\x03\x04".as_slice(), &bytes].concat());
    }
}
