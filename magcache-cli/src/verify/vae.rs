//! The video autoencoder of Wan 2.1, in both directions.

use anyhow::{Context, Result};
use magcache_models::wan::vae::WanVae;
use serde::Deserialize;

use super::{
    case::{Call, Case},
    report::CaseReport,
};

const CLASS: &str = "AutoencoderKLWan";

#[derive(Deserialize)]
struct Blocks {
    #[serde(default)]
    is_residual: bool,
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let class = case.class()?;
    if class != CLASS {
        return Ok(report.skip(format!("this build has no {class}")));
    }
    if case.folder.read_json::<Blocks>("config.json")?.is_residual {
        return Ok(report.skip(format!("this build has no {CLASS} of Wan 2.2 (`is_residual`)")));
    }
    let vae = WanVae::open(&case.folder, &candle_core::Device::Cpu)?;
    for call in case.calls() {
        one(case, &vae, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
        for (_, key) in case.traces(call) {
            report.leave_out(key, "inside a part that this build does not open");
        }
    }
    report.finish()
}

fn one(case: &Case, vae: &WanVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    if call.args.get("tile_sample_min").is_some() {
        report.leave_out(&call.name, "this build streams over frames and has no tiles");
        return Ok(());
    }
    let inputs: Vec<&str> = call.inputs.keys().map(String::as_str).collect();
    match inputs.as_slice() {
        ["x"] => encode(case, vae, call, report),
        ["z" | "latents"] | ["latents", "z"] => decode(case, vae, call, report),
        [] => {
            report.leave_out(&call.name, "its input is not recorded");
            Ok(())
        }
        _ => {
            report.leave_out(&call.name, format!("this build has no step that takes {}", inputs.join(", ")));
            Ok(())
        }
    }
}

fn encode(case: &Case, vae: &WanVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    let moments = vae.moments(case.required(call, "x")?)?;
    let mode = moments.narrow(1, 0, vae.config().z_dim)?;
    for (output, key) in &call.outputs {
        let got = match output.as_str() {
            "moments" => moments.clone(),
            "mode" => mode.clone(),
            "latents" => vae.normalize(&mode)?,
            _ => {
                report.leave_out(key, "the encoder gives no such output");
                continue;
            }
        };
        report.tensors(&call.name, output, &got, case.tensor(key)?, call.tolerance())?;
    }
    Ok(())
}

fn decode(case: &Case, vae: &WanVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    let raw = case.input(call, "latents")?.map(|latents| vae.denormalize(latents)).transpose()?;
    let recorded = case.input(call, "z")?;
    if let (Some(got), Some(want)) = (&raw, recorded) {
        report.tensors(&call.name, "z", got, want, call.tolerance())?;
    }
    let Some(z) = recorded.or(raw.as_ref()) else { return Ok(()) };
    let sample = vae.decode(z)?;
    for (output, key) in &call.outputs {
        match output.as_str() {
            "sample" => report.tensors(&call.name, output, &sample, case.tensor(key)?, call.tolerance())?,
            "decoder_raw" => report.leave_out(key, "frames are clamped before they leave the decoder"),
            _ => report.leave_out(key, "the decoder gives no such output"),
        }
    }
    Ok(())
}
