//! From a folder and a request to a picture.

use std::sync::Arc;

use candle_core::Tensor;
use magcache_core::{ModelMeta, Trajectory, inventory, schedule::Sizes};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline::{
        self, Defaults, Denoiser, LoadOptions, Loader, Pipeline, PipelineError, Request, Result,
        SamplingOption, Stage,
    },
    sampler::{Sampler, SamplerKind, SchedulerConfig},
};
use serde::Deserialize;

use crate::{HIDDEN, META, Mini, decoder::Decoder, denoiser::MiniDenoiser, text::TextEncoder};

/// `transformer/config.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    num_layers: usize,
}

/// A checkpoint. Opening it reads configurations; weights are loaded when they are needed.
#[derive(Debug)]
pub struct MiniPipeline {
    folder: Folder,
    options: LoadOptions,
    meta: ModelMeta,
    defaults: Defaults,
}

impl MiniPipeline {
    /// Opens a folder.
    ///
    /// # Errors
    /// A missing or unusable configuration.
    pub fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        let config: Config = folder.sub("transformer").read_json("config.json")?;
        let defaults = if folder.exists("magcache.json") {
            folder.read_json("magcache.json")?
        } else {
            let prompt = "a lighthouse".to_owned();
            let request = Request { prompt, steps: 20, size: [64, 64], guidance: 2.0, ..Request::default() };
            Defaults { fps: 1.0, request, ..Defaults::default() }
        };
        Ok(Self { folder, options, meta: META.with_blocks(&[config.num_layers]), defaults })
    }

    fn weights(&self, part: &str) -> Result<Weights> {
        Ok(Weights::open(&self.folder.sub(part), &self.options.device, self.options.dtype)?)
    }

    /// Rows and columns of an image's tokens.
    fn grid(request: &Request) -> [usize; 2] {
        [request.height() / Decoder::SIDE, request.width() / Decoder::SIDE]
    }
}

impl Pipeline for MiniPipeline {
    fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn networks(&self) -> Result<Vec<Weights>> {
        Ok(vec![Weights::open(
            &self.folder.sub("transformer"),
            &candle_core::Device::Cpu,
            WeightDtype::Keep,
        )?])
    }

    fn patch(&self) -> [usize; 2] {
        [Decoder::SIDE; 2]
    }

    fn takes(&self) -> Vec<SamplingOption> {
        vec![SamplingOption::sampler, SamplingOption::flow_shift]
    }

    fn check_values(&self, request: &Request) -> Result<()> {
        match request.frames {
            1 => Ok(()),
            n => Err(PipelineError::request(format!("{n} frames: this model makes one image"), "--frames 1")),
        }
    }

    fn sampler(&self, request: &Request) -> Result<Sampler> {
        let own = SchedulerConfig::new(SamplerKind::Euler, 3.0);
        Ok(Sampler::new(&own.with_overrides(request.sampler, request.flow_shift)?, request.steps)?)
    }

    fn trajectory(&self, request: &Request) -> Result<Trajectory> {
        Ok(self.sampler(request)?.trajectory(request.guidance > 1.0))
    }

    fn sizes(&self, request: &Request) -> Result<Sizes> {
        let tokens = Self::grid(request).iter().product();
        let dtype = self.weights("transformer")?.compute_dtype();
        Ok(Sizes { tokens, text_tokens: TextEncoder::LENGTH, latents: tokens * HIDDEN, timesteps: 1, dtype })
    }

    fn denoisers(
        &self,
        requests: &[Request],
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Vec<Arc<dyn Denoiser>>> {
        stage(Stage::EncodingPrompt);
        let encoder = TextEncoder::load(&self.weights("text_encoder")?)?;
        let mut encode = |text: &str| -> Result<Tensor> {
            let (encoded, cut) = encoder.encode(text)?;
            if cut > 0 {
                notes.push(format!("the last {cut} bytes of {text:?} are cut"));
            }
            Ok(encoded)
        };
        let texts = requests.iter().map(|request| {
            let guided = request.guidance > 1.0;
            let uncond = guided.then(|| encode(&request.negative_prompt)).transpose()?;
            Ok((encode(&request.prompt)?, uncond))
        });
        let texts = texts.collect::<Result<Vec<_>>>()?;
        stage(Stage::LoadingTransformer);
        let network = Arc::new(Mini::load(&self.weights("transformer")?, self.meta.blocks())?);
        let one = |(request, (cond, uncond)): (&Request, (Tensor, Option<Tensor>))| -> Arc<dyn Denoiser> {
            let network = Arc::clone(&network);
            Arc::new(MiniDenoiser { network, cond, uncond, guidance: request.guidance })
        };
        Ok(requests.iter().zip(texts).map(one).collect())
    }

    fn noise(&self, request: &Request) -> Result<Tensor> {
        let tokens = Self::grid(request).iter().product();
        pipeline::noise(request.seed, &[1, tokens, HIDDEN], &self.options.device)
    }

    fn decode(
        &self,
        request: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        stage(Stage::LoadingVae);
        let decoder = Decoder::load(&self.weights("vae")?)?;
        sink(&decoder.decode(latents, Self::grid(request))?)
    }
}

inventory::submit! {
    Loader {
        class_names: &["MiniPipeline"],
        detects: |_| false,
        looks_for: "",
        layouts: &[],
        open: |folder, options| Ok(Box::new(MiniPipeline::open(folder, options)?)),
        origin: env!("CARGO_PKG_NAME"),
    }
}
