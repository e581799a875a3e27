//! Loading takes the memory of the tensors alone, not of the tensors plus their file.
#![cfg(target_os = "linux")]

use std::{fs::File, io::Write};

use candle_core::{DType, Device, Tensor};
use magcache_models::checkpoint::{Folder, WeightDtype, Weights};

/// 24 bf16 tensors of 8 MiB.
const TENSORS: usize = 24;
const SHAPE: [usize; 2] = [2048, 2048];

/// Resident memory of this process in bytes: `VmRSS` is the current one, `VmHWM` the peak.
fn resident(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(key)).expect("has the key");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

/// Written piece by piece, so that this test itself does not determine the peak.
fn write(path: &std::path::Path) -> u64 {
    let bytes = SHAPE.iter().product::<usize>() * 2;
    let entries: Vec<String> = (0..TENSORS)
        .map(|i| {
            let (begin, end) = (i * bytes, (i + 1) * bytes);
            format!(
                r#""t{i}":{{"dtype":"BF16","shape":[{},{}],"data_offsets":[{begin},{end}]}}"#,
                SHAPE[0], SHAPE[1]
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = File::create(path).expect("can be made");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("can be written");
    file.write_all(header.as_bytes()).expect("can be written");
    let values = vec![0x3fu8; 1 << 20];
    for _ in 0..TENSORS * bytes / values.len() {
        file.write_all(&values).expect("can be written");
    }
    file.metadata().expect("exists").len()
}

#[test]
fn peak_while_loading_stays_near_the_file_size() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let size = write(&root.path().join("model.safetensors"));
    let before = resident("VmRSS");
    let folder = Folder::open(root.path()).expect("exists");
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("is valid");
    let tensors: Vec<Tensor> =
        (0..TENSORS).map(|i| weights.get(&format!("t{i}"), &SHAPE).expect("is there")).collect();
    assert!(tensors.iter().all(|t| t.dtype() == DType::BF16));
    let peak = resident("VmHWM") - before;
    assert!(peak > size, "the tensors themselves take {size} bytes, saw {peak}");
    assert!(peak as f64 <= 1.15 * size as f64, "{peak} bytes for a file of {size}");
}
