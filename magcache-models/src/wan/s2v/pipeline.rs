//! Wan2.2 speech to video from a checkpoint folder.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use magcache_core::{Expert, ModelMeta, Trajectory, schedule::Sizes};

use super::{
    AudioEmbedding, AudioWindows, ClipFrames, FPS, MOTION_FRAMES, S2vDenoiser, S2vTransformer, S2vVideo,
    TokenGrid, denoiser, feature_frames, first_window, video_size,
};
use crate::{
    autoencoder::VideoVae,
    checkpoint::{AdapterReport, Weights},
    image::Picture,
    pipeline::{
        Defaults, Denoiser, Phase, Pipeline, PipelineError, Request, Result, SamplingOption, Stage, noise,
    },
    sampler::{Sampler, SchedulerConfig},
    wan::parts::Parts,
    wav2vec2::{MAX_SECONDS, SAMPLE_RATE, Waveform},
};

/// Sides of the video are multiples of this, in pixels.
const SIDE: usize = 64;

/// A checkpoint of speech to video. Opening it reads configurations; weights are loaded when they are needed
/// and dropped when they are not.
///
/// Source: `wan/speech2video.py` of the official code. Latents stay in f32.
#[derive(Debug)]
pub struct S2vPipeline {
    parts: Parts,
    meta: ModelMeta,
    defaults: Defaults,
}

impl S2vPipeline {
    pub(in crate::wan) fn new(parts: Parts) -> Result<Self> {
        let (defaults, meta) = parts.described()?;
        Ok(Self { parts, meta, defaults })
    }

    fn device(&self) -> &Device {
        self.parts.device()
    }

    fn scheduler(&self, request: &Request) -> Result<SchedulerConfig> {
        Ok(self.parts.source.scheduler().with_overrides(request.sampler, request.flow_shift)?)
    }

    fn clip_frames(request: &Request) -> ClipFrames {
        ClipFrames { infer_frames: request.frames, motion_frames: MOTION_FRAMES }
    }

    /// Clips of the video, from the length of the recording.
    fn clips(&self, request: &Request) -> Result<usize> {
        let waveform = Self::waveform(request)?;
        let states = self.parts.source.speech_states(waveform.0.len());
        let windows = AudioWindows::new(feature_frames(states), FPS, request.frames);
        Ok(windows.at_most(request.clips.unwrap_or(usize::MAX)).clips())
    }

    fn waveform(request: &Request) -> Result<&Waveform> {
        request.audio.as_deref().ok_or_else(|| {
            PipelineError::request(
                "this model makes a picture speak, and there is no recording",
                "`audio = FILE`",
            )
        })
    }

    fn picture(request: &Request) -> Result<&Picture> {
        request.image.as_deref().ok_or_else(|| {
            PipelineError::request("this model makes a picture speak, and none is given", "`image = FILE`")
        })
    }

    /// Shape of a clip's latents, `[1, channels, frames, height, width]`.
    fn latent_shape(&self, request: &Request) -> (usize, usize, usize, usize, usize) {
        let vae = self.parts.source.vae_config();
        let side = |pixels: usize| pixels / vae.spatial_scale();
        let frames = Self::clip_frames(request).latents();
        (1, vae.z_dim, frames, side(request.height()), side(request.width()))
    }

    /// What the clips hear. The encoder is dropped.
    fn encode_audio(&self, request: &Request, clips: usize) -> Result<Tensor> {
        let failed = |e| PipelineError::part("audio", e);
        let parts = self.parts.source.load_speech_encoder(self.device(), self.parts.options.dtype)?;
        let Some((processor, encoder)) = parts else {
            return Err(PipelineError::request("the checkpoint has no encoder of speech", "add its folder"));
        };
        let Waveform(samples) = Self::waveform(request)?;
        let embedding = AudioEmbedding::encode(&processor, &encoder, samples, request.frames, Some(clips));
        Ok(embedding.map_err(failed)?.values().clone())
    }

    fn vae(&self) -> Result<VideoVae> {
        self.parts.vae()
    }
}

