//! Embeddings of the timestep and of the guidance scale.

use candle_core::{DType, Result, Tensor};
use magcache_core::hint;

use super::LoadResult;
use crate::checkpoint::Weights;
use crate::nn::{Linear, Sinusoids, gelu_tanh, silu};

/// Timesteps and guidance scales are multiplied by this before they are embedded.
const SCALE: f64 = 1000.0;

/// Two linear layers with an activation between them.
#[derive(Debug)]
pub(crate) struct Mlp {
    inputs: usize,
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    pub(crate) fn load(weights: &Weights, inputs: usize, inner: usize, bias: bool) -> LoadResult<Self> {
        Ok(Self {
            inputs,
            linear_1: Linear::load(&weights.pp("linear_1"), inputs, inner, bias)?,
            linear_2: Linear::load(&weights.pp("linear_2"), inner, inner, bias)?,
        })
    }

    /// Channels of its input.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// `[.., inputs]` to `[.., inner]`, with `SiLU`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&silu(self.linear_1.ops(), &self.linear_1.forward(x)?)?)
    }

    /// The same with GELU.
    pub(crate) fn forward_gelu_tanh(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&gelu_tanh(self.linear_1.ops(), &self.linear_1.forward(x)?)?)
    }
}

/// `timestep_embedder` and, in guidance-distilled models, `guidance_embedder`.
#[derive(Debug)]
pub(crate) struct TimeEmbedder {
    sinusoids: Sinusoids,
    timestep: Mlp,
    guidance: Option<Mlp>,
}

impl TimeEmbedder {
    /// `channels`: length of the sinusoidal embedding.
    pub(crate) fn load(
        weights: &Weights,
        channels: usize,
        inner: usize,
        guidance: bool,
        bias: bool,
    ) -> LoadResult<Self> {
        let mlp = |name: &str| Mlp::load(&weights.pp(name), channels, inner, bias);
        Ok(Self {
            sinusoids: Sinusoids::new(channels, weights.device())?,
            timestep: mlp("timestep_embedder")?,
            guidance: guidance.then(|| mlp("guidance_embedder")).transpose()?,
        })
    }

    /// See [`Sinusoids::rounded_up`].
    #[cfg(feature = "verify")]
    pub(crate) fn round_up(&mut self, which: &[usize]) -> Result<()> {
        self.sinusoids = Sinusoids::rounded_up(self.timestep.inputs, which, self.sinusoids.device())?;
        Ok(())
    }

    /// `[batch, inner]` from timesteps and guidance scales of `batch` samples, `[batch]` each; timesteps
    /// count from 0 to 1.
    pub(crate) fn forward(
        &self,
        timestep: &Tensor,
        guidance: Option<&Tensor>,
        batch: usize,
    ) -> Result<Tensor> {
        let embed = |what: &str, value: &Tensor, mlp: &Mlp| {
            if value.dims() != [batch] {
                candle_core::bail!("{what} has shape {:?}, expected [{batch}]", value.shape());
            }
            mlp.forward(&self.sinusoids.forward(&(value.to_dtype(DType::F32)? * SCALE)?)?)
        };
        let time = embed("timestep", timestep, &self.timestep)?;
        match (&self.guidance, guidance) {
            (None, None) => Ok(time),
            (Some(mlp), Some(guidance)) => time + embed("guidance", guidance, mlp)?,
            (Some(_), None) => Err(hint::tensor_error(
                "this model is guidance-distilled (`guidance_embeds` is true)",
                "give a guidance scale",
            )),
            (None, Some(_)) => Err(hint::tensor_error(
                "this model has no guidance embedder (`guidance_embeds` is false)",
                "give no guidance scale",
            )),
        }
    }
}
