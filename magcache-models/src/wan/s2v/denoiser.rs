//! One clip of a video as the denoising loop sees it, and how it leads to the next.

use std::{fmt, sync::Arc};

use candle_core::{Result, Tensor};
use magcache_core::{Branch, Pass, Step};

use super::{
    ClipContext, ClipFrames, ClipInputs, ClipTokens, Fit, PoseStep, S2vInput, S2vTransformer, next_window,
    pose_pixels,
};
use crate::{
    autoencoder::{Tiling, VideoVae},
    pipeline::{self, Denoiser, Entered, NextClip, PipelineError, PoseVideo, TextUses, noise, text_of},
    wan::parts,
};

/// What all clips of a video share.
pub struct S2vVideo {
    /// The network.
    pub network: Arc<S2vTransformer>,
    /// Loads the autoencoder, which is dropped when a clip is decoded and the next one prepared.
    pub vae: Box<dyn Fn() -> pipeline::Result<VideoVae> + Send + Sync>,
    /// How it works.
    pub tiling: Option<Tiling>,
    /// Text features, `[1, tokens, text_dim]`.
    pub text: Tensor,
    /// Those of the negative prompt, in a guided run.
    pub negative: Option<Tensor>,
    /// Scale of guidance.
    pub guidance: f64,
    /// What every frame of every clip hears, `[1, layers, channels, frames]`: see
    /// [`AudioEmbedding`](super::AudioEmbedding).
    pub audio: Tensor,
    /// Latents of the picture, normalised, `[1, channels, 1, height, width]`.
    pub reference: Tensor,
    /// A video whose movements are repeated.
    pub pose: Option<Arc<dyn PoseVideo>>,
    /// Frames of the clips.
    pub frames: ClipFrames,
    /// Whether the video begins with the picture itself.
    pub start_from_ref: bool,
    /// Clip `i` begins from the noise of this plus `i`.
    pub seed: u64,
}

impl fmt::Debug for S2vVideo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S2vVideo").field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// The network with everything that one clip is about.
#[derive(Debug)]
pub struct S2vDenoiser {
    video: Arc<S2vVideo>,
    clip: usize,
    /// The frames before the clip, `[1, 3, motion_frames, height, width]`.
    window: Tensor,
    /// The latents that are decoded in front of its own: the window's, or the picture's.
    before: Tensor,
    tokens: ClipTokens,
    cond: ClipContext,
    uncond: Option<ClipContext>,
}

impl S2vDenoiser {
    /// Clip `clip` of a video, behind the frames `window` (`[1, 3, motion_frames, height, width]` in -1..=1;
    /// [`first_window`](super::first_window) before the first).
    ///
    /// # Errors
    /// A pose video that cannot be read; tensors that do not fit each other.
    pub fn new(video: Arc<S2vVideo>, clip: usize, window: Tensor) -> pipeline::Result<Self> {
        let vae = (video.vae)()?;
        Self::with_vae(video, clip, window, &vae)
    }

    fn with_vae(video: Arc<S2vVideo>, clip: usize, window: Tensor, vae: &VideoVae) -> pipeline::Result<Self> {
        let frames = &video.frames;
        let motion = if ClipFrames::is_without_motion(clip, video.start_from_ref) {
            None
        } else {
            Some(encode(vae, &window, video.tiling)?)
        };
        let pose = video.pose.as_deref().map(|pose| video.pose_latents(pose, clip, vae)).transpose()?;
        let tokens = video.network.clip(&ClipInputs {
            reference: &video.reference,
            motion: motion.as_ref(),
            pose: pose.as_ref(),
            frames: frames.latents(),
        })?;
        let heard = video.audio.narrow(3, clip * frames.infer_frames, frames.infer_frames)?;
        let motion_frames = (frames.motion_frames, frames.motion_latents());
        let context = |text: &Tensor, heard: &Tensor| video.network.context(text, heard, motion_frames);
        let cond = context(&video.text, &heard)?;
        let silence = heard.zeros_like()?;
        let uncond = video.negative.as_ref().map(|text| context(text, &silence)).transpose()?;
        let before = motion.unwrap_or_else(|| video.reference.clone());
        Ok(Self { video, clip, window, before, tokens, cond, uncond })
    }

    /// The latents that are decoded in front of the clip's own, `[1, channels, latents, height, width]`:
    /// those of the frames before it or, at the beginning, of the picture.
    pub fn before(&self) -> &Tensor {
        &self.before
    }

    /// The network.
    pub fn network(&self) -> &S2vTransformer {
        &self.video.network
    }

    /// The frames of this clip, whose last step gave `latents` as [`Denoiser::finish`] returned them, each
    /// piece `[3, frames, height, width]`. `stop` is checked between pieces.
    ///
    /// # Errors
    /// [`PipelineError::Interrupted`].
    pub fn frames(&self, latents: &Tensor, stop: &dyn Fn() -> bool) -> pipeline::Result<Vec<Tensor>> {
        self.frames_with(&(self.video.vae)()?, latents, stop)
    }

    fn frames_with(
        &self,
        vae: &VideoVae,
        latents: &Tensor,
        stop: &dyn Fn() -> bool,
    ) -> pipeline::Result<Vec<Tensor>> {
        let mut frames = Vec::new();
        decode_clip(vae, self.video.tiling, &self.video.frames, latents, &mut |piece| {
            if stop() {
                return Err(PipelineError::Interrupted { step: 0, steps: 0 });
            }
            frames.push(piece.clone());
            Ok(())
        })?;
        Ok(frames)
    }

