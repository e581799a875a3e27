//! Wan2.1 text to video from a diffusers folder.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use magcache_core::{Branch, ModelMeta, Trajectory, inventory};

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{
    Layout, WanConfig, WanDenoiser, WanSource, WanTransformer, meta,
    vae::{WanVae, WanVaeConfig},
};
use crate::{
    checkpoint::{Folder, Weights},
    pipeline::{Defaults, Denoiser, LoadOptions, Loader, Pipeline, PipelineError, Request, Result, Stage},
    sampler::{Sampler, Schedule, SchedulerConfig, Shift},
    text::{MAX_PROMPT_CHARS, WanTextEncoder},
};

/// A folder with `tokenizer/`, `text_encoder/`, `transformer/`, `vae/` and `scheduler/`. Opening it reads their
/// configurations; weights are loaded when they are needed and dropped when they are not.
#[derive(Debug)]
pub struct WanPipeline {
    folder: Folder,
    options: LoadOptions,
    transformer: WanConfig,
    vae: WanVaeConfig,
    scheduler: SchedulerConfig,
    meta: ModelMeta,
    defaults: Defaults,
}

impl WanPipeline {
    /// Opens a folder as diffusers writes it.
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        let text = folder.sub("transformer").read_to_string("config.json")?;
        let transformer = WanConfig::from_json(&text).map_err(|e| {
            let place = folder.describe_file("transformer/config.json");
            PipelineError::request(format!("{place}: {e}"), "is this a Wan folder?")
        })?;
        let vae = WanVaeConfig::read(&folder.sub("vae"))?;
        let scheduler =
            SchedulerConfig::from_json(&folder.sub("scheduler").read_to_string("scheduler_config.json")?)?;
        if transformer.in_channels != vae.z_dim {
            let message = format!(
                "the transformer takes {} latent channels, the autoencoder has {}",
                transformer.in_channels, vae.z_dim
            );
            return Err(PipelineError::request(message, "transformer/ and vae/ are of different models"));
        }
        let defaults = if folder.exists("magcache.json") {
            folder.read_json("magcache.json")?
        } else {
            published_defaults()
        };
        let meta = meta_of(&transformer, &defaults);
        Ok(Self { folder, options, transformer, vae, scheduler, meta, defaults })
    }

    fn device(&self) -> &Device {
        &self.options.device
    }

    fn weights(&self, part: &str) -> Result<Weights> {
        Ok(Weights::open(&self.folder.sub(part), self.device(), self.options.dtype)?)
    }

    fn config(&self, request: &Request) -> Result<SchedulerConfig> {
        Ok(self.scheduler.clone().with_overrides(request.sampler, request.flow_shift)?)
    }

    /// Latents of a request, `[channels, frames, height, width]`.
    fn latent_shape(&self, request: &Request) -> [usize; 4] {
        let (t, s) = (self.vae.temporal_scale(), self.vae.spatial_scale());
        [self.vae.z_dim, (request.frames.saturating_sub(1)) / t + 1, request.height / s, request.width / s]
    }

    fn encode(&self, request: &Request, notes: &mut Vec<String>) -> Result<(Tensor, Option<Tensor>)> {
        let encoder = WanTextEncoder::load(&self.folder, self.device(), self.options.dtype)?;
        let mut one = |text: &str, what: &str| -> Result<Tensor> {
            let tokens = encoder.tokenizer().encode(text).map_err(|e| PipelineError::part("prompt", e))?;
            if tokens.truncated > 0 {
                let (kept, cut) = (encoder.max_length(), tokens.truncated);
                notes.push(format!("the {what} is longer than {kept} tokens: the last {cut} are cut"));
            }
            encoder.encode_tokens(&[tokens]).map_err(|e| PipelineError::part("text encoder", e))
        };
        let cond = one(&request.prompt, "prompt")?;
        let guided = request.guidance > 1.0;
        let uncond = guided.then(|| one(&request.negative_prompt, "negative prompt")).transpose()?;
        Ok((cond, uncond))
    }
}

