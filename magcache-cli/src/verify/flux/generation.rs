//! The network of a FLUX case, of either generation.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{HookRegistry, ModelMeta};
use magcache_models::{
    autoencoder::image::packing,
    flux::{Flux2Transformer, FluxDenoiser, FluxGuidance, FluxTransformer, flux1, flux2, positions},
    sampler::Sampler,
};

use crate::verify::{
    cache_e2e::{Sampling, Setup},
    case::Case,
    frequencies::like_recorded,
    report::CaseReport,
    transformer::Network,
};

/// FLUX.1, with embedded guidance if the network takes it.
pub(super) fn setup1(case: &Case, sampling: &Sampling, report: &mut CaseReport) -> Result<Setup> {
    let (config, grid) = (sampling.scheduler(case)?, sampling.grid()?);
    let steps = flux1::schedule(&config, sampling.num_inference_steps, grid[0] * grid[1]);
    let sampler = Sampler::new(&config, steps)?;
    let run = |which: &[usize]| {
        let mut network: FluxTransformer = Network::load(&case.folder, &case.on)?;
        network.round_frequencies_up(which)?;
        let (text, pooled) = (case.tensor("prompt_embeds")?, case.tensor("pooled_prompt_embeds")?);
        let cond = network.text_context(text, pooled)?;
        let embedded = network.config().guidance_embeds.then_some(sampling.guidance_scale);
        let guidance = FluxGuidance { embedded, scale: 1.0 };
        let text = vec![[0.0; 3]; cond.text().dim(1)?];
        let positions = network.positions(&text, &positions::image_ids(grid, 0))?;
        let model = network.meta().clone();
        let denoiser = Arc::new(FluxDenoiser::new(Arc::new(network), cond, None, positions, guidance));
        let setup = Setup::new(denoiser, sampler.clone(), latents(case)?, model, false, None)?;
        let mut dense = setup.generation(&HookRegistry::builder(setup.model.blocks()).build())?;
        dense.step(&|| false)?;
        let behind_first = dense.latents().clone();
        Ok((setup, behind_first))
    };
    like_recorded(report, run, &case.tensor("dense.latents")?.get(0)?)
}

/// FLUX.2, with classifier-free guidance.
pub(super) fn setup2(case: &Case, sampling: &Sampling) -> Result<Setup> {
    let (config, grid) = (sampling.scheduler(case)?, sampling.grid()?);
    let steps = flux2::schedule(&config, sampling.num_inference_steps, grid[0] * grid[1]);
    let network: Flux2Transformer = Network::load(&case.folder, &case.on)?;
    let guidance = FluxGuidance { embedded: None, scale: sampling.guidance_scale };
    let guided = guidance.is_classifier_free();
    let cond = network.text_context(case.tensor("prompt_embeds")?)?;
    let negative = guided.then(|| case.tensor("negative_prompt_embeds")).transpose()?;
    let uncond = negative.map(|text| network.text_context(text)).transpose()?;
    let text = positions::text_ids(cond.text().dim(1)?);
    let positions = network.positions(&text, &positions::latent_ids(grid))?;
    let model = ModelMeta { guided, ..network.meta().clone() };
    let denoiser = Arc::new(FluxDenoiser::new(Arc::new(network), cond, uncond, positions, guidance));
    Setup::new(denoiser, Sampler::new(&config, steps)?, latents(case)?, model, guided, None)
}

/// The latents at the start, as tokens.
fn latents(case: &Case) -> Result<Tensor> {
    let latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
    Ok(if latents.rank() == 4 { packing::flatten(&latents)? } else { latents })
}
