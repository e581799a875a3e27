//! The network of a Z-Image case.

use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;
use magcache_core::ModelMeta;
use magcache_models::{
    sampler::{self, Sampler},
    z_image::{ZImageDenoiser, ZImageGuidance, ZImageTransformer},
};

use serde::Deserialize;

use crate::verify::{
    cache_e2e::{Sampling, Setup},
    case::Case,
    transformer::Network,
};

/// What only these models have.
#[derive(Deserialize)]
struct Own {
    cfg_normalization: Option<f64>,
    cfg_truncation: Option<f64>,
}

pub(super) fn setup(case: &Case, sampling: &Sampling) -> Result<Setup> {
    let (config, grid) = (sampling.scheduler(case)?, sampling.grid()?);
    let mu = config.mu(grid[0] * grid[1]);
    let steps = sampler::Request::linear_f32(&config, sampling.num_inference_steps, mu);
    let sampler = Sampler::new(&config, steps)?;
    let network: ZImageTransformer = Network::load(&case.folder.sub("transformer"), &case.on)?;
    let Own { cfg_normalization: normalization, cfg_truncation: truncation } = sampling.own()?;
    let guidance = ZImageGuidance { scale: sampling.guidance_scale, normalization, truncation };
    let prompt = |key: &str| -> Result<_> { Ok(network.prompt(&case.tensor(key)?.unsqueeze(0)?, grid)?) };
    let cond = prompt("prompt_embeds")?;
    let uncond = guidance.is_on().then(|| prompt("negative_prompt_embeds")).transpose()?;
    let model = ModelMeta { guided: guidance.is_on(), ..network.meta().clone() };
    let denoiser = Arc::new(ZImageDenoiser::new(Arc::new(network), cond, uncond, guidance));
    let latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
    let mut setup = Setup::new(denoiser, sampler, latents, model, guidance.is_on(), None)?;
    setup.trajectory.guidance_end = guidance.end(&setup.trajectory.timesteps);
    Ok(setup)
}
