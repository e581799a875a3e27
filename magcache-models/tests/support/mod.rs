//! Fixtures, folders that a test may change, and comparisons.
#![allow(dead_code, reason = "every test target uses its own part")]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline::{Denoiser, Generation, Pipeline, Request},
};
use serde_json::{Value, json};

pub(crate) const DEVICE: Device = Device::Cpu;
pub(crate) const KEEP: WeightDtype = WeightDtype::Keep;

pub(crate) fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

/// An embedded model as a folder.
pub(crate) fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny").join(name)
}

/// The embedded text-to-video model as a folder.
pub(crate) fn tiny_folder() -> PathBuf {
    tiny("wan2.1-t2v-tiny")
}

pub(crate) fn folder(path: impl Into<PathBuf>) -> Folder {
    Folder::open(path).unwrap()
}

/// Copies a folder with all its contents over another.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::write(&to, fs::read(&from).unwrap()).unwrap();
        }
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Writes a safetensors file of bf16 zeros with these names and shapes; a hole in the file system takes no
/// disk space. Returns the bytes of the tensors.
pub(crate) fn write_hollow(path: &Path, tensors: &[(String, Vec<usize>)]) -> u64 {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end as u64
}

/// Bounded values that differ everywhere.
pub(crate) fn waves(shape: &[usize], step: f32) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * step).sin()).collect();
    Tensor::from_vec(values, shape, &DEVICE).unwrap()
}

pub(crate) fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn bits(x: &Tensor) -> Vec<u32> {
    values(x).into_iter().map(f32::to_bits).collect()
}

/// The largest difference.
pub(crate) fn worst(ours: &Tensor, theirs: &Tensor) -> f32 {
    assert_eq!(ours.dims(), theirs.dims());
    (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Asserts that both have the same tensors with the same types.
pub(crate) fn assert_same(what: &str, ours: &Weights, native: &Weights) {
    let names: Vec<&str> = ours.names().collect();
    assert_eq!(native.names().collect::<Vec<_>>(), names, "{what}");
    for name in names {
        let shape = ours.shape(name).unwrap().to_vec();
        let (ours, native) = (ours.get(name, &shape).unwrap(), native.get(name, &shape).unwrap());
        assert_eq!(native.dtype(), ours.dtype(), "{what}: {name}");
        assert_eq!(bits(&native), bits(&ours), "{what}: {name}");
    }
}

/// The last latents of a run without caches.
pub(crate) fn run(pipeline: &dyn Pipeline, request: &Request) -> Tensor {
    pipeline.check(request).unwrap();
    run_with(pipeline.denoiser(request, &|_| {}, &mut Vec::new()).unwrap(), pipeline, request)
}

/// The same with a denoiser that is there.
pub(crate) fn run_with(denoiser: Arc<dyn Denoiser>, pipeline: &dyn Pipeline, request: &Request) -> Tensor {
    let (sampler, noise) = (pipeline.sampler(request).unwrap(), pipeline.noise(request).unwrap());
    let trajectory = pipeline.trajectory(request).unwrap();
    let mut run = Generation::new(denoiser, trajectory, sampler, &noise, &Arc::default()).unwrap();
    run.run(&|| false, &mut |_| {}).unwrap();
    run.latents().clone()
}
