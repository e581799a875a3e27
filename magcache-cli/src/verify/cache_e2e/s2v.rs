//! Cached videos of two clips: decisions by clip, step and branch, and latents along the way.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_core::{
    Branch, HookRegistry, ModelMeta, Pass, Step, Trajectory, calibrate::Recorder, log::Record,
};
use magcache_models::{
    pipeline::{self, Denoiser, Entered, Generation, NextClip, PipelineError},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
    wan::s2v::{ClipContext, ClipInputs, ClipTokens, S2vInput, S2vTransformer},
};
use serde::Deserialize;

use super::{
    TOLERANCE, branch,
    recipe::{Blocks, ByBranch, CachedWith, Recipe},
    steps_where,
};
use crate::verify::{case::Case, report::CaseReport, transformer::Network};

#[derive(Deserialize)]
struct Recorded {
    sampling: Sampling,
    runs: Vec<Run>,
    calibration: Calibration,
}

/// Ratios of magnitudes in dense runs, by clip and branch.
#[derive(Deserialize)]
struct Calibration {
    video_tokens: Vec<BTreeMap<String, Vec<f64>>>,
}

#[derive(Deserialize)]
struct Sampling {
    num_inference_steps: usize,
    flow_shift: f64,
    guidance_scale: f64,
    /// Frames and latents of what was before a clip.
    motion_frames: (usize, usize),
}

#[derive(Deserialize)]
struct Run {
    name: String,
    clips: Vec<ClipRun>,
    /// The steps of each clip after which its latents were recorded.
    latents_step_indices: Vec<usize>,
    #[serde(flatten)]
    cache: CachedWith,
}

#[derive(Deserialize)]
struct ClipRun {
    decisions: ByBranch,
    /// The name of the tensor.
    latents: String,
}

/// A clip whose conditions, noise and successor are recorded ones.
struct RecordedClip {
    network: Arc<S2vTransformer>,
    tokens: ClipTokens,
    cond: ClipContext,
    uncond: ClipContext,
    guidance: f64,
    next: Option<(Arc<dyn Denoiser>, Tensor)>,
}

struct Entry<'a>(&'a RecordedClip, S2vInput);

impl Denoiser for RecordedClip {
    fn enter<'a>(
        &'a self,
        latents: &'a Tensor,
        step: &'a Step,
    ) -> candle_core::Result<Box<dyn Entered + 'a>> {
        Ok(Box::new(Entry(self, self.network.embed(latents, step.timestep, &self.tokens)?)))
    }

    fn guidance(&self, _: &Step) -> f64 {
        self.guidance
    }

    fn next_clip(&self, _: &Tensor, _: &dyn Fn() -> bool) -> pipeline::Result<NextClip> {
        let Some((denoiser, noise)) = self.next.clone() else {
            return Err(PipelineError::request("the recording has no further clip", "fewer clips"));
        };
        Ok(NextClip { frames: Vec::new(), denoiser, noise })
    }
}

impl Entered for Entry<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let Self(RecordedClip { network, cond, uncond, .. }, input) = self;
        network.predict(input, if branch == Branch::Uncond { uncond } else { cond }, pass)
    }
}

/// What all runs of a case share.
struct Setup {
    /// Each with its noise.
    clips: Vec<(Arc<dyn Denoiser>, Tensor)>,
    sampler: Sampler,
    trajectory: Trajectory,
    model: ModelMeta,
}

pub(in crate::verify) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { sampling, runs, calibration } = case.read()?;
    let clips = runs.iter().map(|run| run.clips.len()).max().unwrap_or(1);
    let setup = setup(case, &sampling, clips)?;
    let want = case.tensor("timesteps")?;
    let got: Vec<i64> = setup.trajectory.timesteps.iter().map(|t| *t as i64).collect();
    report.tensors("sampling", "timesteps", &Tensor::new(got, want.device())?, want, 0.0)?;
    let networks = [("transformer", sampling.num_inference_steps)];
    for run in &runs {
        // What is beside the video counts too, as it does for any hook around a block of the official code.
        let blocks = Blocks { modules: &[], metric: "all_residual_rel_l1" };
        let recipe = run.cache.recipe(&run.name, &networks, blocks)?;
        if let Recipe::Unknown(why) = recipe {
            report.leave_out(format!("run {}", run.name), why);
            continue;
        }
        repeat(case, &setup, run, recipe, report).with_context(|| format!("run {:?}", run.name))?;
    }
    calibrate(&setup, &calibration, report)
}