    /// The clip after this one, whose frames are given.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn followed_by(&self, frames: &[Tensor]) -> pipeline::Result<Self> {
        self.followed_with(&(self.video.vae)()?, frames)
    }

    fn followed_with(&self, vae: &VideoVae, frames: &[Tensor]) -> pipeline::Result<Self> {
        let window = next_window(&self.window, &Tensor::cat(frames, 1)?.unsqueeze(0)?)?;
        Self::with_vae(Arc::clone(&self.video), self.clip + 1, window, vae)
    }

    /// Whether the network sees the frames before the clip.
    pub fn has_motion(&self) -> bool {
        self.tokens.grid().motion
    }
}

impl S2vVideo {
    fn pose_latents(&self, pose: &dyn PoseVideo, clip: usize, vae: &VideoVae) -> pipeline::Result<Tensor> {
        let (frames, scale) = (self.frames.infer_frames, vae.config().spatial_scale());
        let (_, _, _, height, width) = self.reference.dims5()?;
        let all = PoseStep::new(pose.fps()).frames(pose.frames(), (clip + 1) * frames);
        let wanted: Vec<usize> = all.skip(clip * frames).collect();
        let failed = |e| PipelineError::Part { part: "pose", source: e };
        let pictures = pose.read(&wanted).map_err(failed)?;
        let pixels = pose_pixels(&pictures, frames, (height * scale, width * scale), self.reference.device())
            .map_err(|e| PipelineError::part("pose", e))?;
        let latents = encode(vae, &pixels, self.tiling)?;
        Ok(latents.narrow(2, 1, self.frames.latents())?)
    }
}

/// Latents of frames `[1, 3, frames, height, width]`, normalised.
pub(super) fn encode(vae: &VideoVae, frames: &Tensor, tiling: Option<Tiling>) -> pipeline::Result<Tensor> {
    let latents = vae.encode(frames, tiling).and_then(|z| vae.normalize(&z));
    latents.map_err(|e| PipelineError::part("autoencoder", e))
}

/// A picture at the video's size, `height` and `width`: its latents, normalised, `[1, channels, 1, height /
/// 8, width / 8]`, and its pixels, `[1, 3, height, width]` in -1..=1.
///
/// # Errors
/// As [`Fit::picture`].
pub fn encode_picture(
    vae: &VideoVae,
    picture: &crate::image::Picture,
    tiling: Option<Tiling>,
    (height, width): (usize, usize),
    device: &candle_core::Device,
) -> pipeline::Result<(Tensor, Tensor)> {
    let failed = |e| PipelineError::part("image", e);
    let fitted =
        Fit::new(picture.height(), picture.width(), (height, width)).picture(picture).map_err(failed)?;
    let pixels = fitted.pixels(width, height, device).map_err(failed)?;
    Ok((encode(vae, &pixels.unsqueeze(2)?, tiling)?, pixels))
}

/// Decodes what [`Denoiser::finish`] returned for a clip, and passes on the frames that belong to the video.
pub(super) fn decode_clip(
    vae: &VideoVae,
    tiling: Option<Tiling>,
    frames: &ClipFrames,
    latents: &Tensor,
    sink: &mut dyn FnMut(&Tensor) -> pipeline::Result<()>,
) -> pipeline::Result<()> {
    let count = latents.dim(2)?;
    let without_motion = count == frames.decoded_latents(true);
    let kept = frames.kept(vae.config().frames(count), without_motion);
    let mut at = 0;
    parts::decode(vae, tiling, latents, &mut |piece| {
        let length = piece.dim(1)?;
        let lost = kept.start.saturating_sub(at).min(length);
        at += length;
        if lost < length { sink(&piece.narrow(1, lost, length - lost)?) } else { Ok(()) }
    })
}

impl Denoiser for S2vDenoiser {
    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Result<Box<dyn Entered + 'a>> {
        let input = self.video.network.embed(latents, step.timestep, &self.tokens)?;
        Ok(Box::new(S2vStep { denoiser: self, input }))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.video.guidance
    }

    fn text_uses(&self) -> Option<TextUses> {
        Some(std::iter::once(&self.cond).chain(&self.uncond).map(|context| context.text().uses()).sum())
    }

    fn next_clip(&self, latents: &Tensor, stop: &dyn Fn() -> bool) -> pipeline::Result<NextClip> {
        let video = &self.video;
        let vae = (video.vae)()?;
        let frames = self.frames_with(&vae, latents, stop)?;
        let next = self.followed_with(&vae, &frames)?;
        let (_, channels, _, height, width) = video.reference.dims5()?;
        let shape = (1, channels, video.frames.latents(), height, width);
        let noise = noise(video.seed.wrapping_add(next.clip as u64), shape, video.reference.device())?;
        Ok(NextClip { frames, denoiser: Arc::new(next), noise })
    }

    /// The clip's latents behind those that are decoded in front of them.
    fn finish(&self, latents: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[&self.before, latents], 2)
    }
}

/// The network with its input.
struct S2vStep<'a> {
    denoiser: &'a S2vDenoiser,
    input: S2vInput,
}

impl Entered for S2vStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        let S2vDenoiser { video, cond, uncond, .. } = self.denoiser;
        video.network.predict(&self.input, text_of(branch, cond, uncond.as_ref())?, pass)
    }
}
