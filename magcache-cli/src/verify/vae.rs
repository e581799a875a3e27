//! The video autoencoders of Wan 2.1 and 2.2, in both directions, with and without tiles.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_models::autoencoder::{Tiling, VideoVae, video::Observation};
use serde::Deserialize;

use super::{
    case::{Call, Case},
    report::CaseReport,
};
use crate::console::bad_input;

const CLASS: &str = "AutoencoderKLWan";

/// How much two correct ports may differ in `untiled_decode`, whose noise is not recorded: the reference's
/// own runs in f32 and in f64 are 1.1e-5 apart there, more than in any other call.
const UNTILED: f64 = 4e-5;

/// Outputs of modules, by chunk and module.
type Seen = BTreeMap<String, Tensor>;

/// The tiling that a call was recorded with.
#[derive(Deserialize)]
struct TilingArgs {
    tile_sample_min: usize,
    tile_sample_stride: usize,
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let class = case.class()?;
    if class != CLASS {
        return Ok(report.skip(format!("this build has no {class}")));
    }
    let vae = VideoVae::open(&case.folder, &candle_core::Device::Cpu)?;
    for call in case.calls() {
        one(case, &vae, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

fn one(case: &Case, vae: &VideoVae, call: &Call, report: &mut CaseReport) -> Result<()> {
    let tiling = tiling(call)?;
    // `untiled_decode` is recorded without inputs: they are those of `tiled_decode`.
    let tiled = call.name.strip_prefix("un").filter(|_| call.inputs.is_empty());
    let given = case.calls().iter().find(|other| tiled == Some(&other.name)).unwrap_or(call);
    let inputs: Vec<&str> = given.inputs.keys().map(String::as_str).collect();
    let (got, seen) = match inputs.as_slice() {
        ["x"] => encode(vae, case.required(given, "x")?, tiling)?,
        ["z" | "latents"] | ["latents", "z"] => {
            let z = raw_latents(case, vae, call, given, report)?;
            decode(vae, &z, tiling)?
        }
        [] => {
            report.leave_out(&call.name, "its input is not recorded");
            return Ok(());
        }
        _ => {
            report.leave_out(&call.name, format!("this build has no step that takes {}", inputs.join(", ")));
            return Ok(());
        }
    };
    let tolerance = if tiled.is_some() { call.tolerance().max(UNTILED) } else { call.tolerance() };
    for (output, key) in &call.outputs {
        match got.get(output.as_str()) {
            Some(got) => report.tensors(&call.name, output, got, case.tensor(key)?, tolerance)?,
            None => report.leave_out(key, "the autoencoder gives no such output"),
        }
    }
    for (module, key) in case.traces(call) {
        match seen.get(&module) {
            Some(got) => report.tensors(&call.name, &module, got, case.tensor(&key)?, tolerance)?,
            None => report.leave_out(key, "inside a part that this build does not open"),
        }
    }
    Ok(())
}

fn tiling(call: &Call) -> Result<Option<Tiling>> {
    if call.args.get("tile_sample_min").is_none() {
        return Ok(None);
    }
    let args = TilingArgs::deserialize(&call.args)
        .map_err(|e| bad_input(format!("call {:?}, args: {e}", call.name)))?;
    Ok(Some(Tiling::square(args.tile_sample_min, args.tile_sample_stride)))
}

/// The latents to decode; if both kinds are recorded, also compares the conversion from one to the other.
fn raw_latents(
    case: &Case,
    vae: &VideoVae,
    call: &Call,
    given: &Call,
    report: &mut CaseReport,
) -> Result<Tensor> {
    let raw = case.input(given, "latents")?.map(|latents| vae.denormalize(latents)).transpose()?;
    let recorded = case.input(given, "z")?;
    if let (Some(got), Some(want)) = (&raw, recorded) {
        report.tensors(&call.name, "z", got, want, call.tolerance())?;
    }
    match recorded.cloned().or(raw) {
        Some(z) => Ok(z),
        None => Err(bad_input("neither `z` nor `latents` is recorded")),
    }
}

/// Outputs by name, and intermediate results.
fn encode(
    vae: &VideoVae,
    x: &Tensor,
    tiling: Option<Tiling>,
) -> Result<(BTreeMap<&'static str, Tensor>, Seen)> {
    let mut seen = Seen::new();
    let moments = vae.moments(x, tiling)?;
    if tiling.is_none() {
        let mut observer = note(&mut seen);
        let whole = 1 + (x.dim(2)? - 1) / 4 * 4;
        vae.encode_stream().observe(&mut observer).push(&x.narrow(2, 0, whole)?)?;
    }
    let mode = moments.narrow(1, 0, vae.config().z_dim)?;
    let latents = vae.normalize(&mode)?;
    Ok((BTreeMap::from([("moments", moments), ("mode", mode), ("latents", latents)]), seen))
}

fn decode(
    vae: &VideoVae,
    z: &Tensor,
    tiling: Option<Tiling>,
) -> Result<(BTreeMap<&'static str, Tensor>, Seen)> {
    let mut seen = Seen::new();
    let mut outputs = BTreeMap::from([("sample", vae.decode(z, tiling)?)]);
    if tiling.is_none() {
        {
            let mut observer = note(&mut seen);
            let mut stream = vae.decode_stream().observe(&mut observer);
            for frame in 0..z.dim(2)? {
                stream.push(&z.narrow(2, frame, 1)?)?;
            }
        }
        let raw: Vec<Tensor> = (0..z.dim(2)?)
            .filter_map(|chunk| seen.get(&format!("chunk{chunk}.decoder.conv_out")).cloned())
            .collect();
        outputs.insert("decoder_raw", Tensor::cat(&raw, 2)?);
    }
    Ok((outputs, seen))
}

/// Records every module's output under the reference's name.
fn note(seen: &mut Seen) -> impl FnMut(&Observation<'_>) -> candle_core::Result<()> {
    |x| {
        seen.insert(format!("chunk{}.{}", x.chunk, x.module), x.output.clone());
        Ok(())
    }
}
