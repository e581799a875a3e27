//! Whole files: one, shards, bytes in memory, and the error for each fault.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::*;

fn values(shape: &[usize], dtype: DType) -> Tensor {
    let count = shape.iter().product::<usize>() as f32;
    Tensor::arange(0f32, count, &Device::Cpu)
        .and_then(|x| (x * 0.37)?.reshape(shape)?.to_dtype(dtype))
        .expect("a small tensor")
}

fn bytes(tensors: &[(&str, &[usize], DType)]) -> Vec<u8> {
    let tensors: HashMap<_, _> =
        tensors.iter().map(|(name, shape, dtype)| ((*name).to_owned(), values(shape, *dtype))).collect();
    safetensors::serialize(&tensors, None).expect("can be written")
}

fn two_blocks() -> Vec<u8> {
    bytes(&[
        ("blocks.0.to_q.weight", &[3, 5], DType::BF16),
        ("blocks.0.norm.weight", &[5], DType::BF16),
        ("blocks.1.to_q.weight", &[3, 5], DType::F16),
        ("patch", &[2], DType::F32),
        ("step", &[1], DType::I64),
    ])
}

fn in_memory(dtype: WeightDtype) -> Weights {
    Weights::from_bytes("f", two_blocks(), &Device::Cpu, dtype).expect("is valid")
}

fn at(root: &Path, files: &[(&str, &[u8])]) -> Folder {
    for (name, bytes) in files {
        fs::write(root.join(name), bytes).expect("can be written");
    }
    Folder::open(root).expect("exists")
}

fn open(folder: &Folder) -> Result<Weights, CheckpointError> {
    Weights::open(folder, &Device::Cpu, WeightDtype::Keep)
}

#[test]
fn values_come_in_the_wanted_type() {
    for (dtype, expected) in [(WeightDtype::Keep, DType::BF16), (WeightDtype::Cast(DType::F16), DType::F16)] {
        let block = in_memory(dtype).pp("blocks").pp(0);
        let weight = block.get("to_q.weight", &[3, 5]).expect("is there");
        assert_eq!(weight.dtype(), expected);
        let as_f32 = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let stored = values(&[3, 5], DType::BF16);
        assert_eq!(as_f32(weight).expect("f32"), as_f32(stored).expect("f32"));
        assert_eq!(block.get_f32("norm.weight", &[5]).expect("is there").dtype(), DType::F32);
    }
    let half = in_memory(WeightDtype::Half);
    assert_eq!(half.get("patch", &[2]).expect("is there").dtype(), DType::BF16);
    assert_eq!(half.get_f32("patch", &[2]).expect("is there").dtype(), DType::F32);
    assert_eq!(half.get("blocks.1.to_q.weight", &[3, 5]).expect("is there").dtype(), DType::F16);
    let wide =
        in_memory(WeightDtype::Cast(DType::F32)).get("blocks.1.to_q.weight", &[3, 5]).expect("is there");
    let stored = values(&[3, 5], DType::F16).to_dtype(DType::F32).expect("widens");
    assert_eq!(wide.to_vec2::<f32>().expect("f32"), stored.to_vec2::<f32>().expect("f32"));
}

#[test]
fn knows_what_is_there_and_what_was_used() {
    let weights = in_memory(WeightDtype::Keep);
    let block = weights.pp("blocks.0");
    assert_eq!(block.names().collect::<Vec<_>>(), ["blocks.0.norm.weight", "blocks.0.to_q.weight"]);
    assert_eq!((block.total_bytes(), block.parameters()), (40, 20));
    assert_eq!(block.stored_dtypes().into_iter().collect::<Vec<_>>(), [("BF16".to_owned(), 40)]);
    assert!(block.contains("norm.weight") && !block.contains("blocks.0.norm.weight"));
    assert_eq!(weights.shape("blocks.1.to_q.weight"), Some([3, 5].as_slice()));
    for list in ["blocks", "blocks."] {
        assert_eq!(weights.count(list), 2, "{list}");
    }
    assert_eq!((weights.count("block"), weights.pp("blocks").count("0")), (0, 0));
    weights.get("patch", &[2]).expect("is there");
    block.get("to_q.weight", &[3, 5]).expect("is there");
    assert_eq!(weights.unused(), ["blocks.0.norm.weight", "blocks.1.to_q.weight", "step"]);
}