impl Pipeline for WanPipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn check(&self, request: &Request) -> Result<()> {
        let [_, patch_height, patch_width] = self.transformer.patch_size;
        let scale = self.vae.spatial_scale();
        for (what, got, multiple) in
            [("width", request.width, scale * patch_width), ("height", request.height, scale * patch_height)]
        {
            if got == 0 || !got.is_multiple_of(multiple) {
                let near = (got as f64 / multiple as f64).round().max(1.0) as usize * multiple;
                let message = format!("{what} {got} is not a multiple of {multiple}, this model's patch");
                return Err(PipelineError::request(message, format!("the nearest is {near}")));
            }
        }
        let t = self.vae.temporal_scale();
        if request.frames == 0 || !(request.frames - 1).is_multiple_of(t) {
            let near = request.frames.saturating_sub(1) / t * t + 1;
            let message =
                format!("{} frames: this model makes 1 more than a multiple of {t}", request.frames);
            return Err(PipelineError::request(message, format!("try {near} or {}", near + t)));
        }
        if !request.guidance.is_finite() || request.guidance < 0.0 {
            let message = format!("guidance is {}, it must be a number of at least 0", request.guidance);
            return Err(PipelineError::request(message, "at most 1 runs without the negative prompt"));
        }
        for (what, text) in [("prompt", &request.prompt), ("negative prompt", &request.negative_prompt)] {
            let chars = text.chars().count();
            if chars > MAX_PROMPT_CHARS {
                let message =
                    format!("the {what} has {chars} characters, at most {MAX_PROMPT_CHARS} are read");
                return Err(PipelineError::request(
                    message,
                    "shorten it; the model reads some hundred words",
                ));
            }
        }
        self.trajectory(request).map(|_| ())
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        Ok(Sampler::new(&self.config(request)?, request.steps)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        let config = self.config(request)?;
        let schedule = Schedule::new(&config, request.steps)?;
        let guided = request.guidance > 1.0;
        let branches = if guided { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] };
        Ok(Trajectory {
            phases: schedule.experts(None)?,
            sigmas: schedule.sigmas.iter().map(|s| f64::from(*s)).collect(),
            timesteps: schedule.timesteps,
            branches,
            flow_shift: match config.shift {
                Shift::Static(shift) => Some(shift),
                Shift::Dynamic { .. } => None,
            },
            boundary_ratio: None,
            first: 0,
        })
    }

    fn tokens(&self, request: &Request) -> usize {
        let [_, t, h, w] = self.latent_shape(request);
        let [pt, ph, pw] = self.transformer.patch_size;
        (t / pt.max(1)) * (h / ph.max(1)) * (w / pw.max(1))
    }

    fn denoiser(
        &self,
        request: &Request,
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Arc<dyn Denoiser>> {
        stage(Stage::EncodingPrompt);
        let (cond, uncond) = self.encode(request, notes)?;
        stage(Stage::LoadingTransformer);
        let weights = self.weights("transformer")?;
        let transformer = Arc::new(WanTransformer::load(&weights, self.transformer.clone())?);
        Ok(Arc::new(WanDenoiser::new(transformer, &cond, uncond.as_ref(), request.guidance)?))
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        let [c, t, h, w] = self.latent_shape(request);
        let mut rng = ChaCha20Rng::seed_from_u64(request.seed);
        let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(c * t * h * w).collect();
        Ok(Tensor::from_vec(values, (1, c, t, h, w), self.device())?)
    }

    fn decode(
        &self,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        let vae = WanVae::load(&self.weights("vae")?, &self.vae)?;
        let latents = vae.denormalize(latents)?;
        let mut stream = vae.decode_stream();
        for frame in 0..latents.dim(2)? {
            let frames = stream.push(&latents.narrow(2, frame, 1)?)?;
            sink(&frames.squeeze(0)?)?;
        }
        Ok(())
    }
}

/// What Wan2.1 is published with.
fn published_defaults() -> Defaults {
    Defaults {
        model: None,
        prompt: "a lighthouse above a stormy sea, evening light".to_owned(),
        negative_prompt: String::new(),
        steps: 50,
        width: 832,
        height: 480,
        frames: 81,
        fps: 16.0,
        guidance: 5.0,
    }
}

/// The registered model of the same width and depth, else the family's with this checkpoint's sizes and no profile.
fn meta_of(config: &WanConfig, defaults: &Defaults) -> ModelMeta {
    let (blocks, hidden_size) = (config.num_layers, config.inner_dim());
    let known = [meta::T2V_1_3B, meta::T2V_14B, meta::T2V_TINY];
    let same = |m: &ModelMeta| match &defaults.model {
        Some(name) => m.name == *name,
        None => m.blocks() == blocks && m.hidden_size == hidden_size,
    };
    let found = known.into_iter().find(same);
    let unknown = || ModelMeta { profiles: (&[]).into(), ..meta::T2V_1_3B };
    ModelMeta { hidden_size, ..found.unwrap_or_else(unknown).with_blocks(&[blocks]) }
}

fn open(folder: Folder, options: LoadOptions) -> Result<Box<dyn Pipeline>> {
    Ok(Box::new(WanPipeline::open(folder, options)?))
}

inventory::submit! {
    Loader {
        class_names: &["WanPipeline"],
        detects: |folder| WanSource::detect(folder) == Some(Layout::Native),
        looks_for: WanSource::NATIVE,
        open,
        origin: env!("CARGO_PKG_NAME"),
    }
}
