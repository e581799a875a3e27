//! Latents to tokens and tokens back to latents.

use candle_core::{Result, Tensor};

use super::{LoadResult, WanConfig};
use crate::checkpoint::Weights;
use crate::nn::{Linear, patchify, unpatchify};
use crate::ranks::Sequence;

/// Frames, rows and columns of tokens in a video, and its batch size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) batch: usize,
    pub(super) tokens: [usize; 3],
}

impl Grid {
    /// The grid of latents `[batch, in_channels, frames, height, width]`.
    ///
    /// The reference drops rows and columns that do not fill a patch; here that is an error.
    pub(super) fn new(latents: &Tensor, config: &WanConfig) -> Result<Self> {
        let (batch, channels, frames, height, width) = latents.dims5()?;
        if channels != config.in_channels {
            candle_core::bail!(
                "latents have {channels} channels, `in_channels` of the model is {}",
                config.in_channels
            );
        }
        let size = [frames, height, width];
        let patch = config.patch_size;
        if (0..3).any(|axis| size[axis] == 0 || size[axis] % patch[axis] != 0) {
            candle_core::bail!(
                "latents of {size:?} frames, rows and columns do not divide into patches of {patch:?}"
            );
        }
        Ok(Self { batch, tokens: std::array::from_fn(|axis| size[axis] / patch[axis]) })
    }

    /// Tokens of one video.
    pub(super) fn len(&self) -> usize {
        self.tokens.iter().product()
    }
}

/// `patch_embedding`: a convolution whose stride is its kernel, so one linear layer on the values of a patch.
#[derive(Debug)]
pub(super) struct PatchEmbedding {
    linear: Linear,
    patch: [usize; 3],
}

impl PatchEmbedding {
    /// For latents of `channels` channels.
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        patch: [usize; 3],
        inner: usize,
    ) -> LoadResult<Self> {
        let [pt, ph, pw] = patch;
        let weight = weights.get("weight", &[inner, channels, pt, ph, pw])?.flatten_from(1)?;
        let bias = weights.get_f32("bias", &[inner])?;
        Ok(Self { linear: Linear::new(weights.ops(), weight, Some(bias))?, patch })
    }

    /// `[batch, channels, frames, height, width]` to `[batch, tokens, inner]`, columns fastest.
    pub(super) fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        self.forward_own(latents, &Sequence::default())
    }

    /// The same of the tokens of `sequence` that are here.
    pub(super) fn forward_own(&self, latents: &Tensor, sequence: &Sequence) -> Result<Tensor> {
        self.linear.forward(&sequence.narrow(&patchify(latents, self.patch)?, 0)?)
    }
}

/// `norm_out` and `proj_out`: the last norm, modulated by the timestep, and the projection back to latents.
#[derive(Debug)]
pub(super) struct Head {
    /// `[1, 2, inner]` in f32: shift, scale.
    scale_shift_table: Tensor,
    proj_out: Linear,
    patch: [usize; 3],
    eps: f64,
}

impl Head {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let (channels, volume) = (config.out_channels, config.patch_volume());
        // The checkpoint's rows are ordered (patch, channel); in the order (channel, patch) of
        // `PatchEmbedding`, the values of a patch's row stay together on the way back.
        let weight = weights.get("proj_out.weight", &[volume * channels, inner])?;
        let weight =
            weight.reshape((volume, channels, inner))?.transpose(0, 1)?.flatten_to(1)?.contiguous()?;
        let bias = weights.get_f32("proj_out.bias", &[volume * channels])?;
        let bias = bias.reshape((volume, channels))?.t()?.flatten_all()?;
        Ok(Self {
            scale_shift_table: weights.get_f32("scale_shift_table", &[1, 2, inner])?,
            proj_out: Linear::new(weights.ops(), weight, Some(bias))?,
            patch: config.patch_size,
            eps: config.eps,
        })
    }

    /// Shift and scale from the time embedding, `[batch, inner]` or `[batch, tokens, inner]`.
    pub(super) fn modulation(&self, temb: &Tensor) -> Result<[Tensor; 2]> {
        let per_token = if temb.rank() == 2 { temb.unsqueeze(1)? } else { temb.clone() };
        let row = |i| per_token.broadcast_add(&self.scale_shift_table.narrow(1, i, 1)?);
        Ok([row(0)?, row(1)?])
    }

    /// `[batch, tokens, inner]`, plus a tensor to add to it, of the tokens of `sequence` that are here, to
    /// `[batch, out_channels, frames, height, width]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        [shift, scale]: &[Tensor; 2],
        grid: Grid,
        sequence: &Sequence,
    ) -> Result<Tensor> {
        let patches = self.proj_out.forward_modulated(x, residual, shift, scale, self.eps)?;
        unpatchify(&sequence.gather(&patches, 0)?, grid.tokens, self.patch)
    }
}