/// Each clip in a dense run of its own.
fn calibrate(setup: &Setup, recorded: &Calibration, report: &mut CaseReport) -> Result<()> {
    for (i, ((clip, noise), want)) in setup.clips.iter().zip(&recorded.video_tokens).enumerate() {
        let recorder = Recorder::new(&setup.model);
        let trajectory = Trajectory { clips: 1, ..setup.trajectory.clone() };
        let (clip, sampler) = (Arc::clone(clip), setup.sampler.clone());
        let mut generation = Generation::new(clip, trajectory, sampler, noise, &recorder.registry())?;
        while !generation.is_done() {
            generation.step(&|| false)?;
        }
        let got = recorder.recording().curve().ratios;
        for (branch, want) in want {
            let of = format!("ratios of clip {i}, {branch}");
            let got = got.get(branch).with_context(|| format!("no {of}"))?;
            let [got, want] = [got, want].map(|ratios| Tensor::new(ratios.as_slice(), noise.device()));
            report.tensors("calibration", &of, &got?, &want?, TOLERANCE)?;
        }
    }
    Ok(())
}

fn setup(case: &Case, sampling: &Sampling, clips: usize) -> Result<Setup> {
    let network = Arc::new(<S2vTransformer as Network>::load(&case.folder, &case.on)?);
    let video = |name: &str| anyhow::Ok(case.tensor(name)?.unsqueeze(0)?);
    let (reference, motion) = (video("ref_latents")?, video("motion_latents")?);
    let mut all: Vec<(Arc<dyn Denoiser>, Tensor)> = Vec::new();
    for clip in (0..clips).rev() {
        let noise = video(&format!("clip{clip}.noise"))?;
        let features = case.tensor(&format!("clip{clip}.audio_input"))?;
        let tokens = network.clip(&ClipInputs {
            reference: &reference,
            motion: (clip > 0).then_some(&motion),
            pose: None,
            frames: noise.dim(2)?,
        })?;
        let context = |text: &str, features: &Tensor| {
            network.context(&video(text)?, features, sampling.motion_frames).map_err(anyhow::Error::from)
        };
        let clip = RecordedClip {
            cond: context("context", features)?,
            uncond: context("context_null", &features.zeros_like()?)?,
            guidance: sampling.guidance_scale,
            network: Arc::clone(&network),
            tokens,
            next: all.last().cloned(),
        };
        all.push((Arc::new(clip), noise));
    }
    all.reverse();
    let config = SchedulerConfig::new(SamplerKind::WanUniPc, sampling.flow_shift);
    let sampler = Sampler::new(&config, sampling.num_inference_steps)?;
    let trajectory = Trajectory { clips, ..sampler.trajectory(sampling.guidance_scale > 1.0) };
    // The curves of the published model do not apply to this one.
    let model = ModelMeta { profiles: (&[]).into(), ..network.meta()? };
    Ok(Setup { clips: all, sampler, trajectory, model })
}

fn repeat(case: &Case, setup: &Setup, run: &Run, recipe: Recipe, report: &mut CaseReport) -> Result<()> {
    let registry = match recipe {
        Recipe::Cache(plan) => plan.build(&setup.model, Some(&setup.trajectory))?.registry,
        _ => HookRegistry::builder(setup.model.blocks()).build(),
    };
    let (first, noise) = setup.clips.first().context("no clips were recorded")?;
    let (first, trajectory) = (Arc::clone(first), setup.trajectory.clone());
    let mut generation = Generation::new(first, trajectory, setup.sampler.clone(), noise, &registry)?;
    let mut after: Vec<Vec<Tensor>> = vec![Vec::new(); run.clips.len()];
    while !generation.is_done() {
        let step = setup.trajectory.step(generation.next());
        generation.step(&|| false)?;
        if run.latents_step_indices.contains(&step.index) {
            // With the last step of a clip, the next one has begun.
            after[step.clip].push(generation.ended().get(step.clip).unwrap_or(generation.latents()).clone());
        }
    }
    for (i, (clip, latents)) in run.clips.iter().zip(&after).enumerate() {
        for (name, want) in &clip.decisions {
            let want: Vec<bool> = want.skip.iter().map(|skip| *skip != 0).collect();
            let own = |step: &Step| step.clip == i;
            let got = steps_where(&generation, &own, branch(name)?, &Record::is_skip);
            report.decisions(&run.name, &format!("decisions {name} of clip {i}"), &got, &want);
        }
        let (got, want) = (Tensor::cat(latents, 0)?, case.tensor(&clip.latents)?);
        report.tensors(&run.name, &format!("latents of clip {i}"), &got, want, TOLERANCE)?;
    }
    Ok(())
}
