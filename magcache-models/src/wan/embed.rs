//! Embeddings of the timestep and the image that condition the blocks.

use candle_core::{Result, Tensor};

use super::{LoadResult, WanConfig};
use crate::{
    checkpoint::Weights,
    mmdit::embed::Mlp,
    nn::{LayerNorm, Linear, Sinusoids, silu},
};

/// Epsilon of the image embedder's layer norms, which differs from the configuration's `eps`.
const IMAGE_EPS: f64 = 1e-5;

/// Timesteps (0 to 1000) to the embedding of the head and the modulation of the blocks.
#[derive(Debug)]
pub(super) struct TimeEmbedder {
    sinusoids: Sinusoids,
    embedder: Mlp,
    time_proj: Linear,
}

impl TimeEmbedder {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> LoadResult<Self> {
        let inner = config.inner_dim();
        Ok(Self {
            sinusoids: Sinusoids::new(config.freq_dim, weights.device())?,
            embedder: Mlp::load(&weights.pp("time_embedder"), config.freq_dim, inner, true)?,
            time_proj: Linear::load(&weights.pp("time_proj"), inner, 6 * inner, true)?,
        })
    }

    /// See [`Sinusoids::rounded_up`].
    #[cfg(feature = "verify")]
    pub(super) fn round_up(&mut self, which: &[usize]) -> Result<()> {
        self.sinusoids = Sinusoids::rounded_up(self.embedder.inputs(), which, self.sinusoids.device())?;
        Ok(())
    }

    /// `temb`: `[batch, inner]` for timesteps `[batch]`, `[batch, tokens, inner]` for `[batch, tokens]`.
    pub(super) fn embed(&self, timestep: &Tensor) -> Result<Tensor> {
        self.embedder.forward(&self.sinusoids.forward(timestep)?)
    }

    /// `timestep_proj`: `[batch, 6 * inner]` or `[batch, tokens, 6 * inner]` from the result of
    /// [`Self::embed`].
    pub(super) fn project(&self, temb: &Tensor) -> Result<Tensor> {
        self.time_proj.forward(&silu(self.time_proj.ops(), temb)?)
    }
}

/// Image encoder output to the width of the blocks (Wan 2.1 image to video).
#[derive(Debug)]
pub(super) struct ImageEmbedder {
    /// `[1, tokens of both frames, image_dim]`, in models with a first and a last frame.
    pos_embed: Option<Tensor>,
    norm1: LayerNorm,
    proj: Linear,
    out: Linear,
    norm2: LayerNorm,
}

impl ImageEmbedder {
    pub(super) fn load(weights: &Weights, config: &WanConfig, image_dim: usize) -> LoadResult<Self> {
        let inner = config.inner_dim();
        let pos_embed = config
            .pos_embed_seq_len
            .map(|tokens| weights.get("pos_embed", &[1, tokens, image_dim]))
            .transpose()?;
        Ok(Self {
            pos_embed,
            norm1: LayerNorm::load(&weights.pp("norm1"), image_dim, IMAGE_EPS)?,
            proj: Linear::load(&weights.pp("ff.net.0.proj"), image_dim, image_dim, true)?,
            out: Linear::load(&weights.pp("ff.net.2"), image_dim, inner, true)?,
            norm2: LayerNorm::load(&weights.pp("norm2"), inner, IMAGE_EPS)?,
        })
    }

    /// `[batch, tokens, image_dim]` to `[batch, tokens, inner]`.
    ///
    /// With a learned position the input is `[2 * batch, tokens, image_dim]`: first and last frame of each
    /// sample.
    pub(super) fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let image = match &self.pos_embed {
            Some(position) => {
                let (frames, tokens, channels) = image.dims3()?;
                let (_, both, _) = position.dims3()?;
                if frames % 2 != 0 || 2 * tokens != both {
                    candle_core::bail!(
                        "image embeddings {:?}: expected first and last frame of each sample with {} tokens each",
                        image.shape(),
                        both / 2
                    );
                }
                image
                    .reshape((frames / 2, both, channels))?
                    .broadcast_add(&position.to_dtype(image.dtype())?)?
            }
            None => image.clone(),
        };
        let hidden = self.proj.forward_gelu_erf(&self.norm1.forward(&image)?)?;
        self.norm2.forward(&self.out.forward(&hidden)?)
    }
}
