//! Weights that are decoded when they are needed give what decoded weights give, in every number format, with
//! adapters beside them and without.

#[path = "support/gguf.rs"]
mod gguf;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use gguf::{Numbers, Stored, TYPES};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{Adapter, CheckpointError, Folder, Matrix, WeightDtype, Weights},
    pipeline::{GivenFiles, Noise, noise_of},
    wan::{WanSource, WanTransformer, names, open_transformer},
};

const KEEP: WeightDtype = WeightDtype::Keep;
const F32: WeightDtype = WeightDtype::Cast(DType::F32);

/// A Wan transformer of two blocks with matrices in one format.
fn write(path: &Path, kind: &str) {
    let tensors = gguf::wan([256, 512, 2, 16], &mut Numbers(3), |name, shape, numbers| {
        Stored::blocks(kind, name, shape, numbers)
    });
    fs::write(path, gguf::file("wan", &tensors)).unwrap();
}

fn factor(shape: [usize; 2], seed: u64) -> Tensor {
    let mut numbers = Numbers(seed);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.2 * numbers.float()).collect();
    Tensor::from_vec(values, shape.to_vec(), &Device::Cpu).unwrap()
}

/// An adapter of two layers, one of which other layers surround with more in the same pass.
fn adapter(path: &Path, seed: u64) -> Adapter {
    let module = |name: &str, rank: usize, [outputs, inputs]: [usize; 2]| {
        let key = |end: &str| format!("diffusion_model.blocks.1.{name}.lora_{end}.weight");
        [(key("down"), factor([rank, inputs], seed)), (key("up"), factor([outputs, rank], seed + 1))]
    };
    let tensors: HashMap<_, _> = [module("self_attn.q", 4, [256, 256]), module("ffn.0", 3, [512, 256])]
        .into_iter()
        .flatten()
        .collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
    Adapter { path: path.to_owned(), folder: None, strength: 0.7, skip_unknown: false }
}

fn open(folder: &Folder, dtype: WeightDtype, adapters: &[Adapter]) -> (WanTransformer, Weights) {
    let (config, weights) = open_transformer(folder, "m.gguf", &Device::Cpu, dtype).unwrap();
    let (weights, _) = weights.adapted(adapters, &names::ADAPTER, 0).unwrap();
    (WanTransformer::load(&weights, config).unwrap(), weights)
}

fn predict(network: &WanTransformer) -> Vec<f32> {
    let waves = |shape: &[usize], step: f64| {
        let values = (0..shape.iter().product::<usize>()).map(|i| (step * i as f64).sin() as f32);
        Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(shape).unwrap()
    };
    let context = network.text_context(&waves(&[1, 7, 4096], 0.31)).unwrap();
    let (x, t) = (waves(&[1, 16, 1, 8, 12], 0.17), Tensor::new(&[400f32], &Device::Cpu).unwrap());
    let y = network.forward(&x, &t, &context, &mut Pass::off()).unwrap();
    y.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    let largest = b.iter().fold(0f32, |most, value| most.max(value.abs()));
    let error = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(largest > 0.01 && error <= 1e-5 * largest, "{what}: {error} of {largest}");
}

#[test]
fn every_format_gives_the_same_decoded_once_or_for_each_product() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let one = adapter(&root.path().join("a.safetensors"), 11);
    for (kind, ..) in TYPES {
        write(&root.path().join("m.gguf"), kind);
        let (once, _) = open(&folder, F32, &[]);
        let (late, weights) = open(&folder, KEEP, &[]);
        let matrix = weights.matrix("blocks.0.attn1.to_q.weight", [256, 256]).unwrap();
        assert!(matches!(matrix, Matrix::Coded(_)), "{kind} was decoded");
        assert_eq!(weights.number_formats(), format!("gguf {kind}"));
        let plain = predict(&once);
        close(kind, &predict(&late), &plain);
        let (fused, beside) = (
            open(&folder, F32, std::slice::from_ref(&one)).0,
            open(&folder, KEEP, std::slice::from_ref(&one)).0,
        );
        let changed = predict(&fused);
        assert_ne!(changed, plain);
        close(&format!("{kind} with an adapter"), &predict(&beside), &changed);
    }
}

#[test]
fn adapters_commute_and_one_without_strength_is_none() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    write(&root.path().join("m.gguf"), "Q5_0");
    let [a, b] = [("a.safetensors", 11), ("b.safetensors", 29)]
        .map(|(name, seed)| adapter(&root.path().join(name), seed));
    for dtype in [F32, KEEP] {
        let of = |adapters: &[&Adapter]| {
            let adapters: Vec<Adapter> = adapters.iter().map(|adapter| (*adapter).clone()).collect();
            predict(&open(&folder, dtype, &adapters).0)
        };
        assert_eq!(of(&[&a, &b]), of(&[&b, &a]));
        let off = Adapter { strength: 0.0, ..a.clone() };
        assert_eq!(of(&[&off]), of(&[]));
        let (half, back) = (Adapter { strength: 0.35, ..a.clone() }, Adapter { strength: -0.7, ..a.clone() });
        assert_eq!(of(&[&half, &half]), of(&[&a]), "strengths of one file add up");
        assert_eq!(of(&[&a, &back]), of(&[]));
    }
}

