//! The norm of the autoencoder: mean 0 and deviation 1 over the pixels and channels of a group, then a factor
//! and a bias for every channel, optionally followed by `SiLU`.

mod kernel;

use candle_core::Tensor;

use magcache_checkpoint::{CheckpointError, Ops, Weights};

use crate::{
    cpu::{self, Held},
    silu,
};

/// Added to the variance, in every block of the reference.
const EPS: f64 = 1e-6;

/// A group norm over channels that come last, as `torch.nn.GroupNorm` over channels that come second.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    ops: Ops,
}

impl GroupNorm {
    /// Reads `weight` and `bias` `[channels]`; `groups` must divide the channels.
    pub fn load(weights: &Weights, channels: usize, groups: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.get_f32("weight", &[channels])?,
            bias: weights.get_f32("bias", &[channels])?,
            groups,
            ops: weights.ops(),
        })
    }

    /// `[batch, frames, height, width, channels]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, false)
    }

    /// [`Self::forward`] and `SiLU`.
    pub fn forward_silu(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, silu: bool) -> candle_core::Result<Tensor> {
        let (.., channels) = x.dims5()?;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) || x.elem_count() == 0 {
            candle_core::bail!("group norm: {:?} does not divide into {} groups", x.shape(), self.groups);
        }
        if cpu::on_cpu(self.ops, x) {
            let [weight, bias] = [&self.weight, &self.bias].map(|x| Held::new("group-norm", x));
            let (weight, bias) = (weight.per_channel(channels)?, bias.per_channel(channels)?);
            let norm = kernel::Norm { samples: x.dim(0)?, groups: self.groups, weight, bias, silu };
            return cpu::compute("group-norm", x, x.shape(), |x| norm.forward(x));
        }
        self.plain(x, silu)
    }

    fn plain(&self, x: &Tensor, with_silu: bool) -> candle_core::Result<Tensor> {
        let (batch, frames, height, width, channels) = x.dims5()?;
        let grouped = x.reshape((batch, frames * height, width, self.groups, channels / self.groups))?;
        let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
        // Far from 0 the first mean lacks precision; the mean of the remainder corrects it.
        let centred = centred.broadcast_sub(&mean(&centred)?)?;
        let deviation = (mean(&centred.sqr()?)? + EPS)?.sqrt()?;
        let y = centred
            .broadcast_div(&deviation)?
            .reshape(x.shape())?
            .broadcast_mul(&self.weight.to_dtype(x.dtype())?)?
            .broadcast_add(&self.bias.to_dtype(x.dtype())?)?;
        if with_silu { silu(self.ops, &y) } else { Ok(y) }
    }
}

/// `[batch, rows, width, groups, channels]` to one value per group, as a mean of means, because one sum over
/// all pixels loses precision in f32.
fn mean(x: &Tensor) -> candle_core::Result<Tensor> {
    x.mean_keepdim(4)?.mean_keepdim(2)?.mean_keepdim(1)
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType, Device};

    use super::{kernel::PIXELS, *};
    use crate::testing::random;

    /// The norm of every value in f64, and how far f32 may be from it.
    ///
    /// With `u` half a unit in the last place, a sum of `n` values around their mean is off by at most `n u`
    /// deviations, a sum of `n` squares by `n u` of itself, the deviation by half of that. Fewer than eight
    /// other roundings are added. None of this grows with the distance of the values from 0.
    fn expected(norm: &GroupNorm, x: &Tensor, silu: bool) -> candle_core::Result<Vec<(f64, f64)>> {
        const U: f64 = f32::EPSILON as f64 / 2.0;
        let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
        let (weight, bias) = (norm.weight.to_vec1::<f32>()?, norm.bias.to_vec1::<f32>()?);
        let x = x.reshape((batch, (), channels))?.to_vec3::<f32>()?;
        let width = channels / norm.groups;
        let mut expected = Vec::new();
        for pixels in &x {
            let moments: Vec<(f64, f64)> = (0..norm.groups)
                .map(|group| {
                    let of = group * width..(group + 1) * width;
                    let values =
                        || pixels.iter().flat_map(|pixel| &pixel[of.clone()]).copied().map(f64::from);
                    let count = values().count() as f64;
                    let mean = values().sum::<f64>() / count;
                    let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                    (mean, (variance + EPS).sqrt())
                })
                .collect();
            for (channel, x) in pixels.iter().flat_map(|pixel| pixel.iter().enumerate()) {
                let (mean, deviation) = moments[channel / width];
                let (weight, bias) = (f64::from(weight[channel]), f64::from(bias[channel]));
                let scaled = (f64::from(*x) - mean) / deviation * weight;
                let (y, n) = (scaled + bias, PIXELS as f64);
                let limit = U * (n * (weight.abs() + scaled.abs() / 2.0) + 8.0 * (scaled.abs() + bias.abs()));
                // The slope of SiLU is below 1.1, and its kernel is accurate to 2e-7.
                let with_silu = y / (1.0 + (-y).exp());
                expected.push(if silu { (with_silu, 1.1 * limit + 8.0 * U * y.abs()) } else { (y, limit) });
            }
        }
        Ok(expected)
    }

    #[test]
    fn kernel_and_fallback_agree_with_the_formula() -> candle_core::Result<()> {
        for (channels, groups, size) in [(6, 3, 7), (48, 8, 40), (32, 32, 30), (5, 1, 3), (2, 1, 60)] {
            let norm = GroupNorm {
                ops: Ops::Kernels,
                weight: (random(&[channels])? * 2.0)?,
                bias: (random(&[channels])? * 2.0)?,
                groups,
            };
            for centre in [0.0, 30.0, -1000.0] {
                let x = ((random(&[2, 1, size, size + 3, channels])? * 1.5)? + centre)?;
                for silu in [false, true] {
                    let expected = expected(&norm, &x, silu)?;
                    for (what, ours) in [("kernel", norm.run(&x, silu)?), ("plain", norm.plain(&x, silu)?)] {
                        let ours = ours.flatten_all()?.to_vec1::<f32>()?;
                        assert_eq!(ours.len(), expected.len());
                        for (ours, (expected, limit)) in ours.into_iter().zip(&expected) {
                            let error = (f64::from(ours) - expected).abs();
                            assert!(
                                error <= *limit,
                                "{what} {channels} {groups} {size} {centre} {silu}: {ours} for {expected}, {error} > {limit}"
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn samples_are_apart_and_groups_must_divide() -> candle_core::Result<()> {
        let vector = |value: f32| Tensor::full(value, 4, &Device::Cpu);
        let norm = GroupNorm { ops: Ops::Kernels, weight: vector(1.0)?, bias: vector(0.5)?, groups: 2 };
        let x = random(&[1, 1, 3, 3, 4])?;
        let far = ((&x * 9.0)? + 5.0)?;
        let both = norm.forward(&Tensor::cat(&[&x, &far], 0)?)?;
        assert!(crate::testing::worst(&both.narrow(0, 0, 1)?, &both.narrow(0, 1, 1)?)? < 1e-5);
        let constant = norm.forward(&Tensor::ones((1, 1, 2, 2, 4), DType::F32, &Device::Cpu)?)?;
        assert!(constant.flatten_all()?.to_vec1::<f32>()?.iter().all(|y| (y - 0.5).abs() < 1e-6));
        let error =
            norm.forward(&Tensor::ones((1, 1, 2, 2, 5), DType::F32, &Device::Cpu)?).expect_err("5 in 2");
        assert!(error.to_string().contains("2 groups"), "{error}");
        Ok(())
    }
}
