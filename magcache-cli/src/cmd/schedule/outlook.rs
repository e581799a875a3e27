//! What is known about a run without weights: from a model, or from a profile.

use std::sync::Arc;

use anyhow::Result;
use magcache_core::{
    Branch, HookRegistry, ModelMeta, Signal, Trajectory, meta, profile::Profile, schedule::Sizes,
};
use magcache_models::{
    pipeline::{LoadOptions, SamplingOptions},
    sampler::{SamplerKind, Schedule as Levels, SchedulerConfig},
};

use crate::{
    args::Sampling,
    calibration::{Judged, facts, judge},
    console::{bad_input, bad_input_with},
    job::{self, Chosen, Config, Job},
};

/// Default steps and shift for a model that is known only from its profile.
const STEPS: usize = 50;
const FLOW_SHIFT: f64 = 5.0;

pub(super) struct Outlook {
    pub(super) profile: Option<String>,
    pub(super) meta: ModelMeta,
    pub(super) run: Trajectory,
    pub(super) config: Config,
    /// Verdicts on the profiles that its caches use.
    pub(super) judged: Vec<Judged>,
    /// Sizes of its tensors, if the model and the output are known.
    pub(super) sizes: Option<Sizes>,
    pub(super) chosen: Option<Chosen>,
}

pub(super) fn of_model(config: Config, flags: &Sampling) -> Result<Outlook> {
    let job = Job::new(config, LoadOptions::default())?;
    let judged = judge::of_plan(&job, &job.cache, flags, None)?;
    let meta = job.pipeline.meta().clone();
    Ok(Outlook {
        profile: profile_of(&job.config, &meta),
        sizes: Some(job.pipeline.sizes(&job.request)?),
        run: job.trajectory,
        config: job.config,
        chosen: job.chosen,
        judged,
        meta,
    })
}

/// The profile for a model's schedule: the named one, or the model's own.
pub(super) fn profile_for(model: &str, named: Option<&str>) -> Result<String> {
    let own = meta::model(model)?.profiles.first().copied();
    named.or(own).map(str::to_owned).ok_or_else(|| {
        let message = format!("model {model:?} has neither weights nor a profile in this program");
        bad_input_with(message, "give --profile NAME, or --model DIR with its checkpoint")
    })
}

/// A run with the options a profile was measured with, of `model` or of the profile's own model.
pub(super) fn of_profile(name: &str, model: Option<&str>, mut config: Config) -> Result<Outlook> {
    let profile = Profile::find(name)?;
    let variant = config.cache.first().and_then(|c| c.get("variant")).and_then(toml::Value::as_str);
    // A variant may be of something else than curves; whether there is one, the strategy says.
    let curves = profile.curves_of(variant).or_else(|_| profile.curves_of(None))?;
    let curve = curves.first().copied().cloned();
    let meta = match model.or(profile.model.as_deref()) {
        Some(model) => meta::model(model)?.clone(),
        None => {
            let guided = curve.as_ref().is_none_or(|c| c.ratios.contains_key("uncond"));
            ModelMeta {
                guided,
                ..ModelMeta::of("model", env!("CARGO_PKG_NAME"))
                    .signals(&[Signal::ModulatedInput])
                    .meta()
                    .with_blocks(&[1])
            }
        }
    };
    let shift =
        config.sampling.flow_shift.or(curve.as_ref().and_then(|c| c.flow_shift)).unwrap_or(FLOW_SHIFT);
    let boundary = config.sampling.boundary.or(curve.as_ref().and_then(|c| c.boundary_ratio));
    let steps = config.sampling.steps.or(curve.as_ref().map(|c| c.steps)).unwrap_or(STEPS);
    let kind = config.sampling.sampler.unwrap_or(SamplerKind::UniPc);
    let levels = Levels::new(&SchedulerConfig::new(kind, shift), steps)?;
    let guided = meta.guided && config.sampling.guidance.is_none_or(|g| g > 1.0);
    let run = Trajectory {
        phases: levels.experts(boundary)?,
        sigmas: levels.sigmas.iter().map(|s| f64::from(*s)).collect(),
        timesteps: levels.timesteps,
        branches: if guided { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] },
        unguided: Vec::new(),
        guidance_end: None,
        flow_shift: Some(shift),
        boundary_ratio: boundary,
        multistep: kind != SamplerKind::Euler,
        clips: 1,
        first: 0,
    };
    if let Some([width, height]) = config.sampling.size
        && (width == 0 || height == 0)
    {
        return Err(bad_input(format!("size {width}x{height}: both must be above 0")));
    }
    let target = config.target.take();
    let chosen = target.map(|t| t.choose(&config.cache, &config.residuals, &meta, &run, None)).transpose()?;
    if let Some(chosen) = &chosen {
        config.cache.clone_from(&chosen.tables);
    }
    let known = facts(&SamplingOptions {
        steps: Some(run.len()),
        sampler: Some(kind),
        flow_shift: run.flow_shift,
        boundary: run.boundary_ratio,
        ..config.sampling.clone()
    })?;
    let judged = judge::of_schedule(&config.caches()?, chosen.as_ref(), &meta, &run, known)?;
    Ok(Outlook { profile: Some(name.to_owned()), meta, run, config, judged, sizes: None, chosen })
}

fn profile_of(config: &Config, meta: &ModelMeta) -> Option<String> {
    let named = config.cache.first().and_then(|c| c.get("profile")).and_then(toml::Value::as_str);
    named.or(meta.profiles.first().copied()).map(str::to_owned)
}

/// The most bytes that the caches hold at once; exact if their decisions are known ahead. `None` also for a
/// model that does not say its width.
pub(super) fn cache_bytes(outlook: &Outlook, registry: &Arc<HookRegistry>) -> Result<Option<usize>> {
    let Some(sizes) = &outlook.sizes else { return Ok(None) };
    job::cache_bytes(outlook.config.caches()?, registry, &outlook.meta, &outlook.run, sizes)
}
