//! Parts of adapters for text encoders, and numbers that are damaged.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};

use super::{Adapter, AdapterNames, AdapterReport, Part};
use crate::{CheckpointError, Matrix, WeightDtype, Weights};

const FLUX: AdapterNames =
    AdapterNames { family: "FLUX", tables: &[], part: Part::Network, encoders: &[Part::Clip, Part::T5] };
const WAN: AdapterNames = AdapterNames { family: "Wan", encoders: &[Part::T5], ..FLUX };

type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];

fn bytes(tensors: Tensors<'_>) -> Vec<u8> {
    let all: HashMap<_, _> = tensors
        .iter()
        .map(|(name, shape, values)| {
            (*name, Tensor::from_vec(values.to_vec(), *shape, &Device::Cpu).expect("fits"))
        })
        .collect();
    safetensors::serialize(&all, None).expect("can be written")
}

fn model(tensors: Tensors<'_>) -> Weights {
    Weights::from_bytes("model", bytes(tensors), &Device::Cpu, WeightDtype::Keep).expect("is one")
}

fn adapter(root: &Path, tensors: Tensors<'_>) -> Vec<Adapter> {
    let path = root.join("a.safetensors");
    fs::write(&path, bytes(tensors)).expect("can be written");
    vec![Adapter { path, folder: None, strength: 0.5, skip_unknown: false }]
}

fn values(weights: &Weights, name: &str, shape: &[usize]) -> Vec<f32> {
    let tensor = weights.get_f32(name, shape).and_then(|tensor| Ok(tensor.flatten_all()?.to_vec1()?));
    tensor.expect("is there")
}

/// `[2, 2]`, rank 1: alpha 3, so that half of it is `1.5 up down`.
const OF_CLIP: Tensors<'static> = &[
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha", &[], &[3.0]),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", &[1, 2], &[1.0, 2.0]),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", &[2, 1], &[4.0, -2.0]),
    ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", &[1, 2], &[1.0, 0.0]),
    ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight", &[2, 1], &[0.0, 8.0]),
    ("transformer.blocks.0.q.lora_A.weight", &[1, 2], &[1.0, 1.0]),
    ("transformer.blocks.0.q.lora_B.weight", &[2, 1], &[1.0, 1.0]),
];

#[test]
fn parts_for_text_encoders_are_applied_to_them() {
    let root = tempfile::tempdir().expect("a folder");
    let file = adapter(root.path(), OF_CLIP);
    let base: &[f32] = &[1.0, 1.0, 1.0, 1.0];
    for name in
        ["text_model.encoder.layers.0.self_attn.q_proj.weight", "encoder.layers.0.self_attn.q_proj.weight"]
    {
        let clip = model(&[(name, &[2, 2], base)]);
        let (clip, reports) = clip.adapted(&file, &FLUX.of(Part::Clip), 0).expect("fits");
        assert_eq!(values(&clip, name, &[2, 2]), [7.0, 13.0, -2.0, -5.0], "1 + 0.5 * 3 * up * down");
        let [AdapterReport { part, pairs, scales, .. }] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((*part, *pairs, *scales), (Part::Clip, 1, Some((3.0, 3.0))));
    }
    let name = "encoder.block.0.layer.0.SelfAttention.q.weight";
    let (t5, _) = model(&[(name, &[2, 2], base)]).adapted(&file, &FLUX.of(Part::T5), 0).expect("fits");
    assert_eq!(values(&t5, name, &[2, 2]), [1.0, 1.0, 5.0, 1.0]);
    // The network gets its own part, and knows of the others.
    let network = || model(&[("blocks.0.q.weight", &[2, 2], base)]);
    let (flux, reports) = network().adapted(&file, &FLUX, 0).expect("fits");
    assert_eq!(values(&flux, "blocks.0.q.weight", &[2, 2]), [1.5; 4]);
    assert_eq!((reports[0].of_encoders, reports[0].warnings().len()), (0, 0));
    // A model without CLIP says how many tensors are left out.
    let (_, reports) = network().adapted(&file, &WAN, 0).expect("fits");
    assert_eq!(reports[0].of_encoders, 3);
    assert!(reports[0].warnings()[0].contains("3 tensors for text encoders that this model does not have"));
}

