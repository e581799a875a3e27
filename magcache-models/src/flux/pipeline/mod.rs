//! FLUX.1 and FLUX.2 klein from a checkpoint folder, or from single files next to the folders of the text
//! encoders: image from text, an image, or both.

mod components;
mod flux1;
mod flux2;
mod generation;
mod request;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use magcache_core::{ModelMeta, Trajectory, inventory, schedule::Sizes};

use self::{
    components::{Components, Network},
    generation::{Family, ImageUse, Loaded, Named, Prompt},
};
use super::{
    FluxDenoiser,
    flux1::FluxTextParts,
    transformer::{DUAL_BLOCKS, SINGLE_BLOCKS},
};
use crate::{
    autoencoder::{
        ImageVae, Tiling,
        image::{LatentScale, packing},
    },
    checkpoint::{AdapterReport, Folder, WeightDtype, Weights},
    image::Picture,
    pipeline::{
        Defaults, Denoiser, Division, LoadOptions, Loader, Phase, Pipeline, PipelineError, Request, Result,
        SamplingOption, Stage, adapters_of, noise_of_stream, still, transformer_phase,
    },
    sampler::{self, Sampler, SchedulerConfig},
};

/// A checkpoint. Opening it reads configurations; weights are loaded when they are needed and dropped when
/// they are not.
///
/// Latents are tokens, `[1, rows * columns, channels]`.
///
/// Source: `FluxPipeline`, `FluxImg2ImgPipeline`, `FluxKontextPipeline` and `Flux2KleinPipeline` of diffusers
/// 0.42.1. Differences: initial noise is drawn by `ChaCha20`, so that it is the same on every machine; sizes
/// that are not multiples of the patch are refused instead of rounded; image to image works with FLUX.2 too.
#[derive(Debug)]
pub struct FluxPipeline {
    components: Components,
    family: Box<dyn Family>,
    options: LoadOptions,
    meta: ModelMeta,
    defaults: Defaults,
}

impl FluxPipeline {
    /// Opens a folder.
    ///
    /// # Errors
    /// A missing or unusable configuration, or a model that this crate has no text encoder for (FLUX.2 dev).
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        const DEFAULTS: &str = "magcache.json";
        let components = Components::open(folder.computing_with(options.ops), &options.files)?;
        let folder = components.folder.clone();
        let own = folder.exists(DEFAULTS).then(|| folder.read_json::<Defaults>(DEFAULTS)).transpose()?;
        let family: Box<dyn Family> = match components.network.clone() {
            Network::Flux1 { config, kontext } => {
                let texts = FluxTextParts::new(folder, &options.files)?;
                Box::new(flux1::Flux1::open(texts, config, kontext)?)
            }
            Network::Flux2 { config, distilled } => Box::new(flux2::Flux2::open(folder, config, distilled)?),
        };
        let defaults = own.unwrap_or_else(|| family.defaults());
        let meta = match &defaults.model {
            Some(name) => magcache_core::meta::model(name)?.clone(),
            None => family.meta(),
        };
        Ok(Self { components, family, options, meta, defaults })
    }

    fn device(&self) -> &Device {
        &self.options.device
    }

    /// Side of a token in pixels.
    fn side(&self) -> usize {
        packing::PATCH * self.components.vae.config.spatial_scale()
    }

    /// Rows and columns of an image's tokens.
    fn grid(&self, height: usize, width: usize) -> [usize; 2] {
        [height / self.side(), width / self.side()]
    }

    fn schedule(&self, request: &Request) -> Result<(SchedulerConfig, sampler::Request)> {
        let config = self.components.scheduler.clone().with_overrides(request.sampler, request.flow_shift)?;
        let [rows, columns] = self.grid(request.height(), request.width());
        let schedule = self.family.schedule(&config, request.steps, rows * columns);
        Ok((config, schedule))
    }

    fn vae(&self) -> Result<ImageVae> {
        Ok(self.components.vae.open(self.device())?)
    }

    fn tiling(&self) -> Option<Tiling> {
        self.options.tile_vae.then(Tiling::default)
    }

    /// Numbers from the standard normal distribution for a seed.
    fn normal(&self, request: &Request, stream: u64, shape: [usize; 4]) -> Result<Tensor> {
        Ok(noise_of_stream(request.seed, stream, &shape[..], self.device())?)
    }

    /// The prompts, encoded.
    fn encoded(&self, prompts: &[Named<'_>], notes: &mut Vec<String>) -> Result<Vec<Prompt>> {
        let make = || {
            let encoded = self.family.encode(&self.options, prompts, notes)?;
            Ok(encoded.into_iter().flat_map(|prompt| [Some(prompt.text), prompt.pooled]).flatten().collect())
        };
        let tensors = self.options.once("the encoded prompts", make)?;
        let each = (tensors.len() / prompts.len().max(1)).max(1);
        let prompt =
            |one: &[Tensor]| Some(Prompt { text: one.first()?.clone(), pooled: one.get(1).cloned() });
        Ok(tensors.chunks(each).filter_map(prompt).collect())
    }

    /// Tokens of a picture that the network looks at, in the size in which it does.
    fn tokens_of(&self, picture: &Picture) -> Result<Tensor> {
        let (width, height) = (picture.width(), picture.height());
        let pixels = picture.pixels(width, height, self.device());
        let pixels = pixels.map_err(|e| PipelineError::part("image", e))?;
        let vae = self.vae()?;
        let tokens = || vae.to_tokens(&vae.encode(&pixels, self.tiling())?.mean()?);
        Ok(tokens()?)
    }
}

