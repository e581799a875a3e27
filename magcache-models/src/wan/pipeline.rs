//! Wan2.1 and Wan2.2 from a checkpoint folder: video from text, an image, or both.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use magcache_core::{Expert, ModelMeta, Trajectory, inventory, schedule::Sizes};

use super::{
    FrameCondition, Layout, WanDenoiser, WanPrompts, WanSource, WanTask, defaults, experts,
    parts::{self, Parts},
    request,
    s2v::S2vPipeline,
};
use crate::{
    checkpoint::{AdapterReport, Folder, Weights},
    image::Picture,
    pipeline::{
        Defaults, Denoiser, LoadOptions, Loader, Phase, Pipeline, PipelineError, Request, Result,
        SamplingOption, Stage, noise,
    },
    sampler::{Sampler, SchedulerConfig},
};

/// A checkpoint in any layout. Opening it reads configurations; weights are loaded when they are needed and
/// dropped when they are not.
#[derive(Debug)]
pub struct WanPipeline {
    parts: Parts,
    meta: ModelMeta,
    defaults: Defaults,
}

impl WanPipeline {
    /// Opens a folder of any Wan model but speech to video, which is [`S2vPipeline`].
    ///
    /// # Errors
    /// As [`WanSource::open`].
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        Self::new(Parts::open(folder, options)?)
    }

    fn new(parts: Parts) -> Result<Self> {
        if parts.source.task() == WanTask::S2V {
            let message = format!("{} is a model of speech to video", parts.source.folder().describe());
            return Err(PipelineError::request(message, "open it as one"));
        }
        let (defaults, meta) = parts.described()?;
        Ok(Self { parts, meta, defaults })
    }

    /// The locations and configurations of its parts.
    pub fn source(&self) -> &WanSource {
        &self.parts.source
    }

    fn device(&self) -> &Device {
        self.parts.device()
    }

    fn scheduler(&self, request: &Request) -> Result<SchedulerConfig> {
        let shift = request.flow_shift.or_else(|| defaults::shift_for_size(self.source(), request));
        Ok(self.source().scheduler().with_overrides(request.sampler, shift)?)
    }

    fn boundary(&self, request: &Request) -> Option<f64> {
        let own = self.source().boundary_ratio();
        own.map(|ratio| request.boundary.unwrap_or(ratio))
    }

    /// Scales of guidance, one per expert.
    fn guidance(&self, request: &Request) -> Vec<f64> {
        let second = request.guidance_2.unwrap_or(request.guidance);
        [request.guidance, second].into_iter().take(self.source().experts()).collect()
    }

    /// Shape of the latents of a request, `[channels, frames, height, width]`.
    fn latent_shape(&self, request: &Request) -> [usize; 4] {
        let vae = self.source().vae_config();
        let (t, s) = (vae.temporal_scale(), vae.spatial_scale());
        [vae.z_dim, (request.frames.saturating_sub(1)) / t + 1, request.height() / s, request.width() / s]
    }

    /// Pixels of a given picture as a frame of the request's size, `[1, 3, height, width]` in -1..=1.
    fn frame(&self, picture: &Picture, request: &Request) -> Result<Tensor> {
        let frame = picture.pixels(request.width(), request.height(), self.device());
        frame.map_err(|e| PipelineError::part("image", e))
    }

    /// The image encoder's features of the given pictures, in models that have one.
    fn image_features(&self, pictures: &[&Picture]) -> Result<Option<Tensor>> {
        let make = || {
            let encoder = self.source().load_image_encoder(self.device(), self.parts.options.dtype)?;
            let features = encoder.map(|encoder| encoder.encode(pictures)).transpose();
            Ok(features.map_err(|e| PipelineError::part("image encoder", e))?.into_iter().collect())
        };
        Ok(self.parts.options.once("the encoded pictures", make)?.pop())
    }

    /// The condition that the given pictures add to the network's input.
    fn condition(&self, request: &Request) -> Result<Option<FrameCondition>> {
        let Some(first) = &request.image else { return Ok(None) };
        let make = || Ok(vec![self.condition_here(request, first)?.tensor().clone()]);
        let Some(tensor) = self.parts.options.once("the given frames", make)?.pop() else { return Ok(None) };
        let [_, frames, height, width] = self.latent_shape(request);
        let is_first_frame = self.source().task() == WanTask::TI2V;
        Ok(Some(FrameCondition::of_tensor(is_first_frame, tensor, [frames, height, width])))
    }

    fn condition_here(&self, request: &Request, first: &Picture) -> Result<FrameCondition> {
        let vae = self.parts.vae()?;
        let first_frame = self.frame(first, request)?;
        let condition = if self.source().task() == WanTask::TI2V {
            FrameCondition::first_frame(&vae, &first_frame, request.frames, self.parts.tiling())?
        } else {
            let last = request.last_image.as_ref();
            let last = last.map(|last| self.frame(&*request::fitted(last, first)?, request)).transpose()?;
            FrameCondition::channels(&vae, &first_frame, last.as_ref(), request.frames, self.parts.tiling())?
        };
        Ok(condition)
    }
}

