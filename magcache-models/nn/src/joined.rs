//! A linear layer on two inputs side by side.

use candle_core::{Result, Tensor};

use super::Linear;
use magcache_checkpoint::{CheckpointError, Weights};

/// A linear layer whose input is the channels of two tensors, the first before the second, without
/// concatenating them.
#[derive(Clone, Debug)]
pub struct JoinedLinear {
    first: Linear,
    second: Linear,
}

impl JoinedLinear {
    /// Reads `weight` `[outputs, inputs of both]` and, with `bias`, `bias` `[outputs]`.
    pub fn load(
        weights: &Weights,
        inputs: [usize; 2],
        outputs: usize,
        bias: bool,
    ) -> std::result::Result<Self, CheckpointError> {
        let [first, second] = inputs;
        let weight = weights.matrix("weight", [outputs, first + second])?;
        let bias = bias.then(|| weights.get_f32("bias", &[outputs])).transpose()?;
        Ok(Self {
            first: Linear::of(weights.ops(), weight.narrow_columns(0, first)?, bias)?,
            second: Linear::of(weights.ops(), weight.narrow_columns(first, second)?, None)?,
        })
    }

    /// `[.., inputs]` each to `[.., outputs]`.
    pub fn forward(&self, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        self.second.forward_add(second, &self.first.forward(first)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType, Device};

    use magcache_checkpoint::Ops;

    use super::*;
    use crate::testing::{random, worst};
    use magcache_checkpoint::WeightDtype;

    #[test]
    fn is_the_layer_on_what_was_joined() -> Result<()> {
        let (weight, bias) = (random(&[7, 40])?, random(&[7])?);
        let file =
            safetensors::serialize([("weight", weight.clone()), ("bias", bias.clone())], None).expect("fits");
        let (a, b) = (random(&[2, 5, 12])?, random(&[2, 5, 28])?);
        let whole =
            Linear::new(Ops::Kernels, weight, Some(bias))?.forward(&Tensor::cat(&[&a, &b], D::Minus1)?)?;
        for dtype in [DType::F32, DType::BF16] {
            let weights = Weights::from_bytes("test", file.clone(), &Device::Cpu, WeightDtype::Cast(dtype))
                .expect("reads");
            let ours = JoinedLinear::load(&weights, [12, 28], 7, true).expect("fits").forward(&a, &b)?;
            let error = worst(&ours, &whole)?;
            assert!(error < if dtype == DType::F32 { 2e-5 } else { 0.2 }, "{dtype:?} {error}");
            assert!(JoinedLinear::load(&weights, [12, 29], 7, true).is_err());
        }
        Ok(())
    }
}
