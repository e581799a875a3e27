//! The network of a FLUX case, of either generation.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{Branch, HookRegistry, ModelMeta, Phase, Trajectory};
use magcache_models::{
    autoencoder::image::packing,
    flux::{
        Flux2Transformer, FluxDenoiser, FluxGuidance, FluxNetwork, FluxTransformer, JointPositions,
        PromptContext, flux1, flux2, positions,
    },
    sampler::{Sampler, SchedulerConfig},
};

use super::{Sampling, Setup};
use crate::{
    console::bad_input,
    verify::{
        case::Case,
        flux::{self, Network},
        report::CaseReport,
    },
};

pub(super) use flux::{CLASS_1, CLASS_2};

pub(super) fn setup(case: &Case, sampling: &Sampling, report: &mut CaseReport) -> Result<Setup> {
    let Some(grid) = sampling.grid else {
        return Err(bad_input("`sampling` has no `grid`, the rows and columns of the image's tokens"));
    };
    let text = case.folder.sub("scheduler").read_to_string("scheduler_config.json")?;
    let (scheduler, steps) = (SchedulerConfig::from_json(&text)?, sampling.num_inference_steps);
    let tokens = grid[0] * grid[1];
    let mut latents = case.tensor("latents0")?.to_dtype(DType::F32)?;
    if latents.rank() == 4 {
        latents = packing::flatten(&latents)?;
    }
    let scale = sampling.guidance_scale;
    if case.class()? == CLASS_2 {
        let sampler = Sampler::new(&scheduler, flux2::schedule(&scheduler, steps, tokens))?;
        return Ok(of_flux2(case, scale, grid)?.setup(sampler, latents));
    }
    let sampler = Sampler::new(&scheduler, flux1::schedule(&scheduler, steps, tokens))?;
    let first = case.tensor("dense.latents")?.get(0)?;
    let run = |which: &[usize]| {
        let setup = of_flux1(case, scale, grid, which)?.setup(sampler.clone(), latents.clone());
        let mut dense = setup.generation(&HookRegistry::builder(setup.model.blocks()).build())?;
        dense.step(&|| false)?;
        let behind_first = dense.latents().clone();
        Ok((setup, behind_first))
    };
    flux::like_recorded(report, run, &first)
}

/// With embedded guidance if the network takes it.
fn of_flux1(case: &Case, scale: f64, grid: [usize; 2], rounded_up: &[usize]) -> Result<Parts> {
    let mut network: FluxTransformer = Network::load(&case.folder)?;
    network.round_frequencies_up(rounded_up)?;
    let (text, pooled) = (case.tensor("prompt_embeds")?, case.tensor("pooled_prompt_embeds")?);
    let cond = network.text_context(text, pooled)?;
    let embedded = network.config().guidance_embeds.then_some(scale);
    let text = vec![[0.0; 3]; cond.text().dim(1)?];
    let positions = network.positions(&text, &positions::image_ids(grid, 0))?;
    let guidance = FluxGuidance { embedded, scale: 1.0 };
    let model = network.meta().clone();
    Ok(Parts { network: Arc::new(network), cond, uncond: None, positions, guidance, model })
}

/// With classifier-free guidance.
fn of_flux2(case: &Case, scale: f64, grid: [usize; 2]) -> Result<Parts> {
    let network: Flux2Transformer = Network::load(&case.folder)?;
    let guidance = FluxGuidance { embedded: None, scale };
    let cond = network.text_context(case.tensor("prompt_embeds")?)?;
    let negative =
        guidance.is_classifier_free().then(|| case.tensor("negative_prompt_embeds")).transpose()?;
    let uncond = negative.map(|text| network.text_context(text)).transpose()?;
    let text = positions::text_ids(cond.text().dim(1)?);
    let positions = network.positions(&text, &positions::latent_ids(grid))?;
    let model = ModelMeta { guided: uncond.is_some(), ..network.meta().clone() };
    Ok(Parts { network: Arc::new(network), cond, uncond, positions, guidance, model })
}

/// What a run needs in addition to noise.
struct Parts {
    network: Arc<dyn FluxNetwork>,
    cond: PromptContext,
    uncond: Option<PromptContext>,
    positions: JointPositions,
    guidance: FluxGuidance,
    model: ModelMeta,
}

impl Parts {
    fn setup(self, sampler: Sampler, latents: Tensor) -> Setup {
        let Self { network, cond, uncond, positions, guidance, model } = self;
        let schedule = sampler.schedule();
        let guided = guidance.is_classifier_free();
        let trajectory = Trajectory {
            phases: vec![Phase::whole(schedule.steps())],
            sigmas: schedule.sigmas.iter().map(|sigma| f64::from(*sigma)).collect(),
            timesteps: schedule.timesteps.clone(),
            branches: if guided { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] },
            unguided: Vec::new(),
            flow_shift: None,
            boundary_ratio: None,
            first: 0,
        };
        let denoiser = Arc::new(FluxDenoiser::new(network, cond, uncond, positions, guidance));
        Setup { denoiser, sampler, trajectory, latents, model }
    }
}
