//! The norm of the autoencoder: mean 0 and deviation 1 over the pixels and channels of a group, then a factor and a bias
//! for every channel, with `SiLU` behind it if wanted.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{cpu, silu},
};

/// What is added to the variance, in every block of the reference.
const EPS: f64 = 1e-6;

/// A group norm over channels that come last, as `torch.nn.GroupNorm` over channels that come second.
#[derive(Clone, Debug)]
pub(super) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl GroupNorm {
    /// Reads `weight` and `bias` `[channels]`; `groups` must divide the channels.
    pub(super) fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.get_f32("weight", &[channels])?,
            bias: weights.get_f32("bias", &[channels])?,
            groups,
        })
    }

    /// `[batch, .., channels]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, false)
    }

    /// [`Self::forward`] and `SiLU`.
    pub(super) fn forward_silu(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, silu: bool) -> candle_core::Result<Tensor> {
        let channels = x.dim(D::Minus1)?;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) || x.elem_count() == 0 {
            candle_core::bail!("group norm: {:?} does not divide into {} groups", x.shape(), self.groups);
        }
        if cpu::on_cpu(x) {
            let op = NormOp { groups: self.groups, silu };
            return x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        self.plain(x, silu)
    }

    fn plain(&self, x: &Tensor, with_silu: bool) -> candle_core::Result<Tensor> {
        let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
        let groups = x.reshape((batch, (), self.groups, channels / self.groups))?;
        let mean = groups.mean_keepdim((1, 3))?;
        let centred = groups.broadcast_sub(&mean)?;
        let deviation = (centred.sqr()?.mean_keepdim((1, 3))? + EPS)?.sqrt()?;
        let y = centred
            .broadcast_div(&deviation)?
            .reshape(x.shape())?
            .broadcast_mul(&self.weight.to_dtype(x.dtype())?)?
            .broadcast_add(&self.bias.to_dtype(x.dtype())?)?;
        if with_silu { silu(&y) } else { Ok(y) }
    }
}

struct NormOp {
    groups: usize,
    silu: bool,
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
    /// Moments of every group in some rows of channels: sums in f32 of few enough values, around their own mean.
    fn moments(&self, rows: &[f32], channels: usize) -> Vec<Moments> {
        let width = channels / self.groups;
        let count = rows.len() / self.groups;
        let groups = |sums: &[f32]| -> Vec<f64> {
            sums.chunks_exact(width).map(|group| group.iter().copied().map(f64::from).sum()).collect()
        };
        let mut sums = vec![0f32; channels];
        cpu::vectorized(|| {
            for row in rows.chunks_exact(channels) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        });
        let means: Vec<f64> = groups(&sums).into_iter().map(|sum| sum / count as f64).collect();
        // A mean in f32 leaves a rest of the sum; what it adds to the squares is taken off again below.
        let centres: Vec<f32> =
            means.iter().flat_map(|mean| std::iter::repeat_n(*mean as f32, width)).collect();
        sums.fill(0.0);
        cpu::vectorized(|| {
            for row in rows.chunks_exact(channels) {
                for ((sum, x), centre) in sums.iter_mut().zip(row).zip(&centres) {
                    *sum += (x - centre) * (x - centre);
                }
            }
        });
        let moments = means.into_iter().zip(groups(&sums)).map(|(mean, squares)| {
            let rest = mean - f64::from(mean as f32);
            Moments { count: count as f64, mean, squares: squares - rest * rest * count as f64 }
        });
        moments.collect()
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
        let width = channels / self.groups;
        let task = cpu::rows_per_task(channels) * channels;
        let mut out = vec![0f32; x.len()];
        let sample = (x.len() / batch.max(1)).max(1);
        for (out, x) in out.chunks_exact_mut(sample).zip(x.chunks_exact(sample)) {
            let parts: Vec<Vec<Moments>> =
                x.par_chunks(task).map(|rows| self.moments(rows, channels)).collect();
            let mut groups = vec![Moments::default(); self.groups];
            for part in parts {
                for (group, part) in groups.iter_mut().zip(part) {
                    *group = group.with(part);
                }
            }
            let (factors, offsets): (Vec<f32>, Vec<f32>) = weight
                .chunks_exact(width)
                .zip(bias.chunks_exact(width))
                .zip(&groups)
                .flat_map(|((weight, bias), group)| {
                    let scale = |(weight, bias): (&f32, &f32)| {
                        let factor = f64::from(*weight) / group.deviation();
                        (factor as f32, (f64::from(*bias) - group.mean * factor) as f32)
                    };
                    weight.iter().zip(bias).map(scale)
                })
                .unzip();
            out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
                cpu::vectorized(|| {
                    for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        for ((out, x), (factor, offset)) in
                            out.iter_mut().zip(x).zip(factors.iter().zip(&offsets))
                        {
                            let y = x * factor + offset;
                            *out = if self.silu { cpu::silu(y) } else { y };
                        }
                    }
                });
            });
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Both are held against the plain formula in f64. In f32 candle sums value by value, which far from 0 loses digits.
    #[test]
    fn kernel_and_fallback_agree_with_the_formula() -> candle_core::Result<()> {
        for (channels, groups, size) in [(6, 3, 7), (48, 8, 40), (32, 32, 30), (5, 1, 3)] {
            let norm = GroupNorm {
                weight: Tensor::randn(0f32, 2.0, channels, &Device::Cpu)?,
                bias: Tensor::randn(0f32, 2.0, channels, &Device::Cpu)?,
                groups,
            };
            for centre in [0.0, 30.0] {
                let x = Tensor::randn(centre, 1.5f32, (2, 1, size, size + 3, channels), &Device::Cpu)?;
                for silu in [false, true] {
                    let exact = norm.plain(&x.to_dtype(DType::F64)?, silu)?;
                    for (ours, tolerance) in [(norm.run(&x, silu)?, 3e-5), (norm.plain(&x, silu)?, 1e-3)] {
                        let error = (ours.to_dtype(DType::F64)? - &exact)?.abs()?.flatten_all()?.max(0)?;
                        let error = error.to_scalar::<f64>()?;
                        assert!(error < tolerance, "{channels} {groups} {centre} {silu}: {error}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn samples_are_apart_and_groups_must_divide() -> candle_core::Result<()> {
        let vector = |value: f32| Tensor::full(value, 4, &Device::Cpu);
        let norm = GroupNorm { weight: vector(1.0)?, bias: vector(0.5)?, groups: 2 };
        let x = Tensor::randn(0f32, 1.0, (1, 1, 3, 3, 4), &Device::Cpu)?;
        let far = ((&x * 9.0)? + 5.0)?;
        let both = norm.forward(&Tensor::cat(&[&x, &far], 0)?)?;
        let error = (both.narrow(0, 0, 1)? - both.narrow(0, 1, 1)?)?.abs()?.flatten_all()?.max(0)?;
        assert!(error.to_scalar::<f32>()? < 1e-4);
        let constant = norm.forward(&Tensor::ones((1, 1, 2, 2, 4), DType::F32, &Device::Cpu)?)?;
        assert!(constant.flatten_all()?.to_vec1::<f32>()?.iter().all(|y| (y - 0.5).abs() < 1e-6));
        let error =
            norm.forward(&Tensor::ones((1, 1, 2, 2, 5), DType::F32, &Device::Cpu)?).expect_err("5 in 2");
        assert!(error.to_string().contains("2 groups"), "{error}");
        Ok(())
    }
}
