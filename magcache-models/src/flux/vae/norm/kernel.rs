//! The norm on the CPU, in f32 around statistics in f64.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape};
use rayon::prelude::*;

use super::EPS;
use crate::nn::cpu;

/// Pixels of which sums are taken in f32; the sums are added in f64.
pub(super) const PIXELS: usize = 128;

/// The norm in one pass over the values beside those for its statistics.
pub(super) struct NormOp {
    pub(super) groups: usize,
    pub(super) silu: bool,
}

/// Count, mean and sum of squared distances from it.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of both sets of values together (Chan, Golub and `LeVeque`, 1979).
    fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let (distance, share) = (other.mean - self.mean, other.count / count);
        Self {
            count,
            mean: self.mean + distance * share,
            squares: self.squares + other.squares + distance * distance * self.count * share,
        }
    }

    fn deviation(self) -> f64 {
        (self.squares / self.count + EPS).sqrt()
    }
}

impl NormOp {
    /// Moments of every group in one sample.
    fn moments(&self, x: &[f32], channels: usize) -> Vec<Moments> {
        let part = cpu::rows_per_task(channels).min(PIXELS) * channels;
        let parts: Vec<Vec<Moments>> =
            x.par_chunks(part).map(|pixels| self.moments_of_few(pixels, channels)).collect();
        let mut groups = vec![Moments::default(); self.groups];
        for part in parts {
            for (group, part) in groups.iter_mut().zip(part) {
                *group = group.with(part);
            }
        }
        groups
    }

    /// Moments of every group in at most [`PIXELS`] pixels, around a first mean that may be inexact: the sum of the
    /// distances from it says by how much.
    fn moments_of_few(&self, pixels: &[f32], channels: usize) -> Vec<Moments> {
        let width = channels / self.groups;
        let count = (pixels.len() / self.groups) as f64;
        let by_group = |sums: &[f32]| -> Vec<f64> {
            sums.chunks_exact(width).map(|group| group.iter().copied().map(f64::from).sum()).collect()
        };
        let (mut sums, mut squares) = (vec![0f32; channels], vec![0f32; channels]);
        cpu::vectorized(|| {
            for pixel in pixels.chunks_exact(channels) {
                for (sum, x) in sums.iter_mut().zip(pixel) {
                    *sum += x;
                }
            }
        });
        let means: Vec<f32> = by_group(&sums).into_iter().map(|sum| (sum / count) as f32).collect();
        let centres: Vec<f32> = means.iter().flat_map(|mean| std::iter::repeat_n(*mean, width)).collect();
        sums.fill(0.0);
        cpu::vectorized(|| {
            for pixel in pixels.chunks_exact(channels) {
                for (((sum, square), x), centre) in sums.iter_mut().zip(&mut squares).zip(pixel).zip(&centres)
                {
                    let distance = x - centre;
                    *sum += distance;
                    *square += distance * distance;
                }
            }
        });
        let sums = by_group(&sums).into_iter().zip(by_group(&squares));
        let moments = means.into_iter().zip(sums).map(|(mean, (distances, squares))| Moments {
            count,
            mean: f64::from(mean) + distances / count,
            squares: squares - distances * distances / count,
        });
        moments.collect()
    }
}

/// `(x - centre) * factor + offset` for every channel. The centre is taken off first, because products of values far from
/// 0 would lose the digits that are wanted.
struct Affine {
    centres: Vec<f32>,
    factors: Vec<f32>,
    offsets: Vec<f32>,
}

impl Affine {
    /// The norm with the weight and bias behind it.
    fn new(groups: &[Moments], weight: &[f32], bias: &[f32]) -> Self {
        let mut affine = Self { centres: Vec::new(), factors: Vec::new(), offsets: Vec::new() };
        let width = weight.len() / groups.len();
        for ((weight, bias), group) in weight.chunks_exact(width).zip(bias.chunks_exact(width)).zip(groups) {
            let (centre, deviation) = (group.mean as f32, group.deviation());
            let rest = group.mean - f64::from(centre);
            for (weight, bias) in weight.iter().zip(bias) {
                let factor = f64::from(*weight) / deviation;
                affine.centres.push(centre);
                affine.factors.push(factor as f32);
                affine.offsets.push((f64::from(*bias) - rest * factor) as f32);
            }
        }
        affine
    }

    fn apply(&self, out: &mut [f32], x: &[f32], silu: bool) {
        let channels = self.centres.len();
        let task = cpu::rows_per_task(channels) * channels;
        out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
            cpu::vectorized(|| {
                for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    let affine = self.centres.iter().zip(&self.factors).zip(&self.offsets);
                    for ((out, x), ((centre, factor), offset)) in out.iter_mut().zip(x).zip(affine) {
                        let y = (x - centre) * factor + offset;
                        *out = if silu { cpu::silu(y) } else { y };
                    }
                }
            });
        });
    }
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = cpu::contiguous(self.name(), x, x_layout)?;
        let &[batch, .., channels] = x_layout.dims() else {
            candle_core::bail!("group norm: got shape {:?}, expected [batch, .., channels]", x_layout.dims())
        };
        let weight = cpu::per_channel(self.name(), weight, weight_layout, channels)?;
        let bias = cpu::per_channel(self.name(), bias, bias_layout, channels)?;
        let mut out = vec![0f32; x.len()];
        let sample = (x.len() / batch.max(1)).max(1);
        for (out, x) in out.chunks_exact_mut(sample).zip(x.chunks_exact(sample)) {
            Affine::new(&self.moments(x, channels), weight, bias).apply(out, x, self.silu);
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
