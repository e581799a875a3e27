//! Given frames, in the form that Wan's transformers take.

use anyhow::{Context, Result};
use candle_core::Device;
use magcache_models::{autoencoder::VideoVae, wan::FrameCondition};
use serde::Deserialize;

use super::{
    case::{Call, Case},
    report::CaseReport,
};
use crate::console::bad_input;

/// The timestep and patch that the case's tokens were recorded with; its calls do not record them.
const TIMESTEP: f64 = 700.0;
const PATCH: [usize; 3] = [1, 2, 2];

#[derive(Deserialize)]
struct Args {
    num_frames: usize,
    #[serde(default)]
    expand_timesteps: bool,
}

/// Whether the case is about given frames rather than the autoencoder itself.
pub(super) fn is_one(case: &Case) -> bool {
    case.calls().iter().any(|call| call.inputs.contains_key("image"))
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let vae = VideoVae::open(&case.folder, &Device::Cpu)?;
    for call in case.calls() {
        one(case, &vae, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

fn one(case: &Case, vae: &VideoVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    let args =
        Args::deserialize(&call.args).map_err(|e| bad_input(format!("args of {:?}: {e}", call.name)))?;
    let (first, latents) = (case.required(call, "image")?, case.required(call, "latents")?);
    let last = case.input(call, "last_image")?;
    let condition = if args.expand_timesteps {
        FrameCondition::first_frame(vae, first, args.num_frames, None)?
    } else {
        FrameCondition::channels(vae, first, last, args.num_frames, None)?
    };
    for (output, key) in &call.outputs {
        let got = match output.as_str() {
            "condition" => condition.tensor().clone(),
            "first_frame_mask" => condition.noise_mask()?,
            "model_input" => condition.model_input(latents)?,
            "timestep_tokens" => condition.timestep(TIMESTEP, latents.dim(0)?, PATCH)?,
            _ => {
                report.leave_out(key, "given frames have no such part");
                continue;
            }
        };
        report.tensors(&call.name, output, &got, case.tensor(key)?, call.tolerance())?;
    }
    Ok(())
}
