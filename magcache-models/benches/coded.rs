//! One block of Wan 1.3B at 1,024 tokens with weights that stay quantised, against the same weights in f32,
//! in turns.
//!
//! `cargo bench -p magcache-models --bench coded`

#[path = "../tests/support/gguf.rs"]
mod gguf;

use std::{fs, time::Instant};

use candle_core::{DType, Device, Tensor};
use gguf::{Numbers, Stored};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{Folder, WeightDtype},
    wan::{WanTransformer, open_transformer},
};

/// As in the program: see there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KINDS: [&str; 5] = ["Q8_0", "Q6_K", "Q4_K", "Q4_0", "Q2_K"];
const ROUNDS: usize = 9;

fn main() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(root.path()).expect("exists");
    let (x, text) = (random(&[1, 16, 1, 64, 64]), random(&[1, 512, 4096]));
    let timestep = Tensor::new(&[700f32], &Device::Cpu).expect("fits");
    println!("type   f32 ms   coded ms   ratio");
    for kind in KINDS {
        let mut numbers = Numbers(7);
        let tensors = gguf::wan([1536, 8960, 1, 16], &mut numbers, |name, shape, numbers| {
            Stored::blocks(kind, name, shape, numbers)
        });
        fs::write(root.path().join("m.gguf"), gguf::file("wan", &tensors)).expect("can be written");
        let networks = [WeightDtype::Cast(DType::F32), WeightDtype::Keep].map(|dtype| {
            let (config, weights) = open_transformer(&folder, "m.gguf", &Device::Cpu, dtype).expect("is one");
            let network = WanTransformer::load(&weights, config).expect("loads");
            let context = network.text_context(&text).expect("fits");
            (network, context)
        });
        let mut times = [const { Vec::new() }; 2];
        let mut outputs = Vec::new();
        for round in 0..=ROUNDS {
            for (i, (network, context)) in networks.iter().enumerate() {
                let start = Instant::now();
                let y = network.forward(&x, &timestep, context, &mut Pass::off()).expect("runs");
                // The first round computes what later ones keep.
                if round > 0 {
                    times[i].push(start.elapsed().as_secs_f64() * 1e3);
                } else {
                    outputs.push(y);
                }
            }
        }
        let differ =
            (&outputs[0] - &outputs[1]).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("f32");
        let [plain, coded] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("{kind:5} {plain:8.1} {coded:10.1} {:7.3}   (outputs differ by {differ:e})", coded / plain);
    }
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("it fits in memory")
}
