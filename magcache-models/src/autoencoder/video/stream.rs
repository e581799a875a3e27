//! Videos chunk by chunk.

use std::fmt;

use candle_core::Tensor;

use super::{
    VideoVae,
    cache::FeatureCache,
    config::CHUNK,
    layout::{channels_first, to_network, to_video},
    observe::{Observer, Trace},
};
use crate::autoencoder::error::{AutoencoderError, Result};

/// A video being decoded.
#[derive(Debug)]
pub struct DecodeStream<'a>(Stream<'a>);

/// A video being encoded.
#[derive(Debug)]
pub struct EncodeStream<'a>(Stream<'a>);

struct Stream<'a> {
    vae: &'a VideoVae,
    cache: FeatureCache,
    /// Batch, height and width of the first chunk.
    size: Option<[usize; 3]>,
    observer: Option<&'a mut Observer<'a>>,
}

impl Stream<'_> {
    /// Records batch, height and width, or compares them with the previous ones.
    fn go_on(&mut self, got: [usize; 3]) -> Result<()> {
        let expected = *self.size.get_or_insert(got);
        if expected == got { Ok(()) } else { Err(AutoencoderError::StreamChanged { expected, got }) }
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("chunk", &self.cache.chunk())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(vae: &'a VideoVae) -> Self {
        Self(Stream { vae, cache: vae.decoder.cache(), size: None, observer: None })
    }

    /// Reports the output of every module, for comparisons.
    #[must_use]
    pub fn observe(self, observer: &'a mut Observer<'a>) -> Self {
        Self(Stream { observer: Some(observer), ..self.0 })
    }

    /// The next raw latent frame, `[batch, z_dim, 1, h, w]`, to its frames
    /// `[batch, channels, frames, height, width]` in -1..=1: one for the first latent frame,
    /// [`temporal_scale`](super::VideoVaeConfig::temporal_scale) for any other.
    ///
    /// # Errors
    /// Another shape, or another batch or size than before.
    pub fn push(&mut self, z: &Tensor) -> Result<Tensor> {
        let stream = &mut self.0;
        let [batch, frames, height, width] = stream.vae.latent_shape(z)?;
        if frames != 1 {
            let expected = "1 at a time".into();
            return Err(AutoencoderError::FrameCount { what: "latent frames", got: frames, expected });
        }
        stream.go_on([batch, height, width])?;
        let mut trace = Trace::new("decoder", stream.cache.chunk(), stream.observer.as_deref_mut());
        let x = stream.vae.decode_chunk(z, &mut stream.cache, &mut trace)?;
        Ok(to_video(&x, stream.vae.config().patch())?.clamp(-1f32, 1f32)?)
    }
}

impl<'a> EncodeStream<'a> {
    pub(super) fn new(vae: &'a VideoVae) -> Self {
        Self(Stream { vae, cache: vae.encoder.cache(), size: None, observer: None })
    }

    /// Reports the output of every module, for comparisons.
    #[must_use]
    pub fn observe(self, observer: &'a mut Observer<'a>) -> Self {
        Self(Stream { observer: Some(observer), ..self.0 })
    }

    /// The next frames, `[batch, channels, frames, height, width]` in -1..=1, to their raw latents
    /// `[batch, z_dim, n, h, w]`, the mean of their distribution.
    ///
    /// The first call takes `1 + 4 k` frames, any other `4 k`; they go through the network one or four at a
    /// time.
    ///
    /// # Errors
    /// Another number of frames, another shape, or another batch or size than before.
    pub fn push(&mut self, frames: &Tensor) -> Result<Tensor> {
        Ok(self.push_moments(frames)?.narrow(1, 0, self.0.vae.config().z_dim)?)
    }

    /// [`Self::push`] with the logarithm of the variance after the mean, `[batch, 2 * z_dim, n, h, w]`.
    pub fn push_moments(&mut self, frames: &Tensor) -> Result<Tensor> {
        let stream = &mut self.0;
        let [batch, count, height, width] = stream.vae.video_shape(frames)?;
        let alone = usize::from(stream.cache.first_chunk());
        if count < alone || !(count - alone).is_multiple_of(CHUNK) {
            let multiple = format!("a multiple of {CHUNK}");
            let expected = if alone == 1 { format!("1 more than {multiple}") } else { multiple };
            return Err(AutoencoderError::FrameCount { what: "frames", got: count, expected });
        }
        stream.go_on([batch, height, width])?;
        let mut moments = Vec::new();
        let mut start = 0;
        while start < count {
            let length = if stream.cache.first_chunk() { 1 } else { CHUNK };
            let mut trace = Trace::new("encoder", stream.cache.chunk(), stream.observer.as_deref_mut());
            let chunk = frames.narrow(2, start, length)?;
            moments.push(stream.vae.encode_chunk(&chunk, &mut stream.cache, &mut trace)?);
            start += length;
        }
        Ok(Tensor::cat(&moments, 2)?)
    }
}

impl VideoVae {
    /// A raw latent frame `[batch, z_dim, 1, h, w]` to the decoder's output, channels last.
    pub(super) fn decode_chunk(
        &self,
        z: &Tensor,
        cache: &mut FeatureCache,
        trace: &mut Trace<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let z = self.post_quant_conv.forward(&to_network(z, 1)?)?;
        self.decoder.forward(z, cache, trace)
    }

    /// A chunk of frames `[batch, channels, frames, height, width]` to moments `[batch, 2 * z_dim, n, h, w]`.
    pub(super) fn encode_chunk(
        &self,
        frames: &Tensor,
        cache: &mut FeatureCache,
        trace: &mut Trace<'_, '_>,
    ) -> candle_core::Result<Tensor> {
        let x = self.encoder.forward(to_network(frames, self.config().patch())?, cache, trace)?;
        channels_first(&self.quant_conv.forward(&x)?)
    }
}
