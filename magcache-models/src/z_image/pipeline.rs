//! From a checkpoint and a request to a picture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use magcache_core::{ModelMeta, Trajectory, inventory, schedule::Sizes};

use super::{
    ZImageDenoiser, ZImageGuidance, ZImageTransformer, config::PATCH, meta, native, parts::Parts,
    positions::padded, transformer::LAYERS,
};
use crate::{
    autoencoder::{ImageVae, Tiling},
    checkpoint::{AdapterReport, Folder, WeightDtype, Weights},
    pipeline::{
        Defaults, Denoiser, Division, LoadOptions, Loader, Phase, Pipeline, PipelineError, Request, Result,
        SamplingOption, Stage, noise_of_stream, still, text_phase, transformer_phase, truncated,
    },
    sampler::{self, Sampler, SchedulerConfig},
    text::TokenizerDefaults,
};

/// A checkpoint. Opening it reads configurations; weights are loaded when they are needed and dropped when
/// they are not.
///
/// Source: `ZImagePipeline` and `ZImageImg2ImgPipeline` of diffusers 0.42.1. Differences: initial noise is
/// drawn by `ChaCha20`, so that it is the same on every machine; the branches of guidance are separate
/// passes, because their captions have different lengths.
#[derive(Debug)]
pub struct ZImagePipeline {
    parts: Parts,
    options: LoadOptions,
    meta: ModelMeta,
    defaults: Defaults,
}