#[test]
fn a_part_without_a_place_in_its_encoder_is_an_error_or_left_out() {
    let root = tempfile::tempdir().expect("a folder");
    let mut file = adapter(root.path(), OF_CLIP);
    let clip = || model(&[("text_model.encoder.layers.0.mlp.fc1.weight", &[2, 2], &[0.0; 4])]);
    let error = clip().adapted(&file, &FLUX.of(Part::Clip), 0).expect_err("no such module").to_string();
    let named = "3 of its 7 tensors have no place in its text encoder CLIP: \"lora_te1_text_model_";
    assert!(error.contains(named), "{error}");
    file[0].skip_unknown = true;
    let (_, reports) = clip().adapted(&file, &FLUX.of(Part::Clip), 0).expect("is left out");
    assert_eq!(reports[0].skipped.len(), 3);
    // Nothing for an encoder is no report.
    let own = &OF_CLIP[5..];
    let file = adapter(root.path(), own);
    assert!(clip().adapted(&file, &FLUX.of(Part::Clip), 0).expect("nothing to do").1.is_empty());
}

#[test]
fn damaged_numbers_are_told_with_their_tensor() {
    let root = tempfile::tempdir().expect("a folder");
    let with = |up: f32, down: f32| {
        let (up, down) = ([up, 1.0], [1.0, down]);
        let pair: Tensors<'_> = &[("q.lora_A.weight", &[1, 2], &down), ("q.lora_B.weight", &[2, 1], &up)];
        let file = adapter(root.path(), pair);
        let base = model(&[("q.weight", &[2, 2], &[0.0; 4])]);
        let weights = base.adapted(&file, &FLUX, 0)?.0;
        weights.get_f32("q.weight", &[2, 2]).map(|_| ())
    };
    assert!(with(1.0, 2.0).is_ok());
    let error = with(1.0, f32::NAN).expect_err("is no number");
    let CheckpointError::NotFinite { name, file, at, .. } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), *at), ("q.lora_A.weight", 1));
    assert!(file.ends_with("a.safetensors"), "{file}");
    let error = with(1e15, 1e15).expect_err("is too large").to_string();
    assert!(error.contains("\"q.lora_A.weight\" and \"q.lora_B.weight\" multiply to"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_told_when_it_is_read() {
    let weights = model(&[("a", &[3], &[1.0, f32::INFINITY, f32::NAN]), ("b", &[1], &[2.0])]);
    assert!(weights.get("b", &[1]).is_ok());
    let error = weights.get("a", &[3]).expect_err("is infinite").to_string();
    assert_eq!(error, "tensor \"a\" in model is not finite or far too large: inf at position 1");
    assert!(weights.check_finite().is_err() && weights.pp("b").check_finite().is_ok());
    assert!(model(&[("a", &[1], &[1e30])]).get("a", &[1]).is_err(), "its square is infinite");
}

/// A matrix of eight-bit floats, and its scale in another file.
fn fp8(name: &str, dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header =
        format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#, data.len());
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_scale_may_be_in_another_shard_than_its_weight() {
    let root = tempfile::tempdir().expect("a folder");
    let write = |file: &str, bytes: &[u8]| fs::write(root.path().join(file), bytes).expect("can be written");
    // 1.0 and 2.0 are 0x38 and 0x40.
    write("1.safetensors", &fp8("q.weight", "F8_E4M3", "[2,1]", &[0x38, 0x40]));
    write("2.safetensors", &fp8("q.weight_scale", "F32", "[]", &3f32.to_le_bytes()));
    let index = r#"{"weight_map":{"q.weight":"1.safetensors","q.weight_scale":"2.safetensors"}}"#;
    write("model.safetensors.index.json", index.as_bytes());
    let folder = crate::Folder::open(root.path()).expect("exists");
    let open = |files: &[&str]| Weights::open_files(&folder, files, &Device::Cpu, WeightDtype::Keep);
    let whole = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("both shards");
    for weights in [whole, open(&["2.safetensors", "1.safetensors"]).expect("in any order")] {
        assert_eq!(values(&weights, "q.weight", &[2, 1]), [3.0, 6.0]);
        let Matrix::Coded(matrix) = weights.matrix("q.weight", [2, 1]).expect("is there") else {
            panic!("it is coded")
        };
        let decoded = matrix.to_tensor().and_then(|values| values.flatten_all()?.to_vec1::<f32>());
        assert_eq!(decoded.expect("two values"), [3.0, 6.0]);
        assert!(!weights.contains("q.weight_scale"));
    }
    let error = open(&["2.safetensors"]).expect_err("no weight").to_string();
    assert!(error.contains("is the scale of a tensor that is not there, \"q.weight\""), "{error}");
    // A code that is no number is found where it is decoded only for products.
    write("1.safetensors", &fp8("q.weight", "F8_E4M3", "[2,1]", &[0x38, 0x7f]));
    let weights = open(&["1.safetensors"]).expect("no value is read");
    assert!(weights.matrix("q.weight", [2, 1]).is_ok());
    let error = weights.check_finite().expect_err("is no number").to_string();
    assert!(error.ends_with("is not finite or far too large: NaN at position 1"), "{error}");
}
