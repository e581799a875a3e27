//! The operations of a transformer's forward, at the shapes of small models and of a Wan 1.3B block.
//!
//! `cargo bench -p magcache-nn --bench kernels -- attention`

use std::{hint::black_box, time::Duration};

use candle_core::{DType, Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use magcache_checkpoint::{Ops, WeightDtype, Weights};
use magcache_nn::{
    Conv3d, Conv3dConfig, Linear, RmsNorm, RotaryTable, attention, attention_with_bias, gated_add, gelu_tanh,
    layer_norm_modulate, rms_norm_rotary, silu,
};

/// As in the program: see there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("it fits in memory")
}

fn linears(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (rows, inputs, outputs) in [
        (512, 256, 256),
        (512, 256, 1024),
        (512, 1024, 256),
        (1024, 512, 512),
        (1024, 512, 2048),
        (1024, 2048, 512),
        (1024, 1536, 1536),
        (1024, 1536, 8960),
        (1024, 8960, 1536),
    ] {
        let layer =
            Linear::new(Ops::Kernels, random(&[outputs, inputs]), Some(random(&[outputs]))).expect("it fits");
        let x = random(&[1, rows, inputs]);
        group.throughput(Throughput::Elements((2 * rows * inputs * outputs) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{inputs}x{outputs}")), |b| {
            b.iter(|| layer.forward(black_box(&x)));
        });
    }
    // Fused follow-ups against the product alone.
    let (tokens, width, hidden) = (1024, 512, 2048);
    let (wide, square) = (
        Linear::new(Ops::Kernels, random(&[hidden, width]), Some(random(&[hidden]))).expect("it fits"),
        Linear::new(Ops::Kernels, random(&[width, width]), Some(random(&[width]))).expect("it fits"),
    );
    let (x, residual, gate) =
        (random(&[1, tokens, width]), random(&[1, tokens, width]), random(&[1, 1, width]));
    let norm =
        RmsNorm::new(Ops::Kernels, Tensor::ones(width, DType::F32, &Device::Cpu).expect("it fits"), 1e-6);
    let angles = vec![0.5f32; tokens * 64];
    let table = RotaryTable::new(angles.clone(), &angles, tokens, &Device::Cpu).expect("it fits");
    let mut one = |name: &str, outputs: usize, op: &dyn Fn() -> Result<Tensor>| {
        group.throughput(Throughput::Elements((2 * tokens * width * outputs) as u64));
        group.bench_function(BenchmarkId::new(name, format!("{tokens}x{width}x{outputs}")), |b| b.iter(op));
    };
    one("gelu", hidden, &|| wide.forward_gelu_tanh(&x));
    one("gated_add", width, &|| square.forward_gated_add(&x, &residual, &gate));
    one("rms_norm_rotary", width, &|| square.forward_rms_norm_rotary(&x, &norm, &table));
    group.finish();
}

fn attentions(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (tokens, keys, heads, head_dim) in [
        (512, 512, 8, 32),
        (1024, 1024, 8, 32),
        (1024, 1024, 4, 128),
        (1024, 1024, 12, 128),
        (1024, 512, 12, 128),
    ] {
        let (q, k) = (random(&[1, tokens, heads * head_dim]), random(&[1, keys, heads * head_dim]));
        let v = random(&[1, keys, heads * head_dim]);
        group.throughput(Throughput::Elements((4 * tokens * keys * heads * head_dim) as u64));
        let name = format!("{tokens} x {keys}, {heads} heads of {head_dim}");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| attention(Ops::Kernels, black_box(&q), black_box(&k), black_box(&v), heads));
        });
    }
    // UMT5: a bias for every pair of tokens.
    let (x, bias) = (random(&[1, 128, 512]), random(&[1, 8, 128, 128]));
    group.throughput(Throughput::Elements(4 * 128 * 128 * 512));
    group.bench_function("128 x 128, 8 heads of 64, with a bias", |b| {
        b.iter(|| attention_with_bias(Ops::Kernels, black_box(&x), &x, &x, 8, 1.0, black_box(&bias)));
    });
    group.finish();
}

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv3d");
    let config = Conv3dConfig { kernel: [3; 3], stride: [1; 3], padding: [(2, 0), (1, 1), (1, 1)] };
    for (channels, frames, side) in [(96, 4, 64), (384, 1, 32), (192, 1, 96), (32, 4, 128)] {
        let weight = random(&[channels, channels, 3, 3, 3]);
        let tensors = [("weight", weight), ("bias", random(&[channels]))];
        let file = safetensors::serialize(tensors, None).expect("two tensors");
        let weights = Weights::from_bytes("bench", file, &Device::Cpu, WeightDtype::Keep).expect("a file");
        let conv = Conv3d::load(&weights, channels, channels, config).expect("it fits");
        let x = random(&[1, frames, side, side, channels]);
        group.throughput(Throughput::Elements((2 * 27 * frames * side * side * channels * channels) as u64));
        let name = format!("{channels} channels, {frames} frames of {side}x{side}");
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| conv.forward(black_box(&x))));
    }
    group.finish();
}

/// Each is one pass over the hidden states: `Throughput` is that of reading them.
fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    for (tokens, channels, hidden, head_dim) in [(512, 256, 1024, 32), (1024, 1536, 8960, 128)] {
        let (x, y) = (random(&[1, tokens, channels]), random(&[1, tokens, channels]));
        let wide = random(&[1, tokens, hidden]);
        let [shift, scale, gate] = [(); 3].map(|()| random(&[1, 1, channels]));
        let angles = vec![0.5f32; tokens * head_dim / 2];
        let table = RotaryTable::new(angles.clone(), &angles, tokens, &Device::Cpu).expect("it fits");
        let weight = Tensor::ones(channels, DType::F32, &Device::Cpu).expect("it fits");
        let mut one = |name: &str, values: usize, op: &dyn Fn() -> Result<Tensor>| {
            group.throughput(Throughput::Bytes(4 * (tokens * values) as u64));
            group.bench_function(BenchmarkId::new(name, format!("{tokens}x{values}")), |b| b.iter(op));
        };
        one("layer_norm_modulate", channels, &|| layer_norm_modulate(Ops::Kernels, &x, &shift, &scale, 1e-6));
        one("rms_norm_rotary", channels, &|| rms_norm_rotary(Ops::Kernels, &x, &weight, &table, 1e-6));
        one("gated_add", channels, &|| gated_add(Ops::Kernels, &x, &y, &gate));
        one("gelu_tanh", hidden, &|| gelu_tanh(Ops::Kernels, &wide));
        one("silu", hidden, &|| silu(Ops::Kernels, &wide));
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = quick();
    targets = linears, attentions, convolutions, rows
}
criterion_main!(benches);
