//! Runs a solver over a whole trajectory, and determines which solver a scheduler case uses.

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::inventory;
use magcache_models::sampler::{Request, Sampler, SamplerKind, SchedulerConfig};
use serde_json::{Map, Value};

use crate::console::bad_input;

/// Every sample of a trajectory, from `latents` (before step 0) to the result: one more than there are steps.
///
/// `model(i, timestep, sample)` gives the velocity at step `i`.
///
/// # Errors
/// Those of `model` and of [`Sampler::step`].
pub(super) fn replay(
    sampler: &mut Sampler,
    latents: &Tensor,
    mut model: impl FnMut(usize, f64, &Tensor) -> candle_core::Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let timesteps = sampler.timesteps().to_vec();
    let mut trajectory = vec![latents.clone()];
    let mut x = latents.clone();
    for (i, timestep) in timesteps.into_iter().enumerate() {
        let output = model(i, timestep, &x)?;
        x = sampler.step(i, &output, &x)?;
        trajectory.push(x.clone());
    }
    Ok(trajectory)
}

/// The grid of noise levels that pipelines of images hand the solver, as recordings call it.
pub(super) const LINE: &str = "linspace(1, 1/n, n)";

/// How the pipelines of a family ask for their grid, if not as those of images usually do.
pub(super) struct Grid {
    /// How the names of their cases begin.
    pub(super) cases: &'static str,
    /// For so many steps and tokens.
    pub(super) request: fn(&SchedulerConfig, usize, usize) -> Request,
}

inventory::collect!(Grid);

/// The configuration and the request of one call of a scheduler case.
///
/// `case` is the case's name, which tells how its recording set up the schedule (`flow_euler_flux_dev` as
/// FLUX.1's pipeline does, `wan_official_unipc_shift5` as the Wan repository does); `args` are the call's
/// arguments, whose `config`, if present, replaces the file; `scheduler_config` is the text of the case's
/// `scheduler_config.json`, if it has one.
///
/// # Errors
/// A case without a configuration or with missing arguments, or an error in the configuration.
pub(super) fn reference_call(
    case: &str,
    args: &Map<String, Value>,
    scheduler_config: Option<&str>,
) -> Result<(SchedulerConfig, Request)> {
    let missing = |reason: &str| bad_input(format!("scheduler case {case:?} cannot be replayed: {reason}"));
    let count = |key: &str| args.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let steps =
        count("num_inference_steps").ok_or_else(|| missing("num_inference_steps is not in its args"))?;
    let shift =
        || args.get("shift").and_then(Value::as_f64).ok_or_else(|| missing("shift is not in its args"));
    let config = if case.starts_with("wan_official_unipc") {
        SchedulerConfig::new(SamplerKind::WanUniPc, shift()?)
    } else if case.starts_with("wan_official_dpmpp") {
        SchedulerConfig::new(SamplerKind::WanDpmPp, shift()?)
    } else if let Some(settings) = args.get("config").and_then(Value::as_object) {
        // Calls of the UniPC variants do not name a class.
        let mut settings = settings.clone();
        settings.entry("_class_name").or_insert("UniPCMultistepScheduler".into());
        SchedulerConfig::from_json(&Value::Object(settings).to_string())?
    } else {
        SchedulerConfig::from_json(
            scheduler_config.ok_or_else(|| missing("it has no scheduler_config.json"))?,
        )?
    };
    let tokens = count("image_seq_len").unwrap_or(config.base_image_seq_len);
    // Pipelines that hand the solver this grid, in place of its own, shift it as FLUX.1's does.
    let given = match args.get("sigmas_in").and_then(Value::as_str) {
        None => false,
        Some(LINE) => true,
        Some(other) => return Err(missing(&format!("its noise levels are {other:?}"))),
    };
    let own = inventory::iter::<Grid>.into_iter().find(|grid| case.starts_with(grid.cases));
    let request = if let Some(grid) = own {
        (grid.request)(&config, steps, tokens)
    } else if given || case.starts_with("flow_euler_flux") {
        Request::linear(&config, steps, config.mu(tokens))
    } else {
        Request { mu: args.get("mu").and_then(Value::as_f64), ..steps.into() }
    };
    Ok((config, request))
}
