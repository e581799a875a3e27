//! The norm on the CPU, in f32 with statistics in f64.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::EPS;
use crate::cpu::{self, RowKernel};

/// Pixels whose sums are computed in f32; those sums are added in f64.
pub(super) const PIXELS: usize = 128;

/// The norm: one pass over the values, besides those for the statistics.
pub(super) struct Norm<'a> {
    pub(super) samples: usize,
    pub(super) groups: usize,
    /// A value for every channel each.
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
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
    /// The moments of both sets together (Chan, Golub and `LeVeque`, 1979).
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

impl Norm<'_> {
    /// `[samples, .., channels]` to the same shape.
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let channels = self.weight.len();
        let one = |x: &[f32]| {
            let affine = Affine::new(&self.moments(x, channels), self.weight, self.bias);
            cpu::by_row(x, channels, channels, &AffineRows { affine, silu: self.silu })
        };
        // Without a copy of what may be the largest tensor of a network.
        if self.samples <= 1 {
            return one(x);
        }
        x.chunks_exact((x.len() / self.samples).max(1)).flat_map(one).collect()
    }

    /// Moments of every group in one sample.
    fn moments(&self, x: &[f32], channels: usize) -> Vec<Moments> {
        let part = PIXELS * channels.max(1);
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

    /// Moments of every group in at most [`PIXELS`] pixels, around a first mean that may be inexact: the sum
    /// of the distances from it gives the correction.
    fn moments_of_few(&self, pixels: &[f32], channels: usize) -> Vec<Moments> {
        let width = channels / self.groups;
        let count = (pixels.len() / self.groups) as f64;
        let by_group = |sums: &[f32]| -> Vec<f64> {
            sums.chunks_exact(width).map(|group| group.iter().copied().map(f64::from).sum()).collect()
        };
        let (mut sums, mut squares) = (vec![0f32; channels], vec![0f32; channels]);
        Arch::new().dispatch(Sums { pixels, sums: &mut sums });
        let means: Vec<f32> = by_group(&sums).into_iter().map(|sum| (sum / count) as f32).collect();
        let centres: Vec<f32> = means.iter().flat_map(|mean| std::iter::repeat_n(*mean, width)).collect();
        sums.fill(0.0);
        Arch::new().dispatch(Distances { pixels, centres: &centres, sums: &mut sums, squares: &mut squares });
        let sums = by_group(&sums).into_iter().zip(by_group(&squares));
        let moments = means.into_iter().zip(sums).map(|(mean, (distances, squares))| Moments {
            count,
            mean: f64::from(mean) + distances / count,
            squares: squares - distances * distances / count,
        });
        moments.collect()
    }
}

/// Adds up the values of every channel.
struct Sums<'a> {
    pixels: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for pixel in self.pixels.chunks_exact(self.sums.len()) {
            for (sum, x) in self.sums.iter_mut().zip(pixel) {
                *sum += x;
            }
        }
    }
}

/// Adds up the distances of every channel from a centre, and their squares.
struct Distances<'a> {
    pixels: &'a [f32],
    centres: &'a [f32],
    sums: &'a mut [f32],
    squares: &'a mut [f32],
}

impl WithSimd for Distances<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for pixel in self.pixels.chunks_exact(self.centres.len()) {
            let sums = self.sums.iter_mut().zip(self.squares.iter_mut());
            for ((sum, square), (x, centre)) in sums.zip(pixel.iter().zip(self.centres)) {
                let distance = x - centre;
                *sum += distance;
                *square += distance * distance;
            }
        }
    }
}

/// `(x - centre) * factor + offset` for every channel. The centre is subtracted first, because products of
/// values far from 0 would lose precision.
struct Affine {
    centres: Vec<f32>,
    factors: Vec<f32>,
    offsets: Vec<f32>,
}

impl Affine {
    /// The norm followed by weight and bias.
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
}

struct AffineRows {
    affine: Affine,
    silu: bool,
}

impl RowKernel for AffineRows {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, _: usize, out: &mut [f32], x: &[f32]) {
        let Affine { centres, factors, offsets } = &self.affine;
        let affine = centres.iter().zip(factors).zip(offsets);
        for ((out, x), ((centre, factor), offset)) in out.iter_mut().zip(x).zip(affine) {
            let y = (x - centre) * factor + offset;
            *out = if self.silu { cpu::silu(y) } else { y };
        }
    }
}
