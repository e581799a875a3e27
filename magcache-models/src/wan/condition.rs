//! Given frames as input of the transformers.

use candle_core::{DType, Result, Tensor, bail};
use magcache_core::hint;

use crate::autoencoder::{Tiling, VideoVae};

/// The given first and optional last frame of a video to be generated.
///
/// The models take it in two different ways. [`FrameCondition::channels`] is for Wan 2.1 image-to-video and
/// first-and-last-frame models and for Wan 2.2 I2V-A14B: a mask and the latents of the given frames are
/// appended to the noise as further channels. [`FrameCondition::first_frame`] is for Wan 2.2 TI2V-5B: the
/// first latent frame is the given one and never noise, which its tokens' timestep of 0 indicates. The
/// frames' latents are the mean of their distribution, normalised; nothing is sampled.
///
/// Created once per video, in f32; used at every step ([`Self::model_input`], [`Self::timestep`]) and after
/// the last ([`Self::finish`]). Source: `WanImageToVideoPipeline` of diffusers 0.42.1.
#[derive(Clone, Debug)]
pub struct FrameCondition {
    kind: Kind,
    tensor: Tensor,
    /// Latent frames, rows and columns of the video.
    size: [usize; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Channels,
    FirstFrame,
}

impl FrameCondition {
    /// The condition that has this tensor, of [`FrameCondition::first_frame`] or of
    /// [`FrameCondition::channels`], for latents of `size`.
    pub(super) fn of_tensor(is_first_frame: bool, tensor: Tensor, size: [usize; 3]) -> Self {
        Self { kind: if is_first_frame { Kind::FirstFrame } else { Kind::Channels }, tensor, size }
    }

    /// For a video of `frames` frames that begins with `first` and ends with `last`,
    /// `[batch, 3, height, width]` in -1..=1.
    ///
    /// The autoencoder sees the given frames with zeros (gray) between and after them.
    ///
    /// # Errors
    /// Frames of other shapes, and a number of frames that is not 1 more than a multiple of the autoencoder's
    /// temporal scale, or is 1 although a last frame is given.
    pub fn channels(
        vae: &VideoVae,
        first: &Tensor,
        last: Option<&Tensor>,
        frames: usize,
        tiling: Option<Tiling>,
    ) -> Result<Self> {
        let (batch, channels, height, width) = first.dims4()?;
        let scale = vae.config().temporal_scale();
        check_frames(frames, scale)?;
        if let Some(last) = last
            && (last.dims() != first.dims() || frames == 1)
        {
            bail!(
                "the last of {frames} frames is {:?}, the first [{batch}, {channels}, {height}, {width}]: expected \
                 equal shapes and at least {} frames",
                last.dims(),
                scale + 1
            );
        }
        let latents = vae
            .encode_condition(first, last, frames, tiling)
            .and_then(|z| vae.normalize(&z))
            .map_err(hint::wrap)?;
        let (_, _, latent_frames, height, width) = latents.dims5()?;
        let size = [latent_frames, height, width];
        let mask = mask(scale, size, last.is_some(), &latents)?.expand((
            batch,
            scale,
            latent_frames,
            height,
            width,
        ))?;
        Ok(Self { kind: Kind::Channels, tensor: Tensor::cat(&[&mask.contiguous()?, &latents], 1)?, size })
    }

    /// For a video of `frames` frames that begins with `first`, `[batch, 3, height, width]` in -1..=1.
    ///
    /// # Errors
    /// A frame of another shape, and a number of frames that is not 1 more than a multiple of the
    /// autoencoder's temporal scale.
    pub fn first_frame(
        vae: &VideoVae,
        first: &Tensor,
        frames: usize,
        tiling: Option<Tiling>,
    ) -> Result<Self> {
        let scale = vae.config().temporal_scale();
        check_frames(frames, scale)?;
        let latents =
            vae.encode(&first.unsqueeze(2)?, tiling).and_then(|z| vae.normalize(&z)).map_err(hint::wrap)?;
        let (_, _, _, height, width) = latents.dims5()?;
        Ok(Self { kind: Kind::FirstFrame, tensor: latents, size: [(frames - 1) / scale + 1, height, width] })
    }

