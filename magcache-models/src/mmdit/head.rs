//! From hidden states to the prediction.

use candle_core::{D, Result, Tensor};

use super::{BlockSizes, LoadResult};
use crate::checkpoint::Weights;
use crate::nn::Linear;

/// `norm_out` and `proj_out`.
#[derive(Debug)]
pub(crate) struct Head {
    /// Scale, then shift: the reverse of the blocks.
    linear: Linear,
    proj_out: Linear,
    eps: f64,
}

impl Head {
    pub(crate) fn load(weights: &Weights, sizes: &BlockSizes, outputs: usize) -> LoadResult<Self> {
        let (inner, bias) = (sizes.inner(), sizes.bias());
        Ok(Self {
            linear: Linear::load(&weights.pp("norm_out.linear"), inner, 2 * inner, bias)?,
            proj_out: Linear::load(&weights.pp("proj_out"), inner, outputs, bias)?,
            eps: sizes.eps,
        })
    }

    /// `[batch, tokens, inner]`, plus a tensor to add to it, to `[batch, tokens, outputs]`; `activated` is
    /// the embedding after its `SiLU`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activated: &Tensor,
    ) -> Result<Tensor> {
        let rows = self.linear.forward(activated)?.unsqueeze(1)?;
        let inner = rows.dim(D::Minus1)? / 2;
        let (scale, shift) = (rows.narrow(D::Minus1, 0, inner)?, rows.narrow(D::Minus1, inner, inner)?);
        self.proj_out.forward_modulated(x, residual, &shift, &scale, self.eps)
    }
}
