//! Runs a solver over a whole trajectory, and reads which solver a reference case means.
//!
//! A reference case is one folder of recorded scheduler runs (`case.json`, `golden.safetensors` and, for the classes
//! of diffusers, `scheduler_config.json`). Each of its calls becomes a configuration and a [`Request`];
//! [`replay`] then gives the trajectory to compare.

use candle_core::Tensor;
use serde_json::Value;

use super::{Request, Result, Sampler, SamplerError, SamplerKind, SchedulerConfig};

/// Every sample of a trajectory, from `latents` (before step 0) to the result: one more than steps.
///
/// `model(i, timestep, sample)` gives the velocity at step `i`.
///
/// # Errors
/// Those of `model` and of [`Sampler::step`].
pub fn replay(
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

/// The configuration and the request of one call of a scheduler case.
///
/// `case` is the case's name, which says how its recording asked for the schedule (`flow_euler_flux_dev` as FLUX.1's
/// pipeline does, `wan_official_unipc_shift5` as the Wan repository does); `args` are the call's arguments, whose
/// `config`, if there is one, replaces the file;
/// `scheduler_config` is the text of the case's `scheduler_config.json`, if it has one.
///
/// # Errors
/// [`SamplerError::Case`] for a case without a configuration or with missing arguments, or the configuration's errors.
pub fn reference_call(
    case: &str,
    args: &Value,
    scheduler_config: Option<&str>,
) -> Result<(SchedulerConfig, Request)> {
    let missing = |reason: &str| SamplerError::Case { case: case.to_owned(), reason: reason.to_owned() };
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
        // A call of the UniPC variants states no class.
        let class = settings.get("_class_name").map_or(Ok(SamplerKind::UniPc), SchedulerConfig::kind_of)?;
        SchedulerConfig::from_settings(class, settings)?
    } else {
        SchedulerConfig::from_json(
            scheduler_config.ok_or_else(|| missing("it has no scheduler_config.json"))?,
        )?
    };
    let tokens = count("image_seq_len").unwrap_or(config.base_image_seq_len);
    let request = if case.starts_with("flow_euler_flux2") {
        Request::flux2(&config, steps, tokens)
    } else if case.starts_with("flow_euler_flux") {
        Request::flux(&config, steps, tokens)
    } else {
        Request { mu: args.get("mu").and_then(Value::as_f64), ..steps.into() }
    };
    Ok((config, request))
}
