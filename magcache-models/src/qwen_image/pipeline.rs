//! Qwen-Image and Qwen-Image-Edit from a checkpoint folder, or from single files.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use magcache_core::{ModelMeta, Trajectory, inventory, schedule};

use super::{
    Edition, QwenImageDenoiser, QwenImagePrompt, QwenImageTransformer,
    components::{self, Components},
    meta, sizes,
    text::{self, Tokens},
    transformer::BLOCKS,
};
use crate::{
    autoencoder::{Tiling, VideoVae, image::packing},
    checkpoint::{AdapterReport, Folder, WeightDtype, Weights},
    image::Picture,
    pipeline::{
        Defaults, Denoiser, Division, LoadOptions, Loader, Phase, Pipeline, PipelineError, Request, Result,
        SamplingOption, Stage, adapters_of, noise_of_stream, text_phase, transformer_phase, truncated,
    },
    sampler::{self, Sampler, SchedulerConfig},
    text::{PromptTokenizer, Qwen25VlEncoder, TokenizerDefaults, processed_size},
};

/// The part of the schedule that runs on a picture if the request does not say; the default of diffusers
/// 0.42.1.
const STRENGTH: f64 = 0.6;

/// Random streams of one seed: the initial noise, and the sample of the picture's latents.
const NOISE: u64 = 0;
const IMAGE: u64 = 1;

/// A checkpoint. Opening it reads configurations; weights are loaded when they are needed and dropped when
/// they are not.
///
/// Latents are tokens, `[1, rows * columns, channels]`.
///
/// Source: `QwenImagePipeline`, `QwenImageImg2ImgPipeline`, `QwenImageEditPipeline` and
/// `QwenImageEditPlusPipeline` of diffusers 0.42.1. Differences: initial noise is drawn by `ChaCha20`, so
/// that it is the same on every machine; sizes that are not multiples of the patch are refused instead of
/// rounded; tokens of pictures have their own positions in the text encoder, which diffusers does not pass to
/// transformers 5.
#[derive(Debug)]
pub struct QwenImagePipeline {
    components: Components,
    options: LoadOptions,
    meta: ModelMeta,
    defaults: Defaults,
}

