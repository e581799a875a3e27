//! The peak performance of the machine: the yardstick for kernels.

use std::{hint::black_box, time::Instant};

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::metrics;
use pulp::{Arch, Simd, WithSimd};
use serde_json::json;

use crate::{compare::estimate::Spread, console::Console, timing::measure};

/// Number of values in a tensor of 16 MB.
const VALUES: usize = 4 << 20;

/// Measures peak FLOP/s, memory bandwidth and the caches' metric, in turns.
pub(super) fn run(repeat: usize, out: &Console) -> Result<()> {
    let threads = rayon::current_num_threads();
    let random = || Tensor::randn(0f32, 1f32, (1, VALUES / 1024, 1024), &Device::Cpu);
    let (a, b) = (random()?, random()?);
    #[expect(clippy::disallowed_methods, reason = "plain memory is what is measured")]
    let values: [Vec<f32>; 2] = [a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?];
    let (mut peak, mut read, mut metric) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeat.max(1) {
        let start = Instant::now();
        let done: f64 = rayon::broadcast(|_| Arch::new().dispatch(Fma)).into_iter().sum();
        peak.push(done / start.elapsed().as_secs_f64() / 1e9);
        read.push(
            measure(&Device::Cpu, 3, || {
                rayon::broadcast(|thread| {
                    for values in &values {
                        let length = values.len() / threads;
                        black_box(Arch::new().dispatch(Sum(&values[thread.index() * length..][..length])));
                    }
                });
                Ok(())
            })?
            .median,
        );
        metric.push(
            measure(&Device::Cpu, 3, || {
                black_box(metrics::relative_l1(&a, &b)?);
                Ok(())
            })?
            .median,
        );
    }
    // The peak is the fastest round, the one with the least disturbance.
    let gflops = Spread::of(peak).max;
    let (read, metric) = (Spread::of(read).median, Spread::of(metric).median);
    let rate = 8e-6 * VALUES as f64 / read;
    let text = format!(
        "{threads} threads, f32\n  multiply-add peak      {gflops:>8.0} GFLOP/s\n  reading two 16 MB tensors {read:>5.2} ms, {rate:.1} GB/s\n  \
         their relative L1         {metric:>5.2} ms, {:.2} of that",
        metric / read,
    );
    out.answer(
        &text,
        &json!({
            "threads": threads, "peak_gflops": gflops, "read_ms": read, "read_gb_per_s": rate,
            "relative_l1_ms": metric, "relative_l1_of_read": metric / read,
        }),
    );
    Ok(())
}

/// Multiplications and additions on registers only.
struct Fma;

impl Fma {
    /// Enough chains to keep two units with a latency of four to five cycles busy.
    const CHAINS: usize = 12;
    const ROUNDS: usize = 1 << 20;
}

impl WithSimd for Fma {
    /// Floating-point operations performed.
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (x, y) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut chains = [y; Self::CHAINS];
        for _ in 0..Self::ROUNDS {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, x, y);
            }
        }
        black_box(chains);
        (2 * Self::CHAINS * Self::ROUNDS * S::F32_LANES) as f64
    }
}

/// Reads every value once.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat_f32s(0.0); 8];
        let (groups, _) = S::as_simd_f32s(self.0).0.as_chunks::<8>();
        for group in groups {
            for (sum, x) in sums.iter_mut().zip(group) {
                *sum = simd.add_f32s(*sum, *x);
            }
        }
        sums.into_iter().map(|sum| simd.reduce_sum_f32s(sum)).sum()
    }
}
