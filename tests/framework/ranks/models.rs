//! Small models that can be divided among ranks.

use candle_core::Result as Computed;
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    flux::{Flux2Config, Flux2Transformer, FluxDenoiser, FluxGuidance},
    pipeline::{self, Denoiser, Entered, Generation, LoadOptions, Offload, PipelineError, Request},
    ranks::Ranks,
    sampler::{Sampler, SamplerKind, SchedulerConfig},
    wan::{TextContext, WanConfig, WanInput, WanTransformer, tiny},
    wav2vec2::Waveform,
};

use crate::prelude::*;

const STEPS: usize = 9;

/// A model and how its run begins.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    start: fn(&LoadOptions) -> Result<Start, PipelineError>,
    /// Whether its ranks divide the weights too.
    pub(crate) shard: bool,
    offload: Offload,
}

struct Start {
    meta: ModelMeta,
    denoiser: Arc<dyn Denoiser>,
    trajectory: Trajectory,
    sampler: Sampler,
    noise: Tensor,
}

/// Text to video, a pair of experts, a given picture, a timestep for every token and two samples, and both
/// generations of FLUX.
pub(crate) const WAN: Model = Model::of("wan2.1-t2v-tiny", |o| embedded("wan2.1-t2v-tiny", o));
pub(crate) const PAIR: Model = Model::of("wan2.2-t2v-tiny", |o| embedded("wan2.2-t2v-tiny", o));
pub(crate) const PICTURE: Model = Model::of("wan2.2-i2v-tiny", |o| embedded("wan2.2-i2v-tiny", o));
pub(crate) const TOKENS: Model = Model::of("a timestep for every token", by_token);
pub(crate) const FLUX: Model = Model::of("tiny-flux", |o| embedded("tiny-flux", o));
pub(crate) const FLUX2: Model = Model::of("flux2", flux2);
pub(crate) const SPEECH: Model = Model::of("wan2.2-s2v-tiny", speech);

impl Model {
    const fn of(name: &'static str, start: fn(&LoadOptions) -> Result<Start, PipelineError>) -> Self {
        Self { name, start, shard: false, offload: Offload::None }
    }

    /// The same with the weights of blocks in their files.
    pub(crate) fn on_disk(self) -> Self {
        Self { offload: Offload::Blocks, ..self }
    }

    /// The same, whose ranks divide the weights too.
    pub(crate) fn sharded(self) -> Self {
        Self { shard: true, ..self }
    }

    /// A run with the tables of a plan.
    pub(crate) fn begin(&self, plan: &str, ranks: Option<&Ranks>) -> Result<Generation, PipelineError> {
        self.begin_with(plan, ranks, Arc::clone)
    }

    /// The same with other hooks besides.
    pub(crate) fn begin_with(
        &self,
        plan: &str,
        ranks: Option<&Ranks>,
        more: impl Fn(&Arc<HookRegistry>) -> Arc<HookRegistry>,
    ) -> Result<Generation, PipelineError> {
        let Start { meta, denoiser, trajectory, sampler, noise } = (self.start)(&LoadOptions {
            ranks: ranks.cloned(),
            shard: self.shard,
            offload: self.offload,
            ..LoadOptions::default()
        })?;
        magcache_strategies::link();
        let built = CachePlan::parse(plan)?.build(&meta, Some(&trajectory))?;
        Generation::new(denoiser, trajectory, sampler, &noise, &more(&built.registry))?.among(ranks)
    }

    /// Whether a plan can be used with it.
    pub(crate) fn takes(&self, plan: &str) -> bool {
        self.begin(plan, None).is_ok()
    }
}

/// A model of the program, with an odd number of tokens: 3 x 3 in each of 3 frames, or 5 x 7.
fn embedded(name: &str, options: &LoadOptions) -> Result<Start, PipelineError> {
    magcache_models::link();
    let model = pipeline::embedded().into_iter().find(|model| model.name == name).unwrap();
    let pipeline = pipeline::open((model.folder)(), options.clone())?;
    let defaults = pipeline.defaults().request.clone();
    let is_video = defaults.frames > 1;
    let (frames, size) = if is_video { (9, [48, 48]) } else { (1, [56, 40]) };
    let image = pipeline.default_image()?.map(Arc::new);
    let guided = if is_video { defaults.guidance } else { 1.0 };
    let request = Request { steps: STEPS, frames, size, image, guidance: guided, ..defaults };
    let request = if is_video { request } else { Request { true_cfg: Some(3.0), ..request } };
    Ok(Start {
        meta: pipeline.meta().clone(),
        denoiser: pipeline.denoiser(&request, &|_| {}, &mut Vec::new())?,
        trajectory: pipeline.trajectory(&request)?,
        sampler: pipeline.sampler(&request)?,
        noise: pipeline.noise(&request)?,
    })
}