    /// The encoded condition.
    ///
    /// With [`Self::channels`] `[batch, 4 + z_dim, latent frames, height, width]`: the mask, 1 where a frame
    /// is given, with one channel per frame of a latent frame, then the latents. With [`Self::first_frame`]
    /// the latents of the one frame, `[batch, z_dim, 1, height, width]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// `[1, 1, latent frames, height, width]`: 0 where the latents are given, 1 where they start as noise.
    /// All 1 with [`Self::channels`], whose given frames are noised and denoised with the others.
    pub fn noise_mask(&self) -> Result<Tensor> {
        let [frames, height, width] = self.size;
        let device = self.tensor.device();
        let given = usize::from(self.kind == Kind::FirstFrame);
        let part = |frames: usize, value: f32| Tensor::full(value, (1, 1, frames, height, width), device);
        Tensor::cat(&[part(given, 0.0)?, part(frames - given, 1.0)?], 2)
    }

    /// The transformer's input for `latents` `[batch, z_dim, latent frames, height, width]`, in their type.
    ///
    /// [`Self::channels`] appends its channels to those of the latents, [`Self::first_frame`] replaces the
    /// first latent frame. The condition of one video works for a batch.
    ///
    /// # Errors
    /// Latents of another size.
    pub fn model_input(&self, latents: &Tensor) -> Result<Tensor> {
        let (batch, channels, frames, height, width) = latents.dims5()?;
        let (own, own_channels, own_frames, _, _) = self.tensor.dims5()?;
        let fits = self.kind == Kind::Channels || own_channels == channels;
        if [frames, height, width] != self.size || !(own == 1 || own == batch) || !fits {
            bail!(
                "latents {:?} do not go with given frames {:?} of a video of {:?} latent frames, rows and columns",
                latents.dims(),
                self.tensor.dims(),
                self.size
            );
        }
        let given = self.tensor.to_dtype(latents.dtype())?;
        let given = given.expand((batch, own_channels, own_frames, height, width))?.contiguous()?;
        match self.kind {
            Kind::Channels => Tensor::cat(&[latents, &given], 1),
            Kind::FirstFrame => Tensor::cat(&[&given, &latents.narrow(2, 1, frames - 1)?.contiguous()?], 2),
        }
    }

    /// The transformer's timestep, f32: `[batch]`, or with [`Self::first_frame`] one per token,
    /// `[batch, tokens]`, 0 for those of the given frame.
    ///
    /// `patch` is the transformer's, in frames, rows and columns.
    ///
    /// # Errors
    /// A patch that contains both given and noisy frames.
    pub fn timestep(&self, timestep: f64, batch: usize, patch: [usize; 3]) -> Result<Tensor> {
        let (value, device) = (timestep as f32, self.tensor.device());
        if self.kind == Kind::Channels {
            return Tensor::full(value, batch, device);
        }
        let ([frames, height, width], [depth, rows, columns]) = (self.size, patch);
        if depth != 1 || rows == 0 || columns == 0 {
            bail!(
                "patches of {patch:?} frames, rows and columns: a given first frame needs patches of one frame"
            );
        }
        let tokens = height.div_ceil(rows) * width.div_ceil(columns);
        let given = Tensor::zeros((batch, tokens), DType::F32, device)?;
        Tensor::cat(&[given, Tensor::full(value, (batch, (frames - 1) * tokens), device)?], 1)
    }

    /// The latents to decode. [`Self::first_frame`] restores its frame, which the sampler has changed along
    /// with the others.
    pub fn finish(&self, latents: &Tensor) -> Result<Tensor> {
        match self.kind {
            Kind::Channels => Ok(latents.clone()),
            Kind::FirstFrame => self.model_input(latents),
        }
    }
}

fn check_frames(frames: usize, scale: usize) -> Result<()> {
    if frames == 0 || !(frames - 1).is_multiple_of(scale) {
        bail!("{frames} frames: this model makes 1 more than a multiple of {scale}");
    }
    Ok(())
}

/// `[1, scale, latent frames, height, width]`, one channel per frame of a latent frame; the first latent
/// frame stands for a single frame in all channels.
fn mask(scale: usize, size: [usize; 3], last: bool, like: &Tensor) -> Result<Tensor> {
    let [frames, height, width] = size;
    let given =
        |channel: usize, frame: usize| frame == 0 || (last && (channel, frame) == (scale - 1, frames - 1));
    let cells = (0..scale).flat_map(|channel| (0..frames).map(move |frame| (channel, frame)));
    let values = cells.map(|(channel, frame)| f32::from(u8::from(given(channel, frame))));
    let mask = Tensor::from_iter(values, like.device())?.reshape((1, scale, frames, 1, 1))?;
    mask.expand((1, scale, frames, height, width))
}