impl Pipeline for WanPipeline {
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
        Ok(self.parts.memory(request, self.sizes(request)?.tokens, request.frames)?.to_vec())
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

    fn patch(&self) -> [usize; 2] {
        let [_, height, width] = self.source().transformer_config(Expert(0)).patch_size;
        let scale = self.source().vae_config().spatial_scale();
        [scale * width, scale * height]
    }

    fn takes(&self) -> Vec<SamplingOption> {
        request::taken(self.source())
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        request::check(request, self.source())?;
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        Ok(Sampler::new(&self.scheduler(request)?, request.steps)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let sampler = self.sampler(request)?;
        let boundary_ratio = self.boundary(request);
        let alone = |(i, scale): (usize, &f64)| (*scale <= 1.0).then_some(Expert(i as u8));
        let guidance = self.guidance(request);
        let unguided: Vec<Expert> = guidance.iter().enumerate().filter_map(alone).collect();
        let guided = unguided.len() < guidance.len();
        Ok(Trajectory {
            phases: sampler.schedule().experts(boundary_ratio)?,
            unguided: if guided { unguided } else { Vec::new() },
            boundary_ratio,
            ..sampler.trajectory(guided)
        })
    }

    fn sizes(&self, request: &Request) -> Result<Sizes> {
        let [c, t, h, w] = self.latent_shape(request);
        let [pt, ph, pw] = self.source().transformer_config(Expert(0)).patch_size;
        let tokens = (t / pt.max(1)) * (h / ph.max(1)) * (w / pw.max(1));
        // The tokens of a given first frame are not noisy, which their timestep indicates.
        let by_token = self.source().task() == WanTask::TI2V && request.image.is_some();
        let dtype = self.parts.compute_dtype()?;
        let timesteps = if by_token { tokens } else { 1 };
        Ok(Sizes { tokens, text_tokens: 0, latents: c * t * h * w, timesteps, dtype })
    }

    fn denoisers(
        &self,
        requests: &[Request],
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Vec<Arc<dyn Denoiser>>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        stage(Stage::EncodingPrompt);
        let guided = self.guidance(first).iter().any(|scale| *scale > 1.0);
        let (texts, uncond) = self.parts.encode_texts(requests, guided, notes)?;
        if first.image.is_some() {
            stage(Stage::EncodingImage);
        }
        let pictures: Vec<&Picture> =
            [&first.image, &first.last_image].into_iter().flatten().map(AsRef::as_ref).collect();
        let image = if pictures.is_empty() { None } else { self.image_features(&pictures)? };
        let condition = self.condition(first)?;

        stage(Stage::LoadingTransformer);
        let keep = self.parts.options.keeps_experts();
        let load = experts::shared(self.parts.clone());
        let run = self.trajectory(first)?;
        let one = |cond: Tensor| -> Result<Arc<dyn Denoiser>> {
            let load = Arc::clone(&load);
            let prompts = WanPrompts { cond, uncond: uncond.clone(), image: image.clone() };
            let denoiser =
                WanDenoiser::loading(move |expert| load(expert), keep, prompts, self.guidance(first));
            let denoiser = match &condition {
                Some(condition) => denoiser.with_condition(condition.clone()),
                None => denoiser,
            };
            denoiser.prepare(&run.step(run.first))?;
            Ok(Arc::new(denoiser))
        };
        texts.into_iter().map(one).collect()
    }

    fn unread(&self) -> Vec<String> {
        self.source().folder().unread()
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        let [c, t, h, w] = self.latent_shape(request);
        noise(request.seed, (1, c, t, h, w), self.device())
    }

    fn decode(
        &self,
        _: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        parts::decode(&self.parts.vae()?, self.parts.tiling(), latents, sink)
    }
}

inventory::submit! {
    Loader {
        class_names: &["WanImageToVideoPipeline", "WanPipeline"],
        detects: |folder| WanSource::detect(folder) == Some(Layout::Native),
        looks_for: WanSource::NATIVE,
        layouts: &["wan", "wan_diffusers"],
        open: |folder, options| {
            let parts = Parts::open(folder, options)?;
            Ok(match parts.source.task() {
                WanTask::S2V => Box::new(S2vPipeline::new(parts)?),
                _ => Box::new(WanPipeline::new(parts)?),
            })
        },
        origin: env!("CARGO_PKG_NAME"),
    }
}