impl ZImagePipeline {
    /// Opens a folder.
    ///
    /// # Errors
    /// A missing or unusable configuration.
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        const DEFAULTS: &str = "magcache.json";
        let parts = Parts::open(folder.computing_with(options.ops), &options.files)?;
        let own = parts.folder.exists(DEFAULTS).then(|| parts.folder.read_json::<Defaults>(DEFAULTS));
        let published = || if parts.turbo { still::defaults(8, 0.0) } else { still::defaults(50, 4.0) };
        let defaults = own.transpose()?.unwrap_or_else(published);
        let meta = match &defaults.model {
            Some(name) => magcache_core::meta::model(name)?.clone(),
            None => meta::of(&parts.config, parts.turbo),
        };
        Ok(Self { parts, options, meta, defaults })
    }

    fn guidance(request: &Request) -> ZImageGuidance {
        let (normalization, truncation) = (request.cfg_normalization, request.cfg_truncation);
        ZImageGuidance { scale: request.guidance, normalization, truncation }
    }

    /// Side of a token in pixels.
    fn side(&self) -> usize {
        PATCH * self.parts.vae.config.spatial_scale()
    }

    /// Rows and columns of an image's tokens.
    fn grid(&self, request: &Request) -> [usize; 2] {
        [request.height() / self.side(), request.width() / self.side()]
    }

    fn scheduler(&self, request: &Request) -> Result<SchedulerConfig> {
        Ok(self.parts.scheduler.clone().with_overrides(request.sampler, request.flow_shift)?)
    }

    fn tiling(&self) -> Option<Tiling> {
        self.options.tile_vae.then(Tiling::default)
    }

    /// What the network reads of these prompts, each with its name in notes.
    fn encoded(&self, prompts: &[(&'static str, &str)], notes: &mut Vec<String>) -> Result<Vec<Tensor>> {
        let make = || {
            let encoder = self.parts.texts(&self.options)?;
            let one = |(what, text): &(&'static str, &str)| -> Result<Tensor> {
                let tokens = encoder.tokenize(text).map_err(|e| PipelineError::part("prompt", e))?;
                notes.extend(truncated(what, encoder.max_length(), tokens.truncated));
                encoder.encode_tokens(&tokens).map_err(|e| PipelineError::part("text encoder", e))
            };
            prompts.iter().map(one).collect()
        };
        self.options.once("the encoded prompts", make)
    }
}

impl Pipeline for ZImagePipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn networks(&self) -> Result<Vec<Weights>> {
        Ok(vec![self.parts.transformer(&Device::Cpu, WeightDtype::Keep)?])
    }

    fn memory(&self, request: &Request) -> Result<Vec<Phase>> {
        let options = &self.options;
        let (config, encoder) = self.parts.encoder(&options.device, options.dtype)?;
        let (text, widths) =
            (TokenizerDefaults::QWEN3.max_length, [config.hidden_size, config.intermediate_size]);
        let network = self.parts.transformer(&options.device, options.network_dtype())?;
        // The gate of a feed-forward, and what it multiplies.
        let own = [self.parts.config.dim, 2 * self.parts.config.hidden()];
        let networks = (&[network][..], &[LAYERS][..]);
        let tokens = self.sizes(request)?.tokens;
        Ok(vec![
            text_phase(&[encoder], text, widths, config.num_attention_heads),
            transformer_phase("transformer", networks, tokens, own, Division::of(options)),
            self.parts.vae.phase(request, self.tiling())?,
        ])
    }

    fn encoders(&self) -> Result<Vec<Weights>> {
        Ok(vec![self.parts.encoder(&Device::Cpu, WeightDtype::Keep)?.1])
    }

    fn adapters(&self) -> Result<Vec<AdapterReport>> {
        if self.options.adapters.is_empty() {
            return Ok(Vec::new());
        }
        let options = LoadOptions { device: Device::Cpu, dtype: WeightDtype::Keep, ..self.options.clone() };
        Ok(self.parts.adapted(&options)?.1)
    }

    fn patch(&self) -> [usize; 2] {
        [self.side(); 2]
    }

    fn resolved(&self, request: &Request) -> Request {
        let strength = request.strength.or(request.image.as_ref().map(|_| still::STRENGTH));
        Request { strength, ..request.clone() }
    }

    fn takes(&self) -> Vec<SamplingOption> {
        use SamplingOption as Takes;
        let of_guidance = [Takes::cfg_normalization, Takes::cfg_truncation];
        let takes = [Takes::sampler, Takes::flow_shift, Takes::image, Takes::strength];
        takes.into_iter().chain(of_guidance.into_iter().filter(|_| !self.parts.turbo)).collect()
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        let scale = request.guidance;
        if self.parts.turbo && scale > 0.0 {
            let message = format!("guidance is {scale}, but this model is distilled to run without");
            return Err(PipelineError::request(message, "`guidance = 0`; the base model takes guidance"));
        }
        for (key, value) in
            [("cfg_normalization", request.cfg_normalization), ("cfg_truncation", request.cfg_truncation)]
        {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                let message = format!("{key} is {value}, it must be a number of at least 0");
                return Err(PipelineError::request(message, "1 is usual"));
            }
        }
        let ([rows, columns], [_, most_rows, most_columns]) =
            (self.grid(request), self.parts.config.axes_lens);
        if rows > most_rows || columns > most_columns {
            let [height, width] = [most_rows, most_columns].map(|tokens| tokens * self.side());
            let message = format!(
                "{}x{} pixels are more than this model has positions for",
                request.width(),
                request.height()
            );
            return Err(PipelineError::request(message, format!("at most {width}x{height}")));
        }
        still::check(&self.resolved(request))?;
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        let config = self.scheduler(request)?;
        let tokens = self.grid(request).iter().product();
        let steps = sampler::Request::linear_f32(&config, request.steps, config.mu(tokens));
        Ok(Sampler::new(&config, steps)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let guidance = Self::guidance(request);
        let whole = self.sampler(request)?.trajectory(guidance.is_on());
        let guidance_end = guidance.end(&whole.timesteps);
        Ok(Trajectory { first: self.resolved(request).first_step(), guidance_end, ..whole })
    }

    fn sizes(&self, request: &Request) -> Result<Sizes> {
        let image: usize = self.grid(request).iter().product();
        let dtype = if self.options.device.is_cpu() {
            DType::F32
        } else {
            self.parts.transformer(&self.options.device, self.options.network_dtype())?.compute_dtype()
        };
        Ok(Sizes {
            // The caption is in the same stream: as many tokens as it may have.
            tokens: padded(image) + TokenizerDefaults::QWEN3.max_length,
            text_tokens: 0,
            latents: self.parts.vae.latents(request).iter().product(),
            timesteps: 1,
            dtype,
        })
    }

    fn denoisers(
        &self,
        requests: &[Request],
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Vec<Arc<dyn Denoiser>>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let guidance = Self::guidance(first);
        stage(Stage::EncodingPrompt);
        let negative = guidance.is_on().then_some(("negative prompt", first.negative_prompt.as_str()));
        let mut prompts: Vec<(&'static str, &str)> = Vec::new();
        for prompt in requests.iter().map(|request| ("prompt", request.prompt.as_str())).chain(negative) {
            if !prompts.iter().any(|(_, text)| *text == prompt.1) {
                prompts.push(prompt);
            }
        }
        let encoded = self.encoded(&prompts, notes)?;

        let mut starts = Vec::new();
        if let Some(picture) = &first.image {
            stage(Stage::EncodingImage);
            let latents = |vae: &ImageVae, z: &Tensor| Ok(vae.normalize(z)?);
            let make = || self.parts.vae.starts(picture, requests, &self.options, latents);
            starts = self.options.once("the given picture", make)?;
        }

        stage(Stage::LoadingTransformer);
        let (weights, _) = self.parts.adapted(&self.options)?;
        let network =
            ZImageTransformer::load_in(&weights, self.parts.config.clone(), &self.options.residence()?)?;
        let network = Arc::new(network.over(self.options.plane()).map_err(PipelineError::refused)?);
        let grid = self.grid(first);
        let ready = encoded.iter().map(|text| network.prompt(text, grid));
        let ready: Vec<_> = ready.collect::<candle_core::Result<_>>()?;
        let of = |text: &str| {
            let mut known = prompts.iter().zip(&ready);
            known.find(|((_, known), _)| *known == text).map(|(_, prompt)| prompt.clone())
        };
        let mut starts = starts.into_iter();
        let one = |request: &Request| -> Result<Arc<dyn Denoiser>> {
            let Some(cond) = of(&request.prompt) else {
                return Err(PipelineError::request("no prompt", "give one"));
            };
            let uncond = negative.and_then(|(_, text)| of(text));
            let denoiser = ZImageDenoiser::new(Arc::clone(&network), cond, uncond, guidance);
            Ok(Arc::new(denoiser.starting_from(starts.next())))
        };
        requests.iter().map(one).collect()
    }

    fn unread(&self) -> Vec<String> {
        self.parts.folder.unread()
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        let shape = self.parts.vae.latents(request);
        Ok(noise_of_stream(request.seed, still::NOISE, &shape[..], &self.options.device)?)
    }

    fn decode(
        &self,
        _: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        let vae = self.parts.vae.open(&self.options.device)?;
        let image = vae.denormalize(latents).and_then(|z| vae.decode(&z, self.tiling()));
        sink(&image?.squeeze(0)?.unsqueeze(1)?)
    }
}

inventory::submit! {
    Loader {
        class_names: &["ZImageImg2ImgPipeline", "ZImagePipeline"],
        detects: |_| false,
        looks_for: "",
        layouts: &native::LAYOUTS,
        open: |folder, options| Ok(Box::new(ZImagePipeline::open(folder, options)?)),
        origin: env!("CARGO_PKG_NAME"),
    }
}
