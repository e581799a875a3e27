//! The cross-attention behind some blocks by which the video hears.

use candle_core::{Result, Tensor};

use super::{AudioTokens, audio_tokens::plain_norm};
use crate::{
    checkpoint::Weights,
    nn::{Linear, RmsNorm, attention, layer_norm_modulate, silu},
    wan::LoadResult,
};

/// Epsilon of the norms of queries and keys, and of the norm in front where the sound does not modulate it.
const EPS: f64 = 1e-6;
/// Epsilon of the norm that the sound modulates (`AdaLayerNorm` of diffusers).
const ADAPTIVE_EPS: f64 = 1e-5;

/// One layer of `audio_injector`.
#[derive(Debug)]
pub struct AudioInjector {
    /// Shift and scale of the norm, from the global token.
    adain: Option<Linear>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
}

/// What stays the same over a clip: a row per latent frame.
#[derive(Debug)]
pub struct Heard {
    /// Keys and values, `[frames, tokens, inner]`.
    keys_values: (Tensor, Tensor),
    /// Shift and scale, `[frames, 1, inner]`.
    adain: Option<(Tensor, Tensor)>,
}

impl Heard {
    /// What is heard in some of the frames.
    pub(super) fn of_frames(&self, first: usize, frames: usize) -> Result<Self> {
        let some = |(a, b): &(Tensor, Tensor)| {
            Ok::<_, candle_core::Error>((a.narrow(0, first, frames)?, b.narrow(0, first, frames)?))
        };
        Ok(Self { keys_values: some(&self.keys_values)?, adain: self.adain.as_ref().map(some).transpose()? })
    }
}

impl AudioInjector {
    /// Layer `index` of `audio_injector`; with `adain`, its norm is modulated by the sound.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(
        weights: &Weights,
        index: usize,
        inner: usize,
        heads: usize,
        adain: bool,
    ) -> LoadResult<Self> {
        let own = weights.pp("injector").pp(index);
        let linear = |name: &str| Linear::load(&own.pp(name), inner, inner, true);
        let adain = adain.then(|| {
            let layer = weights.pp("injector_adain_layers").pp(index).pp("linear");
            Linear::load(&layer, inner, 2 * inner, true)
        });
        Ok(Self {
            adain: adain.transpose()?,
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            o: linear("o")?,
            norm_q: RmsNorm::load(&own.pp("norm_q"), inner, EPS)?,
            norm_k: RmsNorm::load(&own.pp("norm_k"), inner, EPS)?,
            heads,
        })
    }

    /// The part that does not depend on the video.
    ///
    /// # Errors
    /// A model whose norm is modulated, and no global token.
    pub fn hear(&self, audio: &AudioTokens) -> Result<Heard> {
        let local = &audio.local;
        let adain = match (&self.adain, &audio.global) {
            (None, _) => None,
            (Some(layer), Some(global)) => {
                let rows = layer.forward(&silu(self.o.ops(), global)?)?.unsqueeze(1)?;
                let inner = rows.dim(2)? / 2;
                Some((rows.narrow(2, 0, inner)?, rows.narrow(2, inner, inner)?))
            }
            (Some(_), None) => {
                candle_core::bail!("the norm is modulated by a global audio token, and there is none")
            }
        };
        Ok(Heard {
            keys_values: (self.k.forward_rms_norm(local, &self.norm_k)?, self.v.forward(local)?),
            adain,
        })
    }

    /// Tokens of the video `[latent frames, tokens of a frame, inner]` to the same shape: every frame attends
    /// to its own sound.
    pub fn forward(&self, video: &Tensor, heard: &Heard) -> Result<Tensor> {
        let ops = self.o.ops();
        let normed = match &heard.adain {
            Some((shift, scale)) => layer_norm_modulate(ops, video, shift, scale, ADAPTIVE_EPS)?,
            None => plain_norm(ops, video, EPS)?,
        };
        let q = self.q.forward_rms_norm(&normed, &self.norm_q)?;
        let (k, v) = &heard.keys_values;
        self.o.forward_add(&attention(ops, &q, k, v, self.heads)?, video)
    }
}
