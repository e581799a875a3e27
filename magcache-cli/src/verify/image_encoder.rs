//! CLIP vision encoders: the hidden states that Wan 2.1 reads from them.

use anyhow::{Context, Result};
use candle_core::Device;
use magcache_models::{checkpoint::WeightDtype, clip::ClipVisionEncoder};

use super::{
    case::{Call, Case},
    report::CaseReport,
};

const CLASSES: [&str; 2] = ["CLIPVisionModel", "CLIPVisionModelWithProjection"];

/// Whether the case is about such an encoder.
pub(super) fn is_one(case: &Case) -> Result<bool> {
    Ok(CLASSES.contains(&case.class()?.as_str()))
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let encoder = ClipVisionEncoder::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?;
    for call in case.calls() {
        one(case, &encoder, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

fn one(case: &Case, encoder: &ClipVisionEncoder, call: &Call, report: &mut CaseReport) -> Result<()> {
    let states = encoder.hidden_states(case.required(call, "pixel_values")?)?;
    for (output, key) in &call.outputs {
        let state = output.strip_prefix("hidden_states.").and_then(|k| k.parse::<usize>().ok());
        let got = match (output.as_str(), state) {
            ("image_embeds", _) => states.last(),
            (_, Some(k)) => states.get(k),
            _ => None,
        };
        match got {
            Some(got) => report.tensors(&call.name, output, got, case.tensor(key)?, call.tolerance())?,
            None => report.leave_out(key, "Wan stops before the last block, which is not loaded"),
        }
    }
    Ok(())
}