impl QwenImagePipeline {
    /// Opens a folder.
    ///
    /// # Errors
    /// A missing or unusable configuration.
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        const DEFAULTS: &str = "magcache.json";
        let components = Components::open(folder.computing_with(options.ops), &options.files)?;
        let folder = &components.folder;
        let own = folder.exists(DEFAULTS).then(|| folder.read_json::<Defaults>(DEFAULTS)).transpose()?;
        let defaults = own.unwrap_or_else(|| published(&components));
        let meta = match &defaults.model {
            Some(name) => magcache_core::meta::model(name)?.clone(),
            None => meta::of(&components.config, components.edition.sees()),
        };
        Ok(Self { components, options, meta, defaults })
    }

    fn edition(&self) -> Edition {
        self.components.edition
    }

    fn device(&self) -> &Device {
        &self.options.device
    }

    /// Side of a token in pixels.
    fn side(&self) -> usize {
        packing::PATCH * self.components.vae.spatial_scale()
    }

    /// Rows and columns of the tokens of a picture of this width and height.
    fn grid(&self, [width, height]: [usize; 2]) -> [usize; 2] {
        [height / self.side(), width / self.side()]
    }

    fn guided(request: &Request) -> bool {
        request.guidance > 1.0
    }

    fn schedule(&self, request: &Request) -> Result<(SchedulerConfig, sampler::Request)> {
        let config = self.components.scheduler.clone().with_overrides(request.sampler, request.flow_shift)?;
        let [rows, columns] = self.grid(request.size);
        let schedule = sampler::Request::linear(&config, request.steps, config.mu(rows * columns));
        Ok((config, schedule))
    }

    fn tiling(&self) -> Option<Tiling> {
        self.options.tile_vae.then(Tiling::default)
    }

    fn normal(&self, request: &Request, stream: u64, shape: [usize; 4]) -> Result<Tensor> {
        Ok(noise_of_stream(request.seed, stream, &shape[..], self.device())?)
    }

    /// Shape of the target's latents.
    fn latents(&self, request: &Request) -> [usize; 4] {
        let [rows, columns] = self.grid(request.size);
        [1, self.components.vae.z_dim, packing::PATCH * rows, packing::PATCH * columns]
    }

    /// The pictures that the network looks at.
    fn references<'r>(&self, request: &'r Request) -> Vec<&'r Picture> {
        if !self.edition().sees() {
            return Vec::new();
        }
        let all = [&request.image, &request.image_2, &request.image_3];
        all.into_iter().filter_map(Option::as_deref).collect()
    }

    /// Width and height of each of these for the autoencoder, in whole tokens.
    fn reference_sizes(&self, references: &[&Picture]) -> Vec<[usize; 2]> {
        let whole = |side: usize| (side / self.side()).max(1) * self.side();
        references.iter().map(|picture| sizes::for_latents(picture).map(whole)).collect()
    }

    fn tokenizer(&self) -> Result<PromptTokenizer> {
        let most = self.edition().max_length();
        let defaults = TokenizerDefaults { max_length: most, ..text::TOKENIZER };
        let tokenizer = PromptTokenizer::open(self.components.tokenizer()?, defaults)?;
        tokenizer.with_max_length(most, most).map_err(|e| PipelineError::part("tokenizer", e))
    }

    fn tokens(&self, tokenizer: &PromptTokenizer, prompt: &str, references: &[&Picture]) -> Result<Tokens> {
        let vision = &self.components.text.vision;
        let seen = references.iter().map(|picture| {
            let size = processed_size(vision, sizes::for_text(self.edition(), picture));
            size.iter().map(|side| side / vision.token_side()).product()
        });
        let image = self.components.text.image_token_id;
        text::tokenize(tokenizer, self.edition(), prompt, image, &seen.collect::<Vec<_>>())
            .map_err(|e| PipelineError::part("prompt", e))
    }

    /// The texts of requests, each once: prompts, then the negative one where guidance reads it.
    fn texts(requests: &[Request]) -> Vec<(&'static str, &str)> {
        let mut texts: Vec<(&'static str, &str)> = Vec::new();
        let negative = requests.first().filter(|first| Self::guided(first));
        let negative = negative.map(|first| ("negative prompt", first.negative_prompt.as_str()));
        let prompts = requests.iter().map(|request| ("prompt", request.prompt.as_str()));
        for text in prompts.chain(negative) {
            if !texts.iter().any(|(_, known)| *known == text.1) {
                texts.push(text);
            }
        }
        texts
    }

    /// Embeddings of these texts beside the pictures.
    fn encode(
        &self,
        texts: &[(&'static str, &str)],
        references: &[&Picture],
        notes: &mut Vec<String>,
    ) -> Result<Vec<Tensor>> {
        let tokenizer = self.tokenizer()?;
        let weights = self.components.text_encoder(self.device(), self.options.dtype)?;
        let sees = !references.is_empty();
        let encoder = Qwen25VlEncoder::load(&weights, &self.components.text, sees)?;
        let pictures: Vec<_> = references.iter().map(|p| (*p, sizes::for_text(self.edition(), p))).collect();
        let seen = text::seen(&encoder, &pictures, self.device())?;
        let one = |(what, prompt): &(&'static str, &str)| {
            let tokens = self.tokens(&tokenizer, prompt, references)?;
            notes.extend(truncated(what, self.edition().max_length(), tokens.truncated));
            text::encode(&encoder, self.edition(), &tokens, seen.as_ref())
        };
        texts.iter().map(one).collect()
    }

    fn vae(&self) -> Result<VideoVae> {
        Ok(self.components.autoencoder(self.device())?)
    }

    /// A picture as a video of one frame, `[1, 3, 1, height, width]`.
    fn frame(&self, picture: &Picture, [width, height]: [usize; 2]) -> Result<Tensor> {
        let pixels = picture.pixels(width, height, self.device());
        Ok(pixels.map_err(|e| PipelineError::part("image", e))?.unsqueeze(2)?)
    }

    /// Tokens of the picture that runs begin from, for each request the sample of its latents that its seed
    /// gives.
    fn starts(&self, picture: &Picture, requests: &[Request]) -> Result<Vec<Tensor>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let vae = self.vae()?;
        let moments = vae.moments(&self.frame(picture, first.size)?, self.tiling())?;
        let (channels, shape) = (self.components.vae.z_dim, self.latents(first));
        let mean = moments.narrow(1, 0, channels)?;
        let std = (moments.narrow(1, channels, channels)?.clamp(-30f32, 20f32)? * 0.5)?.exp()?;
        let one = |request: &Request| {
            let noise = self.normal(request, IMAGE, shape)?.unsqueeze(2)?;
            let z = (&mean + (&std * noise)?)?;
            Ok(packing::pack(&vae.normalize(&z)?.squeeze(2)?)?)
        };
        requests.iter().map(one).collect()
    }

    /// Tokens of all pictures that the network looks at, one after the other.
    fn looked_at(&self, references: &[&Picture], sizes: &[[usize; 2]]) -> Result<Tensor> {
        let vae = self.vae()?;
        let tokens = references.iter().zip(sizes).map(|(picture, size)| {
            let mode = vae.encode(&self.frame(picture, *size)?, self.tiling())?;
            Ok(packing::pack(&vae.normalize(&mode)?.squeeze(2)?)?)
        });
        Ok(Tensor::cat(&tokens.collect::<Result<Vec<Tensor>>>()?, 1)?)
    }

    fn check_pictures(&self, request: &Request) -> Result<()> {
        let pictures = self.references(request).len();
        let most = self.edition().pictures();
        if self.edition().sees() && request.image.is_none() {
            return Err(PipelineError::request(
                "this model edits a picture, and none is given",
                "`image = FILE`",
            ));
        }
        if pictures > most {
            let message = format!("{pictures} pictures, and this model looks at {most}");
            return Err(PipelineError::request(message, "Edit-2509 and Edit-2511 look at up to three"));
        }
        let Some(strength) = request.strength else { return Ok(()) };
        if request.image.is_none() {
            let message = format!("strength is {strength}, but there is no image to begin from");
            return Err(PipelineError::request(message, "`image = FILE`"));
        }
        if !(strength > 0.0 && strength <= 1.0) {
            let message = format!("strength is {strength}, it must be above 0 and at most 1");
            let hint = "0.6 runs the last 0.6 of the steps; 1 keeps nothing of the image";
            return Err(PipelineError::request(message, hint));
        }
        if request.steps > 0 && request.first_step() >= request.steps {
            let message = format!("strength {strength} leaves none of {} steps", request.steps);
            let hint = format!("at least {}", 1.0 / request.steps.max(1) as f64);
            return Err(PipelineError::request(message, hint));
        }
        Ok(())
    }
}

impl Pipeline for QwenImagePipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn networks(&self) -> Result<Vec<Weights>> {
        Ok(vec![self.components.transformer(&Device::Cpu, WeightDtype::Keep)?])
    }

    fn memory(&self, request: &Request) -> Result<Vec<Phase>> {
        let (device, dtype) = (&self.options.device, self.options.dtype);
        let (sizes, text) = (self.sizes(request)?, &self.components.text);
        let encoder = self.components.text_encoder(device, dtype)?;
        let read = self.edition().dropped() + sizes.text_tokens;
        let network = self.components.transformer(device, self.options.network_dtype())?;
        let config = &self.components.config;
        let vae = self.components.vae_weights(&Device::Cpu)?;
        let decoding = self.components.vae.decode_memory(request.width(), request.height(), 1, self.tiling());
        let decoding = decoding.map_err(|e| PipelineError::part("autoencoder", e))?;
        Ok(vec![
            text_phase(
                &[encoder],
                read,
                [text.hidden_size, text.intermediate_size],
                text.num_attention_heads,
            ),
            transformer_phase(
                "transformer",
                (&[network], &[BLOCKS]),
                sizes.tokens + sizes.text_tokens,
                [config.inner_dim(), config.mlp_dim()],
                Division::of(&self.options),
            ),
            Phase {
                name: "autoencoder",
                weights: vae.resident_bytes(),
                scratch: vae.scratch_bytes(),
                activations: decoding.total(candle_core::utils::get_num_threads()),
                ..Phase::default()
            },
        ])
    }

    fn encoders(&self) -> Result<Vec<Weights>> {
        Ok(vec![self.components.text_encoder(&Device::Cpu, WeightDtype::Keep)?])
    }

    fn adapters(&self) -> Result<Vec<AdapterReport>> {
        if adapters_of(&self.options.adapters, 0, 1).is_empty() {
            return Ok(Vec::new());
        }
        let options = LoadOptions { device: Device::Cpu, dtype: WeightDtype::Keep, ..self.options.clone() };
        Ok(self.components.adapted(&options)?.1)
    }

    fn patch(&self) -> [usize; 2] {
        [self.side(); 2]
    }

    fn size_like(&self, picture: &Picture, area: usize) -> [usize; 2] {
        let area = if self.edition().sees() { 1024 * 1024 } else { area };
        let whole = |side: usize| (side / self.side()).max(1) * self.side();
        sizes::of_area(picture, area as f64).map(whole)
    }

    fn resolved(&self, request: &Request) -> Request {
        let starts = request.image.is_some() && !self.edition().sees();
        let strength = request.strength.or(starts.then_some(STRENGTH));
        Request { strength, ..request.clone() }
    }

    fn takes(&self) -> Vec<SamplingOption> {
        use SamplingOption as Takes;
        let own = match self.edition() {
            Edition::Image => &[Takes::image, Takes::strength][..],
            Edition::Edit => &[Takes::image],
            Edition::EditPlus => &[Takes::image, Takes::image_2, Takes::image_3],
        };
        [&[Takes::sampler, Takes::flow_shift], own].concat()
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        if request.frames != 1 {
            let message = format!("{} frames: this model makes one image", request.frames);
            return Err(PipelineError::request(message, "`frames = 1`"));
        }
        self.check_pictures(&self.resolved(request))?;
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        let (config, schedule) = self.schedule(request)?;
        Ok(Sampler::new(&config, schedule)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let first = self.resolved(request).first_step();
        Ok(Trajectory { first, ..self.sampler(request)?.trajectory(Self::guided(request)) })
    }

    fn sizes(&self, request: &Request) -> Result<schedule::Sizes> {
        let references = self.references(request);
        let grids = self.reference_sizes(&references).into_iter().chain([request.size]);
        let tokenizer = self.tokenizer()?;
        let mut text_tokens = 0;
        for (_, prompt) in Self::texts(std::slice::from_ref(request)) {
            let tokens = self.tokens(&tokenizer, prompt, &references)?;
            text_tokens = text_tokens.max(tokens.ids.len().saturating_sub(self.edition().dropped()));
        }
        let dtype = if self.device().is_cpu() {
            DType::F32
        } else {
            self.components.transformer(self.device(), self.options.network_dtype())?.compute_dtype()
        };
        Ok(schedule::Sizes {
            tokens: grids.map(|size| self.grid(size).iter().product::<usize>()).sum(),
            text_tokens,
            latents: self.latents(request).iter().product(),
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
        let (references, texts) = (self.references(first), Self::texts(requests));
        stage(Stage::EncodingPrompt);
        let embeds = self.options.once("the encoded prompts", || self.encode(&texts, &references, notes))?;

        let sizes = self.reference_sizes(&references);
        let (mut starts, mut looked_at) = (Vec::new(), None);
        if let Some(picture) = &first.image {
            stage(Stage::EncodingImage);
            if references.is_empty() {
                starts = self.options.once("the given picture", || self.starts(picture, requests))?;
            } else {
                let tokens = || Ok(vec![self.looked_at(&references, &sizes)?]);
                looked_at = self.options.once("the given pictures", tokens)?.pop();
            }
        }

        stage(Stage::LoadingTransformer);
        let (weights, _) = self.components.adapted(&self.options)?;
        let config = self.components.config.clone();
        let network = QwenImageTransformer::load_in(&weights, config, &self.options.residence()?)?;
        let grids: Vec<_> = [first.size].into_iter().chain(sizes).map(|size| self.grid(size)).collect();
        let prompts = embeds.iter().map(|text| QwenImagePrompt::new(&network, text, &grids));
        let prompts = prompts.collect::<candle_core::Result<Vec<_>>>()?;
        let network = Arc::new(network.over(self.options.plane()).map_err(PipelineError::refused)?);
        let prompt = |text: &str| {
            let mut known = texts.iter().zip(&prompts);
            known.find(|((_, own), _)| *own == text).map(|(_, prompt)| prompt.clone())
        };
        let mut starts = starts.into_iter();
        let one = |request: &Request| -> Result<Arc<dyn Denoiser>> {
            let Some(cond) = prompt(&request.prompt) else {
                return Err(PipelineError::request("no prompt", "give one"));
            };
            let uncond = if Self::guided(first) { prompt(&first.negative_prompt) } else { None };
            let mut denoiser = QwenImageDenoiser::new(Arc::clone(&network), cond, uncond, first.guidance);
            if let Some(tokens) = starts.next() {
                denoiser = denoiser.starting_from(tokens);
            }
            if let Some(tokens) = &looked_at {
                denoiser = denoiser.with_references(tokens.clone());
            }
            Ok(Arc::new(denoiser))
        };
        requests.iter().map(one).collect()
    }

    fn unread(&self) -> Vec<String> {
        self.components.folder.unread()
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        Ok(packing::pack(&self.normal(request, NOISE, self.latents(request))?)?)
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
        let z = packing::unpack(latents, self.grid(request.size))?.unsqueeze(2)?;
        sink(&vae.decode(&vae.denormalize(&z)?, self.tiling())?.squeeze(0)?)
    }
}

/// The defaults that the models are published with; distilled ones (Lightning) are told by their schedule.
fn published(components: &Components) -> Defaults {
    let distilled = components.scheduler.shift_terminal.is_none();
    let (steps, guidance, size) = match (distilled, components.edition) {
        (true, _) => (8, 1.0, [1024, 1024]),
        (false, Edition::Image) => (50, 4.0, [1328, 1328]),
        (false, Edition::Edit) => (50, 4.0, [1024, 1024]),
        (false, Edition::EditPlus) => (40, 4.0, [1024, 1024]),
    };
    let prompt = match components.edition {
        Edition::Image => {
            "a lighthouse above a stormy sea, evening light, Ultra HD, 4K, cinematic composition."
        }
        Edition::Edit | Edition::EditPlus => "make it an evening in winter",
    };
    let (prompt, negative_prompt) = (prompt.to_owned(), " ".to_owned());
    let request = Request { prompt, negative_prompt, steps, guidance, size, ..Request::default() };
    Defaults { fps: 1.0, request, ..Defaults::default() }
}

inventory::submit! {
    Loader {
        class_names: components::CLASSES,
        detects: |_| false,
        looks_for: "",
        layouts: &[components::LAYOUT],
        open: |folder, options| Ok(Box::new(QwenImagePipeline::open(folder, options)?)),
        origin: env!("CARGO_PKG_NAME"),
    }
}
