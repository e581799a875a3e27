//! The image autoencoders of FLUX.1 and FLUX.2, in both directions, and their latents as tokens.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_models::autoencoder::{ImageVae, image::packing};

use super::{
    case::{Call, Case},
    report::CaseReport,
};

const CLASSES: [&str; 2] = ["AutoencoderKL", "AutoencoderKLFlux2"];

/// Whether the case is about such an autoencoder.
pub(super) fn is_one(case: &Case) -> Result<bool> {
    Ok(CLASSES.contains(&case.class()?.as_str()))
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let vae = ImageVae::open(&case.folder, &Device::Cpu)?;
    for call in case.calls() {
        one(case, &vae, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

fn one(case: &Case, vae: &ImageVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    let inputs: Vec<&str> = call.inputs.keys().map(String::as_str).collect();
    let got = match inputs.as_slice() {
        ["x"] => encode(vae, case.required(call, "x")?, call)?,
        ["latents"] => decode(vae, case.required(call, "latents")?)?,
        _ => {
            report.leave_out(&call.name, format!("this build has no step that takes {}", inputs.join(", ")));
            return Ok(());
        }
    };
    for (output, key) in &call.outputs {
        match got.get(output.as_str()) {
            Some(got) => report.tensors(&call.name, output, got, case.tensor(key)?, call.tolerance())?,
            None => report.leave_out(key, "the autoencoder gives no such output"),
        }
    }
    for (_, key) in case.traces(call) {
        report.leave_out(key, "inside a part that this build does not open");
    }
    Ok(())
}

/// Outputs by name.
fn encode(vae: &ImageVae, x: &Tensor, call: &Call) -> Result<BTreeMap<&'static str, Tensor>> {
    let distribution = vae.encode(x, None)?;
    let mode = distribution.mean()?;
    let mut outputs = BTreeMap::from([("moments", distribution.moments().clone()), ("mode", mode.clone())]);
    // Latents of an odd size cannot become tokens, and no call requires it.
    if call.outputs.contains_key("latents") {
        outputs.insert("latents", vae.normalize(&mode)?);
    }
    if call.outputs.contains_key("patchified") {
        outputs.insert("patchified", packing::patchify(&mode)?);
    }
    if call.outputs.contains_key("packed_latents") {
        outputs.insert("packed_latents", vae.to_tokens(&mode)?);
    }
    Ok(outputs)
}

fn decode(vae: &ImageVae, latents: &Tensor) -> Result<BTreeMap<&'static str, Tensor>> {
    let z = vae.denormalize(latents)?;
    let sample = vae.decode(&z, None)?;
    Ok(BTreeMap::from([("vae_input", z), ("sample", sample)]))
}