/// Whether a picture of `height` x `width` pixels, scaled and with its sides rounded up, can have this size.
fn has_shape((height, width): (usize, usize), [columns, rows]: [usize; 2]) -> bool {
    let scales = |side: usize, of: usize| {
        (side.saturating_sub(SIDE - 1) as f64 / of as f64, (side + 1) as f64 / of as f64)
    };
    let ((low, high), (other_low, other_high)) = (scales(rows, height), scales(columns, width));
    let fits = |side: usize| side > 0 && side.is_multiple_of(SIDE);
    fits(rows) && fits(columns) && low.max(other_low) < high.min(other_high)
}

impl Pipeline for S2vPipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn networks(&self) -> Result<Vec<Weights>> {
        self.parts.networks()
    }

    fn memory(&self, request: &Request) -> Result<Vec<Phase>> {
        let clips = self.clips(request)?;
        let window = clips > 1 || request.start_from_ref.unwrap_or_default();
        let frames =
            self.parts.source.vae_config().frames(Self::clip_frames(request).decoded_latents(!window));
        let [text, network, mut vae] = self.parts.memory(request, self.sizes(request)?.tokens, frames)?;
        // Between two clips the network stays while the frames of one become the window of the next.
        if clips > 1 {
            vae.weights += network.weights;
        }
        let mut phases = vec![text, network, vae];
        let (source, samples) = (&self.parts.source, Self::waveform(request)?.0.len());
        if let Some(encoder) = source.speech_encoder(self.device(), self.parts.options.dtype)? {
            let (weights, activations) = (encoder.resident_bytes(), source.speech_activations(samples));
            phases.push(Phase { name: "speech encoder", weights, activations, ..Phase::default() });
        }
        Ok(phases)
    }

    fn encoders(&self) -> Result<Vec<Weights>> {
        self.parts.encoders()
    }

    fn adapters(&self) -> Result<Vec<AdapterReport>> {
        self.parts.adapters()
    }

    fn default_image(&self) -> Result<Option<Picture>> {
        self.parts.default_image(&self.defaults)
    }

    fn default_audio(&self) -> Result<Option<Vec<u8>>> {
        self.parts.default_audio(&self.defaults)
    }

    fn patch(&self) -> [usize; 2] {
        [SIDE, SIDE]
    }

    fn size_like(&self, picture: &Picture, area: usize) -> [usize; 2] {
        let size = video_size(picture.height(), picture.width(), area);
        size.map_or([SIDE, SIDE], |(height, width)| [width, height])
    }

    /// A size is an area: the picture decides on the shape.
    fn resolved(&self, request: &Request) -> Request {
        let size = match request.image.as_deref() {
            Some(picture) if !has_shape((picture.height(), picture.width()), request.size) => {
                self.size_like(picture, request.width().saturating_mul(request.height()))
            }
            _ => request.size,
        };
        Request { size, ..request.clone() }
    }

    fn takes(&self) -> Vec<SamplingOption> {
        vec![
            SamplingOption::sampler,
            SamplingOption::flow_shift,
            SamplingOption::image,
            SamplingOption::audio,
            SamplingOption::pose,
            SamplingOption::clips,
            SamplingOption::start_from_ref,
        ]
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        if let Some(fault) = Self::clip_frames(request).fault() {
            let near = (request.frames / 4 * 4).max(4);
            return Err(PipelineError::request(fault, format!("try {near}")));
        }
        if request.clips == Some(0) {
            return Err(PipelineError::request("0 clips, expected at least 1", "leave `clips` out for all"));
        }
        Self::picture(request)?;
        let samples = Self::waveform(request)?.0.len();
        if feature_frames(self.parts.source.speech_states(samples)) == 0 {
            let message = format!("the recording has {samples} samples at 16 kHz, too few to hear anything");
            return Err(PipelineError::request(message, "at least 50 ms"));
        }
        if samples > MAX_SECONDS * SAMPLE_RATE {
            let message =
                format!("the recording is longer than {MAX_SECONDS} seconds, which are heard as a whole");
            return Err(PipelineError::request(message, "cut it into pieces, one for each video"));
        }
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        Ok(Sampler::new(&self.scheduler(request)?, request.steps)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let clips = self.clips(request)?;
        Ok(Trajectory { clips, ..self.sampler(request)?.trajectory(request.guidance > 1.0) })
    }

    fn frames(&self, request: &Request) -> Result<usize> {
        let start_from_ref = request.start_from_ref.unwrap_or_default();
        Ok(Self::clip_frames(request).total(self.clips(request)?, start_from_ref))
    }

    fn frames_cut_off(&self, request: &Request) -> usize {
        request.frames - Self::clip_frames(request).of_clip(0, request.start_from_ref.unwrap_or_default())
    }

    fn sizes(&self, request: &Request) -> Result<Sizes> {
        let (_, c, t, h, w) = self.latent_shape(request);
        let [pt, ph, pw] = self.parts.source.transformer_config(Expert(0)).patch_size;
        let video = [t / pt.max(1), h / ph.max(1), w / pw.max(1)];
        let motion = request.start_from_ref.unwrap_or_default() || self.clips(request)? > 1;
        let tokens = TokenGrid { video, motion }.positions().count();
        Ok(Sizes {
            tokens,
            text_tokens: 0,
            latents: c * t * h * w,
            timesteps: 1,
            dtype: self.parts.compute_dtype()?,
        })
    }

    fn denoisers(
        &self,
        requests: &[Request],
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Vec<Arc<dyn Denoiser>>> {
        let Some(request) = requests.first() else { return Ok(Vec::new()) };
        let clips = self.clips(request)?;
        stage(Stage::EncodingPrompt);
        let (texts, negative) = self.parts.encode_texts(requests, request.guidance > 1.0, notes)?;
        stage(Stage::EncodingAudio);
        let options = &self.parts.options;
        let audio =
            options.once("the encoded recording", || Ok(vec![self.encode_audio(request, clips)?]))?.pop();
        stage(Stage::EncodingImage);
        let (device, tiling) = (self.device(), self.parts.tiling());
        let (frames, size) = (Self::clip_frames(request), (request.height(), request.width()));
        let picture = Self::picture(request)?;
        let encoded = options.once("the encoded picture", || {
            let (reference, pixels) = denoiser::encode_picture(&self.vae()?, picture, tiling, size, device)?;
            Ok(vec![reference, pixels])
        })?;
        let (Some(audio), [reference, pixels]) = (audio, encoded.as_slice()) else {
            return Err(PipelineError::request("the first rank encoded nothing", "the same program on all"));
        };
        let start_from_ref = request.start_from_ref.unwrap_or_default();
        let window = first_window(&frames, size, start_from_ref.then_some(pixels), device)?;

        stage(Stage::LoadingTransformer);
        let source = &self.parts.source;
        let Some(config) = source.speech_config() else {
            return Err(PipelineError::request("the checkpoint is no model of speech", "use another one"));
        };
        let weights = self.parts.network(Expert(0))?;
        let wan = source.transformer_config(Expert(0)).clone();
        let network = S2vTransformer::load_in(&weights, wan, config.clone(), &options.residence()?)?;
        let network = Arc::new(network.over(options.plane()).map_err(PipelineError::refused)?);
        let one = |(request, text): (&Request, Tensor)| -> Result<Arc<dyn Denoiser>> {
            let parts = self.parts.clone();
            let video = S2vVideo {
                network: Arc::clone(&network),
                vae: Box::new(move || parts.vae()),
                tiling,
                text,
                negative: negative.clone(),
                guidance: request.guidance,
                audio: audio.clone(),
                reference: reference.clone(),
                pose: request.pose.clone(),
                frames,
                start_from_ref,
                seed: request.seed,
            };
            Ok(Arc::new(S2vDenoiser::new(Arc::new(video), 0, window.clone())?))
        };
        requests.iter().zip(texts).map(one).collect()
    }

    fn unread(&self) -> Vec<String> {
        self.parts.source.folder().unread()
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        noise(request.seed, self.latent_shape(request), self.device())
    }

    fn decode(
        &self,
        request: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        let frames = Self::clip_frames(request);
        denoiser::decode_clip(&self.vae()?, self.parts.tiling(), &frames, latents, sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_a_picture_can_have_stays() {
        for (height, width) in [(720, 1280), (480, 832), (1024, 1024), (333, 777), (4000, 300), (50, 20)] {
            for area in [64 * 64 * 4, 480 * 832, 704 * 1024, 720 * 1280] {
                if let Some((rows, columns)) = video_size(height, width, area) {
                    assert!(has_shape((height, width), [columns, rows]), "{height} {width} {area}");
                }
            }
        }
        assert!(!has_shape((480, 832), [832, 480]), "480 is no multiple of 64");
        assert!(!has_shape((1024, 1024), [1024, 704]));
    }
}
