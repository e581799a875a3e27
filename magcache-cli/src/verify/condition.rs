//! Given frames, in the form that Wan's transformers take.

use anyhow::Result;
use magcache_models::{autoencoder::VideoVae, wan::FrameCondition};
use serde::Deserialize;

use super::{call::Call, case::Case, report::CaseReport};

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
    case.calls().any(|call| call.inputs.contains_key("image"))
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let vae = VideoVae::open(&case.folder, &case.on.device)?;
    case.compare_calls(report, |call, report| one(&vae, call, report))
}

fn one(vae: &VideoVae, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let args: Args = call.args()?;
    let (first, latents) = (call.required("image")?, call.required("latents")?);
    let condition = if args.expand_timesteps {
        FrameCondition::first_frame(vae, first, args.num_frames, None)?
    } else {
        FrameCondition::channels(vae, first, call.input("last_image")?, args.num_frames, None)?
    };
    call.compare(report, call.tolerance(), "given frames have no such part", |output| {
        Ok(Some(match output {
            "condition" => condition.tensor().clone(),
            "first_frame_mask" => condition.noise_mask()?,
            "model_input" => condition.model_input(latents)?,
            "timestep_tokens" => condition.timestep(TIMESTEP, latents.dim(0)?, PATCH)?,
            _ => return Ok(None),
        }))
    })?;
    if let (true, Some(key)) = (args.expand_timesteps, call.outputs.get("model_input")) {
        // The given frame takes the place of the first latents at the end, too.
        let (finished, want) = (condition.finish(latents)?, call.case.tensor(key)?);
        report.tensors(&call.name, "finished latents", &finished, want, call.tolerance())?;
    }
    Ok(())
}