#[test]
fn what_nothing_reads_is_told_once_by_its_folder() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let folder = at(root.path(), &[("model.safetensors", &two_blocks())]);
    let load = |spare: &[&str]| {
        let weights = open(&folder).expect("is valid");
        weights.get("patch", &[2]).expect("is there");
        weights.pp("blocks.0").get("to_q.weight", &[3, 5]).expect("is there");
        weights.pp("blocks.1").spare(&["to_q."]);
        weights.spare(spare);
    };
    load(&["blocks.0.norm.", "step"]);
    assert_eq!(folder.unread(), [""; 0], "what nobody needs");
    drop(open(&folder).expect("is valid"));
    assert_eq!(folder.unread(), [""; 0], "what was only looked at");
    load(&[]);
    let notes = folder.sub("elsewhere").unread();
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    let end = "model.safetensors: 2 tensors that nothing here reads are left out: blocks.0.norm.weight, step";
    assert!(note.ends_with(end), "{note}");
    load(&[]);
    assert_eq!(folder.unread(), [""; 0], "what was told");
    load(&["blocks."]);
    assert!(folder.unread()[0].ends_with(": 1 tensor that nothing here reads is left out: step"));
}

#[test]
fn faults_of_a_tensor_are_named() {
    let weights = in_memory(WeightDtype::Keep);
    let message =
        |name: &str, shape: &[usize]| weights.pp("blocks.0").get(name, shape).expect_err(name).to_string();
    assert_eq!(message("to_k.weight", &[3, 5]), "f has no tensor \"blocks.0.to_k.weight\"");
    let hint = weights.get("blocks.0.to_k.weight", &[3, 5]).expect_err("absent").hint();
    assert_eq!(hint.as_deref(), Some("the nearest name is \"blocks.0.to_q.weight\""));
    assert_eq!(
        message("to_q.weight", &[5, 3]),
        "tensor \"blocks.0.to_q.weight\" in f has shape [3, 5], the configuration needs [5, 3]"
    );
    assert_eq!(
        weights.get("step", &[1]).expect_err("is an integer").to_string(),
        "tensor \"step\" in f is stored as I64, supported are floats of 8, 16 and 32 bits and GGUF's blocks"
    );
}

