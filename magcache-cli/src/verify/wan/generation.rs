//! The networks of a Wan case, one or two.

use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;
use magcache_core::{ModelMeta, meta};
use magcache_models::{
    sampler::Sampler,
    wan::{WanDenoiser, WanPrompts, WanTransformer},
};

use crate::verify::{
    cache_e2e::{Sampling, Setup},
    case::Case,
    transformer::Network,
};

pub(super) fn setup(case: &Case, sampling: &Sampling) -> Result<Setup> {
    let folders = ["transformer", "transformer_2"].map(|part| case.folder.sub(part));
    let two = folders.iter().all(|folder| folder.exists("config.json"));
    let folders = if two { folders.to_vec() } else { vec![case.folder.clone()] };
    let networks: Vec<Arc<WanTransformer>> =
        folders.iter().map(|folder| Ok(Arc::new(Network::load(folder, &case.on)?))).collect::<Result<_>>()?;
    let config = networks[0].config();
    let base = meta::model(if two { "wan2.2-t2v-a14b" } else { "wan2.1-t2v" })?.clone();
    let base = base.with_blocks(&[config.num_layers]);
    // The curves of the published model do not apply to this one.
    let model = ModelMeta { hidden_size: config.inner_dim(), profiles: (&[]).into(), ..base };

    let first = sampling.guidance_scale;
    let guidance = [first, sampling.guidance_scale_2.unwrap_or(first)];
    let guidance: Vec<f64> = guidance.into_iter().take(networks.len()).collect();
    let guided = guidance.iter().any(|scale| *scale > 1.0);
    let uncond = guided.then(|| case.tensor("negative_prompt_embeds").cloned()).transpose()?;
    let prompts = WanPrompts { cond: case.tensor("prompt_embeds")?.clone(), uncond, image: None };
    let denoiser = Arc::new(WanDenoiser::new(networks, prompts, guidance)?);
    let sampler = Sampler::new(&sampling.scheduler(case)?, sampling.num_inference_steps)?;
    let latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
    Setup::new(denoiser, sampler, latents, model, guided, sampling.boundary_ratio.filter(|_| two))
}