/// Speech to video, two clips of which the second sees the first, with 12 tokens a frame.
fn speech(options: &LoadOptions) -> Result<Start, PipelineError> {
    magcache_models::link();
    let model = pipeline::embedded().into_iter().find(|model| model.name == "wan2.2-s2v-tiny").unwrap();
    let pipeline = pipeline::open((model.folder)(), options.clone())?;
    let defaults = pipeline.defaults().request.clone();
    let samples: Vec<f32> =
        (0..24_000).map(|i| (i as f32 * 0.17).sin() * (i as f32 * 0.000_5).sin()).collect();
    let request = Request {
        steps: STEPS,
        frames: 8,
        clips: Some(2),
        image: pipeline.default_image()?.map(Arc::new),
        audio: Some(Arc::new(Waveform(samples))),
        ..defaults
    };
    let request = pipeline.resolved(&request);
    Ok(Start {
        meta: pipeline.meta().clone(),
        denoiser: pipeline.denoiser(&request, &|_| {}, &mut Vec::new())?,
        trajectory: pipeline.trajectory(&request)?,
        sampler: pipeline.sampler(&request)?,
        noise: pipeline.noise(&request)?,
    })
}

fn waves(shape: &[usize], pace: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * pace).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn euler(meta: ModelMeta, denoiser: Arc<dyn Denoiser>, noise: Tensor) -> Start {
    let sampler = Sampler::new(&SchedulerConfig::new(SamplerKind::Euler, 1.0), STEPS).unwrap();
    Start { meta, denoiser, trajectory: guided(STEPS), sampler, noise }
}

/// Wan's network with a timestep for every token, as in TI2V, and with two samples.
struct ByToken {
    network: WanTransformer,
    texts: [TextContext; 2],
}

struct Tokens<'a>(&'a ByToken, WanInput);

impl Denoiser for ByToken {
    fn enter<'a>(&'a self, latents: &'a Tensor, step: &'a Step) -> Computed<Box<dyn Entered + 'a>> {
        let [batch, _, frames, height, width] = latents.dims()[..] else { panic!("no video") };
        let tokens = frames * height * width / 4;
        // Those of the first frame are not noisy.
        let timestep = |i: usize| if i % tokens < tokens / frames { 0.0 } else { step.timestep as f32 };
        let timesteps: Vec<f32> = (0..batch * tokens).map(timestep).collect();
        let timesteps = Tensor::from_vec(timesteps, (batch, tokens), latents.device())?;
        Ok(Box::new(Tokens(self, self.network.embed(latents, &timesteps)?)))
    }

    fn guidance(&self, _: &Step) -> f64 {
        3.0
    }
}

impl Entered for Tokens<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> Computed<Tensor> {
        let [cond, uncond] = &self.0.texts;
        self.0.network.predict(&self.1, if branch == Branch::Uncond { uncond } else { cond }, pass)
    }
}

fn by_token(options: &LoadOptions) -> Result<Start, PipelineError> {
    let folder = tiny::wan21_t2v().sub("transformer");
    let config = WanConfig::from_json(&folder.read_to_string("config.json")?).unwrap();
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep)?;
    let network = WanTransformer::load_in(&weights, config.clone(), &options.residence()?)?;
    let network = network.over(options.plane())?;
    let text = |pace| network.text_context(&waves(&[2, 5, config.text_dim], pace));
    let texts = [text(0.3)?, text(0.7)?];
    let meta = meta::model("wan2.1-t2v").unwrap().clone().with_blocks(&[config.num_layers]);
    let meta = ModelMeta { profiles: (&[]).into(), ..meta };
    let noise = waves(&[2, config.in_channels, 3, 6, 6], 0.37);
    Ok(euler(meta, Arc::new(ByToken { network, texts }), noise))
}

/// FLUX.2's network with heads of half the size, so that there are four.
fn flux2(options: &LoadOptions) -> Result<Start, PipelineError> {
    let case =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/transformers/flux2_klein");
    let file = "diffusion_pytorch_model.safetensors";
    let mut tensors = candle_core::safetensors::load(case.join(file), &Device::Cpu)?;
    for (name, tensor) in &mut tensors {
        if name.contains("norm_q") || name.contains("norm_k") || name.contains("norm_added") {
            *tensor = tensor.narrow(0, 0, 8)?.contiguous()?;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&tensors, folder.path().join(file))?;
    let config = std::fs::read_to_string(case.join("config.json")).unwrap();
    let config = Flux2Config::from_json(&config).unwrap();
    let config =
        Flux2Config { attention_head_dim: 8, num_attention_heads: 4, axes_dims_rope: [2; 4], ..config };
    let weights = Weights::open(&Folder::open(folder.path())?, &Device::Cpu, WeightDtype::Keep)?;
    let network = Flux2Transformer::load_in(&weights, config.clone(), &options.residence()?)?;
    let network = network.over(options.plane())?;
    let text = |pace| network.text_context(&waves(&[1, 7, config.joint_attention_dim], pace));
    let (cond, uncond) = (text(0.3)?, text(0.7)?);
    let id = |i: usize| [0.0, (i / 5) as f32, (i % 5) as f32, 0.0];
    let positions = network.positions(&[[0.0; 4]; 7], &(0..35).map(id).collect::<Vec<_>>())?;
    let meta = ModelMeta { guided: true, ..network.meta().clone() };
    let guidance = FluxGuidance { embedded: None, scale: 3.0 };
    let denoiser = FluxDenoiser::new(Arc::new(network), cond, Some(uncond), positions, guidance);
    Ok(euler(meta, Arc::new(denoiser), waves(&[1, 35, config.in_channels], 0.37)))
}