#[test]
fn shards_are_one_component() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let name = |i: usize| format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors");
    let index = |b: &str| {
        format!(
            r#"{{"metadata": {{"total_size": 8}}, "weight_map": {{"a": "{}", "{b}": "{}"}}}}"#,
            name(1),
            name(2)
        )
    };
    let (one, two) = (bytes(&[("a", &[1], DType::F32)]), bytes(&[("b", &[2], DType::F32)]));
    let index_name = "diffusion_pytorch_model.safetensors.index.json";
    let shards: [(&str, &[u8]); 2] = [(&name(1), &one), (&name(2), &two)];
    let folder = at(root.path(), &shards);
    assert!(matches!(open(&folder), Err(CheckpointError::MissingFile { .. })));

    at(root.path(), &[(index_name, index("b").as_bytes())]);
    let weights = open(&folder).expect("is complete");
    assert_eq!(weights.get("b", &[2]).expect("is there").to_vec1::<f32>().expect("f32"), [0.0, 0.37]);
    assert!(weights.place().ends_with("and 1 more"), "{}", weights.place());

    at(root.path(), &[(index_name, index("c").as_bytes())]);
    assert!(matches!(open(&folder), Err(CheckpointError::MissingTensor { name, .. }) if name == "c"));
    at(root.path(), &[(&name(2), &one), (index_name, index("b").as_bytes())]);
    assert!(matches!(open(&folder), Err(CheckpointError::DuplicateTensor { name, .. }) if name == "a"));
    fs::remove_file(root.path().join(name(2))).expect("can be removed");
    assert!(
        matches!(open(&folder), Err(CheckpointError::MissingFile { file, .. }) if file.ends_with(&name(2)))
    );
    at(root.path(), &[(index_name, br#"{"weight_map": {"a": "../a.safetensors"}}"#)]);
    assert!(matches!(open(&folder), Err(CheckpointError::OutsideFolder { .. })));
    at(root.path(), &[(index_name, b"[")]);
    assert!(matches!(open(&folder), Err(CheckpointError::Json { .. })));
}

#[test]
fn other_names_for_the_same_tensors() {
    let map = |name: &str| name.strip_prefix("blocks.").map(|rest| format!("layers.{rest}"));
    let weights = in_memory(WeightDtype::Keep).renamed(map).expect("no collisions");
    assert!(weights.get("layers.0.to_q.weight", &[3, 5]).is_ok() && weights.contains("patch"));
    let collides = in_memory(WeightDtype::Keep).renamed(|_| Some("x".into()));
    assert!(matches!(collides, Err(CheckpointError::DuplicateTensor { .. })));
    let shared = in_memory(WeightDtype::Keep);
    let _clone = shared.clone();
    assert!(matches!(shared.renamed(|_| None), Err(CheckpointError::BadConfig { .. })));
}

#[test]
fn rows_of_a_tensor_in_shares_and_in_another_order() {
    let file = || {
        let bytes = bytes(&[("a", &[6, 2], DType::BF16), ("b", &[3], DType::F32)]);
        Weights::from_bytes("f", bytes, &Device::Cpu, WeightDtype::Cast(DType::F32)).expect("is valid")
    };
    let read = |weights: &Weights, name: &str| {
        let shape = weights.shape(name).expect("is there").to_vec();
        let tensor = weights.get(name, &shape).expect("is readable");
        tensor.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32")
    };
    let only = |of: &'static str, mapped: Mapped| {
        move |name: &str| Some(if name == of { mapped.clone() } else { Mapped::Omitted })
    };
    let whole = read(&file(), "a");
    let shares = Mapped::Split(vec![("x".into(), 1), ("y".into(), 2)]);
    let parts = file().mapped(only("a", shares.clone())).expect("fits");
    assert_eq!((parts.shape("x"), parts.shape("y")), (Some([2, 2].as_slice()), Some([4, 2].as_slice())));
    assert_eq!([read(&parts, "x"), read(&parts, "y")].concat(), whole);
    let swapped = file().mapped(only("a", Mapped::Swapped("a".into()))).expect("fits");
    assert_eq!(read(&swapped, "a"), [&whole[6..], &whole[..6]].concat());
    let twice = swapped.mapped(only("a", Mapped::Swapped("a".into()))).expect("fits");
    assert_eq!(read(&twice, "a"), whole);

    let swapped = file().mapped(only("a", Mapped::Swapped("a".into()))).expect("fits");
    let refused = |result: Result<Weights, CheckpointError>, name: &str| {
        let message = result.expect_err(name).to_string();
        assert!(message.contains(name) && message.contains("does not fit its place"), "{message}");
    };
    refused(swapped.mapped(only("a", shares)), "\"a\" has shape [6, 2]");
    refused(file().mapped(only("b", Mapped::Swapped("b".into()))), "\"b\" has shape [3]");
    refused(file().mapped(only("a", Mapped::Split(vec![("x".into(), 4)]))), "\"a\"");
    refused(file().mapped(only("a", Mapped::Split(vec![("x".into(), 0)]))), "\"a\"");
    let message = parts.get("x", &[2, 3]).expect_err("another shape").to_string();
    assert!(message.contains("tensor \"x\" (in the file \"a\") in f has shape [2, 2]"), "{message}");
}

#[test]
fn a_file_that_is_cut_off_says_so() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let whole = two_blocks();
    let folder = at(root.path(), &[("model.safetensors", &whole[..whole.len() - 7])]);
    let message = open(&folder).expect_err("is cut off").to_string();
    let sizes = format!("got {} bytes, its header needs {}", whole.len() - 7, whole.len());
    assert!(message.contains(&sizes) && message.contains("model.safetensors"), "{message}");
    for empty in [&b""[..], &b"\0"[..]] {
        at(root.path(), &[("model.safetensors", empty)]);
        assert!(matches!(open(&folder), Err(CheckpointError::Truncated { expected: 8, .. })));
    }
}

proptest! {
    /// Damage anywhere is either noticed or changes values only.
    #[test]
    fn no_damaged_file_panics(at in 0usize..2000, byte in any::<u8>(), cut in 0usize..2000) {
        let mut file = two_blocks();
        let at = at % file.len();
        file[at] = byte;
        file.truncate(file.len() - cut % 3);
        if let Ok(weights) = Weights::from_bytes("f", file, &Device::Cpu, WeightDtype::Keep) {
            for name in weights.names() {
                let shape = weights.shape(name).unwrap_or_default().to_vec();
                let _ = weights.get(name, &shape);
            }
        }
    }
}