impl Pipeline for FluxPipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn networks(&self) -> Result<Vec<Weights>> {
        let options = LoadOptions { device: Device::Cpu, dtype: WeightDtype::Keep, ..self.options.clone() };
        Ok(vec![self.components.transformer(&options)?])
    }

    fn memory(&self, request: &Request) -> Result<Vec<Phase>> {
        let network = self.components.transformer(&self.options)?;
        let (sizes, [width, hidden]) = (self.sizes(request)?, self.components.widths());
        let tokens = sizes.tokens + sizes.text_tokens;
        let (networks, division) = ([network], Division::of(&self.options));
        let networks = (networks.as_slice(), [DUAL_BLOCKS, SINGLE_BLOCKS].as_slice());
        Ok(vec![
            self.family.text_phase(&self.options)?,
            transformer_phase("transformer", networks, tokens, [width, hidden], division),
            self.components.vae.phase(request, self.tiling())?,
        ])
    }

    fn encoders(&self) -> Result<Vec<Weights>> {
        self.family.encoders(&Device::Cpu, WeightDtype::Keep)
    }

    fn adapters(&self) -> Result<Vec<AdapterReport>> {
        if self.options.adapters.is_empty() {
            return Ok(Vec::new());
        }
        let options = LoadOptions { device: Device::Cpu, dtype: WeightDtype::Keep, ..self.options.clone() };
        let mut reports = self.components.adapted(&options)?.1;
        reports.extend(self.family.adapters(&adapters_of(&options.adapters, 0, 1))?);
        Ok(reports)
    }

    fn patch(&self) -> [usize; 2] {
        [self.side(); 2]
    }

    fn size_like(&self, picture: &Picture, area: usize) -> [usize; 2] {
        self.family.size_like(picture, area, self.side())
    }

    fn resolved(&self, request: &Request) -> Request {
        let from_image = request.image.is_some() && self.family.image_use(request) == ImageUse::Start;
        let strength = request.strength.or(from_image.then_some(still::STRENGTH));
        Request { strength, ..request.clone() }
    }

    fn takes(&self) -> Vec<SamplingOption> {
        self.family.takes()
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        request::check(&self.resolved(request), self.family.as_ref())?;
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        let (config, schedule) = self.schedule(request)?;
        Ok(Sampler::new(&config, schedule)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let guided = self.family.guidance(request)?.is_classifier_free();
        let first = self.resolved(request).first_step();
        Ok(Trajectory { first, ..self.sampler(request)?.trajectory(guided) })
    }

    fn sizes(&self, request: &Request) -> Result<Sizes> {
        let [rows, columns] = self.grid(request.height(), request.width());
        let looked_at = match &request.image {
            Some(picture) if self.family.image_use(request) == ImageUse::Reference => {
                let picture = self.family.reference(picture, self.side())?;
                self.grid(picture.height(), picture.width()).iter().product()
            }
            _ => 0,
        };
        let dtype = if self.device().is_cpu() {
            DType::F32
        } else {
            self.components.transformer(&self.options)?.compute_dtype()
        };
        Ok(Sizes {
            tokens: rows * columns + looked_at,
            text_tokens: self.family.text_tokens(),
            latents: rows * columns * packing::PATCH.pow(2) * self.components.vae.config.latent_channels,
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
        let guidance = self.family.guidance(first)?;
        stage(Stage::EncodingPrompt);
        let mut prompts = Vec::new();
        let negative = guidance.is_classifier_free().then_some(&first.negative_prompt);
        let texts = requests.iter().map(|request| ("prompt", &request.prompt));
        for (what, text) in texts.chain(negative.map(|text| ("negative prompt", text))) {
            if !prompts.iter().any(|known: &Named<'_>| known.text == text) {
                prompts.push(Named { what, text });
            }
        }
        let encoded = self.encoded(&prompts, notes)?;

        let (mut starts, mut reference) = (Vec::new(), None);
        if let Some(picture) = &first.image {
            stage(Stage::EncodingImage);
            match self.family.image_use(first) {
                ImageUse::Start => {
                    let tokens = |vae: &ImageVae, z: &Tensor| Ok(vae.to_tokens(z)?);
                    let make = || self.components.vae.starts(picture, requests, &self.options, tokens);
                    starts = self.options.once("the given picture", make)?;
                }
                ImageUse::Reference => {
                    let picture = self.family.reference(picture, self.side())?;
                    let grid = self.grid(picture.height(), picture.width());
                    let tokens =
                        self.options.once("the given picture", || Ok(vec![self.tokens_of(&picture)?]));
                    reference = tokens?.pop().map(|tokens| (tokens, grid));
                }
            }
        }

        stage(Stage::LoadingTransformer);
        let grid = self.grid(first.height(), first.width());
        let references: Vec<[usize; 2]> = reference.iter().map(|(_, grid)| *grid).collect();
        let (weights, _) = self.components.adapted(&self.options)?;
        let Loaded { network, contexts, positions } =
            self.family.load(&weights, &encoded, grid, &references, &self.options)?;
        let context = |text: &str| {
            let mut known = prompts.iter().zip(&contexts);
            known.find(|(prompt, _)| prompt.text == text).map(|(_, context)| context.clone())
        };
        let mut starts = starts.into_iter();
        let one = |request: &Request| -> Result<Arc<dyn Denoiser>> {
            let Some(cond) = context(&request.prompt) else {
                return Err(PipelineError::request("no prompt", "give one"));
            };
            let uncond = negative.and_then(|text| context(text));
            let mut denoiser =
                FluxDenoiser::new(Arc::clone(&network), cond, uncond, positions.clone(), guidance);
            if let Some(tokens) = starts.next() {
                denoiser = denoiser.starting_from(tokens);
            }
            if let Some((tokens, _)) = &reference {
                denoiser = denoiser.with_reference(tokens.clone());
            }
            Ok(Arc::new(denoiser))
        };
        requests.iter().map(one).collect()
    }

    fn unread(&self) -> Vec<String> {
        self.components.folder.unread()
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        let [rows, columns] = self.grid(request.height(), request.width());
        let (channels, side) = (self.components.vae.config.latent_channels, packing::PATCH);
        // In the order of the reference, which turns squares of latents into channels before drawing (FLUX.2)
        // or after.
        let tokens = match self.components.vae.config.scale {
            LatentScale::Factor { .. } => packing::pack(&self.normal(
                request,
                still::NOISE,
                [1, channels, side * rows, side * columns],
            )?),
            LatentScale::BatchNorm { .. } => packing::flatten(&self.normal(
                request,
                still::NOISE,
                [1, side * side * channels, rows, columns],
            )?),
        };
        Ok(tokens?)
    }

    fn decode(
        &self,
        request: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        let vae = self.vae()?;
        let grid = self.grid(request.height(), request.width());
        let image = vae.from_tokens(latents, grid).and_then(|z| vae.decode(&z, self.tiling()));
        sink(&image?.squeeze(0)?.unsqueeze(1)?)
    }
}

inventory::submit! {
    Loader {
        class_names: components::CLASSES,
        detects: components::detects,
        looks_for: components::LOOKED_FOR,
        layouts: &["flux1", "flux1_diffusers", "flux2"],
        open: |folder, options| Ok(Box::new(FluxPipeline::open(folder, options)?)),
        origin: env!("CARGO_PKG_NAME"),
    }
}
