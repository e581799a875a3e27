//! The network of a Qwen-Image case, with reference pictures where a run has them.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::HookRegistry;
use magcache_models::{
    autoencoder::image::packing,
    qwen_image::{QwenImageDenoiser, QwenImagePrompt, QwenImageTransformer},
    sampler::{Request, Sampler},
};

use serde::Deserialize;

use super::grids;
use crate::verify::{
    cache_e2e::{Sampling, Setup},
    case::Case,
    frequencies::like_recorded,
    report::CaseReport,
    transformer::Network,
};

/// What only these models have.
#[derive(Deserialize)]
struct Own {
    /// Frames, rows and columns of the tokens of each image.
    img_shapes: Option<Vec<[usize; 3]>>,
}

pub(super) fn setup(case: &Case, sampling: &Sampling, report: &mut CaseReport) -> Result<Setup> {
    let (config, grid) = (sampling.scheduler(case)?, sampling.grid()?);
    let steps = sampling.num_inference_steps;
    let sampler = Sampler::new(&config, Request::linear(&config, steps, config.mu(grid[0] * grid[1])))?;
    let scale = sampling.guidance_scale;
    let guided = scale > 1.0;
    let Own { img_shapes } = sampling.own()?;
    let shapes = img_shapes.as_deref().map_or_else(|| vec![grid], grids);
    let references = (1..shapes.len()).map(|i| {
        Ok(packing::pack(&case.tensor(&format!("edit.reference_latents.{}", i - 1))?.to_dtype(DType::F32)?)?)
    });
    let references = references.collect::<Result<Vec<Tensor>>>()?;
    let run = |which: &[usize]| {
        let mut network: QwenImageTransformer = Network::load(&case.folder, &case.on)?;
        network.round_frequencies_up(which)?;
        let prompt =
            |key: &str| Ok::<_, anyhow::Error>(QwenImagePrompt::new(&network, case.tensor(key)?, &shapes)?);
        let cond = prompt("prompt_embeds")?;
        let uncond = guided.then(|| prompt("negative_prompt_embeds")).transpose()?;
        let model = network.meta().clone();
        let mut denoiser = QwenImageDenoiser::new(Arc::new(network), cond, uncond, scale);
        if !references.is_empty() {
            denoiser = denoiser.with_references(Tensor::cat(&references, 1)?);
        }
        let latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
        let setup = Setup::new(Arc::new(denoiser), sampler.clone(), latents, model, guided, None)?;
        let mut dense = setup.generation(&HookRegistry::builder(setup.model.blocks()).build())?;
        dense.step(&|| false)?;
        let behind_first = dense.latents().clone();
        Ok((setup, behind_first))
    };
    // Runs with other numbers of steps have no recording of the first: the frequencies are the case's.
    if img_shapes.is_some() || !guided {
        return Ok(run(&[])?.0);
    }
    like_recorded(report, run, &case.tensor("dense.latents")?.get(0)?)
}
