//! The network of a Z-Image case.

use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;
use magcache_core::{ModelMeta, Trajectory};
use magcache_models::{
    sampler::{self, Sampler},
    z_image::{ZImageDenoiser, ZImageGuidance, ZImageTransformer},
};

use super::{Sampling, Setup, grid, scheduler};
use crate::verify::{case::Case, transformer::Network};

pub(super) fn setup(case: &Case, sampling: &Sampling) -> Result<Setup> {
    let (config, grid) = (scheduler(case, sampling)?, grid(sampling)?);
    let mu = config.mu(grid[0] * grid[1]);
    let steps = sampler::Request::linear_f32(&config, sampling.num_inference_steps, mu);
    let sampler = Sampler::new(&config, steps)?;
    let network: ZImageTransformer = Network::load(&case.folder.sub("transformer"), &case.on)?;
    let (scale, normalization) = (sampling.guidance_scale, sampling.cfg_normalization);
    let guidance = ZImageGuidance { scale, normalization, truncation: sampling.cfg_truncation };
    let prompt = |key: &str| -> Result<_> { Ok(network.prompt(&case.tensor(key)?.unsqueeze(0)?, grid)?) };
    let cond = prompt("prompt_embeds")?;
    let uncond = guidance.is_on().then(|| prompt("negative_prompt_embeds")).transpose()?;
    let model = ModelMeta { guided: guidance.is_on(), ..network.meta().clone() };
    let denoiser = Arc::new(ZImageDenoiser::new(Arc::new(network), cond, uncond, guidance));
    let latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
    let setup = Setup::new(denoiser, sampler, latents, model, guidance.is_on(), None)?;
    let guidance_end = guidance.end(&setup.trajectory.timesteps);
    Ok(Setup { trajectory: Trajectory { guidance_end, ..setup.trajectory }, ..setup })
}