#[test]
fn a_module_from_the_line_of_its_bytes_is_that_of_the_file() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let one = adapter(&root.path().join("a.safetensors"), 11);
    for (kind, ..) in TYPES {
        write(&root.path().join("m.gguf"), kind);
        for (dtype, adapters) in [(KEEP, vec![]), (KEEP, vec![one.clone()]), (F32, vec![one.clone()])] {
            let (_, weights) = open(&folder, dtype, &adapters);
            let own = weights.pp("blocks").pp(1);
            let flat = own.flat();
            let stored: usize = own.names().map(|name| weights.bytes(name).unwrap().len()).sum();
            assert_eq!(flat.len(), stored, "every byte once");
            // In three parts of uneven length, as ranks have them.
            let (a, b) = (flat.len() / 3, flat.len() / 2 + 1);
            let line = [flat.read(0..a), flat.read(a..b), flat.read(b..flat.len())].concat();
            let again = flat.tensors(line);
            assert_eq!(again.names().collect::<Vec<_>>(), own.names().collect::<Vec<_>>());
            for (name, shape) in [("attn1.to_q.weight", [256, 256]), ("ffn.net.0.proj.weight", [512, 256])] {
                let rows = |weights: &Weights| {
                    let matrix = weights.matrix(name, shape).unwrap();
                    matrix.select((0..shape[0] as u32).collect()).unwrap().to_vec2::<f32>().unwrap()
                };
                assert_eq!(rows(&again), rows(&own), "{kind}, {name}");
            }
            let table = |weights: &Weights| weights.get_f32("scale_shift_table", &[1, 6, 256]).unwrap();
            let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(table(&again)), values(table(&own)));
        }
    }
}

#[test]
fn what_is_read_later_counts_as_read_if_it_is_like_what_was() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("m.gguf"), "Q5_0");
    let folder = Folder::open(root.path()).unwrap();
    let (_, weights) = open_transformer(&folder, "m.gguf", &Device::Cpu, KEEP).unwrap();
    let blocks = weights.pp("blocks");
    blocks.pp(0).matrix("attn1.to_q.weight", [256, 256]).unwrap();
    let before = blocks.pp(1).unused().len();
    assert!(blocks.pp(1).read_like(&blocks.pp(0)));
    assert_eq!(blocks.pp(1).unused().len(), before - 1);
    assert!(!weights.pp("condition_embedder").read_like(&blocks.pp(0)), "it has no such tensor");
}

#[test]
fn two_experts_are_told_apart_by_names_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        let path = root.path().join(name);
        write(&path, "Q8_0");
        path
    };
    let [high, low, other] = ["a_high_noise.gguf", "a_low_noise.gguf", "plain.gguf"].map(put);
    let given = |first: &Path, second: Option<&Path>| {
        let (transformer, transformer_2) = (Some(first.to_owned()), second.map(Path::to_owned));
        let files = GivenFiles { transformer, transformer_2, ..GivenFiles::default() };
        let nowhere = Folder::embedded("nowhere", &[]);
        WanSource::open_with(nowhere, &files).expect_err("has no text encoder at least").to_string()
    };
    assert_eq!(
        (noise_of(&high), noise_of(&low), noise_of(&other)),
        (Some(Noise::High), Some(Noise::Low), None)
    );
    assert!(given(&low, Some(&high)).contains("its name says high noise, that of the first expert"));
    assert!(given(&high, None).contains("the model's second expert is missing"));
    assert!(given(&high, Some(&low)).contains("the model's text encoder is missing"));
    assert!(given(&other, None).contains("the model's text encoder is missing"));
    // In a folder, names decide; two files that say nothing are a question.
    let folder = |names: &[&str]| {
        let own = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| write(&own.path().join(name), "Q8_0"));
        (GivenFiles::in_folder(&Folder::open(own.path()).unwrap()), own)
    };
    let (found, own) = folder(&["x_LOW.gguf", "x_HIGH.gguf"]);
    assert_eq!(found.unwrap().transformer, Some(own.path().join("x_HIGH.gguf")));
    let (found, _own) = folder(&["x.gguf", "y.gguf"]);
    let error = found.unwrap_err();
    assert!(matches!(&error, CheckpointError::Config { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--transformer-2 FILE"), "{error}");
}

#[test]
fn codes_on_a_device_give_what_the_cpu_decodes() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let one = adapter(&root.path().join("a.safetensors"), 11);
    let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (kind, ..) in TYPES {
        write(&root.path().join("m.gguf"), kind);
        let (_, weights) = open(&folder, KEEP, std::slice::from_ref(&one));
        for name in ["blocks.0.attn1.to_q", "blocks.1.attn1.to_q"] {
            let matrix = weights.matrix(&format!("{name}.weight"), [256, 256]).unwrap();
            let Matrix::Coded(coded) = &matrix else { panic!("{kind} was decoded") };
            let moved = coded.on_device().unwrap().expect("candle decodes it");
            assert_eq!((moved.dims(), moved.down().is_some()), ((256, 256), name.starts_with("blocks.1")));
            let (ours, candle) = (coded.to_tensor().unwrap(), moved.decode(DType::F32).unwrap());
            assert_eq!(ours.dims(), candle.dims());
            let (ours, candle) = (values(ours), values(candle));
            let largest = ours.iter().fold(0f32, |most, value| most.max(value.abs()));
            for (a, b) in ours.iter().zip(&candle) {
                assert!((a - b).abs() <= 1e-6 * largest, "{kind} {name}: {a} {b}");
            }
            let half = moved.decode(DType::BF16).unwrap();
            assert_eq!(half.dtype(), DType::BF16);
        }
    }
}

/// Rows of 48 values in blocks of 32, as files hold them that state the shape of a tensor beside it.
#[test]
fn a_matrix_whose_blocks_reach_from_one_row_into_the_next_is_read_whole() {
    let folder = Folder::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tiny/tiny-flux/vae")).unwrap();
    let weights = Weights::open(&folder, &Device::Cpu, KEEP).unwrap();
    let name = "decoder.mid_block.attentions.0.to_q.weight";
    let whole = weights.get_f32(name, &[48, 48]).unwrap();
    let rows = weights.matrix(name, [48, 48]).unwrap().select((0..48).collect()).unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&rows), values(&whole));
}
