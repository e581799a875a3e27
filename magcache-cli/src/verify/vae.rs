//! The video autoencoders of Wan 2.1 and 2.2, in both directions, with and without tiles.

use anyhow::Result;
use candle_core::Tensor;
use magcache_models::autoencoder::{Tiling, VideoVae, image::packing, video::Observation};
use serde::Deserialize;

use super::{
    call::Call,
    case::{Case, Named},
    report::CaseReport,
};
use crate::console::bad_input;

/// The classes of their configurations: the second is the first for single pictures.
pub(super) const CLASSES: [&str; 2] = ["AutoencoderKLWan", "AutoencoderKLQwenImage"];

/// How much two correct ports may differ in `untiled_decode`, whose noise is not recorded: the reference's
/// own runs in f32 and in f64 are 1.1e-5 apart there, more than in any other call.
const UNTILED: f64 = 4e-5;

/// The tiling that a call was recorded with.
#[derive(Deserialize)]
struct TilingArgs {
    #[serde(rename = "tile_sample_min")]
    tile: Option<usize>,
    #[serde(rename = "tile_sample_stride")]
    stride: Option<usize>,
    /// If it is not that of the rows.
    #[serde(rename = "tile_sample_stride_width")]
    stride_width: Option<usize>,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let vae = VideoVae::open(&case.folder, &case.on.device)?;
    case.compare_calls(report, |call, report| one(&vae, call, report, 0.0))
}

/// Compares a call; `least` is the smallest tolerance.
pub(super) fn one(vae: &VideoVae, call: Call<'_>, report: &mut CaseReport, least: f64) -> Result<()> {
    // `untiled_decode` is recorded without inputs: they are those of `tiled_decode`.
    let tiled = call.name.strip_prefix("un").filter(|_| call.inputs.is_empty());
    let given = call.case.calls().find(|other| tiled == Some(&other.name)).unwrap_or(call);
    let Some((got, seen)) = outputs(vae, call, given, &|x| Ok(x.clone()), report)? else { return Ok(()) };
    let tolerance = call.tolerance().max(if tiled.is_some() { UNTILED } else { least });
    let why = "the autoencoder gives no such output";
    call.compare(report, tolerance, why, |output| Ok(got.get(output).cloned()))?;
    call.compare_inside(report, tolerance, &seen)
}

/// Outputs of a call with the inputs of `given`, each as `changed` makes it, and what modules gave; `None` if
/// it cannot be run.
fn outputs(
    vae: &VideoVae,
    call: Call<'_>,
    given: Call<'_>,
    changed: &dyn Fn(&Tensor) -> Result<Tensor>,
    report: &mut CaseReport,
) -> Result<Option<(Named, Named)>> {
    let tiling = tiling(call)?;
    let inputs: Vec<&str> = given.inputs.keys().map(String::as_str).collect();
    let why = match inputs.as_slice() {
        ["x"] => return encode(vae, &changed(call.required("x")?)?, tiling).map(Some),
        ["z" | "latents"] | ["latents", "z"] => {
            let z = changed(&raw_latents(vae, call, given, report)?)?;
            return decode(vae, &z, tiling).map(Some);
        }
        [] => "its input is not recorded".to_owned(),
        _ => format!("this build has no step that takes {}", inputs.join(", ")),
    };
    report.leave_out(&call.name, why);
    Ok(None)
}

/// How far an autoencoder moves the outputs of a call if the last bits of its input change: what it makes of
/// rounding.
pub(super) fn of_rounding(vae: &VideoVae, call: Call<'_>) -> Result<f64> {
    let mut aside = CaseReport::new("");
    let mut run = |changed: &dyn Fn(&Tensor) -> Result<Tensor>| {
        Ok::<_, anyhow::Error>(outputs(vae, call, call, changed, &mut aside)?.unwrap_or_default().0)
    };
    let (plain, moved) = (run(&|x| Ok(x.clone()))?, run(&last_bits)?);
    let mut most = 0f64;
    for name in call.outputs.keys() {
        if let (Some(a), Some(b)) = (plain.get(name), moved.get(name)) {
            let difference = (a - b)?.abs()?.flatten_all()?.max(0)?;
            most = most.max(f64::from(difference.to_scalar::<f32>()?));
        }
    }
    Ok(most)
}

/// Every value one unit of the last place of 1 larger or smaller, relative to it.
fn last_bits(x: &Tensor) -> Result<Tensor> {
    let by = |i: usize| 1.0 + f32::EPSILON * if (1.7 * i as f64).sin() < 0.0 { -1.0 } else { 1.0 };
    let by = Tensor::from_iter((0..x.elem_count()).map(by), x.device())?.reshape(x.shape())?;
    Ok((x.to_dtype(by.dtype())? * by)?)
}

/// The tiling of a call, if it has one.
pub(super) fn tiling(call: Call<'_>) -> Result<Option<Tiling>> {
    let TilingArgs { tile, stride, stride_width } = call.args()?;
    let (Some(tile), Some(stride)) = (tile, stride) else { return Ok(None) };
    Ok(Some(Tiling { stride_width: stride_width.unwrap_or(stride), ..Tiling::square(tile, stride) }))
}

/// The latents to decode; if both kinds are recorded, also compares the conversion from one to the other.
fn raw_latents(vae: &VideoVae, call: Call<'_>, given: Call<'_>, report: &mut CaseReport) -> Result<Tensor> {
    let raw = given.input("latents")?.map(|latents| vae.denormalize(latents)).transpose()?;
    let recorded = given.input("z")?;
    if let (Some(got), Some(want)) = (&raw, recorded) {
        report.tensors(&call.name, "z", got, want, call.tolerance())?;
    }
    match recorded.cloned().or(raw) {
        Some(z) => Ok(z),
        None => Err(bad_input("neither `z` nor `latents` is recorded")),
    }
}

/// Outputs, and what modules gave.
fn encode(vae: &VideoVae, x: &Tensor, tiling: Option<Tiling>) -> Result<(Named, Named)> {
    let mut seen = Named::new();
    let moments = vae.moments(x, tiling)?;
    if tiling.is_none() {
        let mut observer = note(&mut seen);
        let whole = 1 + (x.dim(2)? - 1) / 4 * 4;
        vae.encode_stream().observe(&mut observer).push(&x.narrow(2, 0, whole)?)?;
    }
    let mode = moments.narrow(1, 0, vae.config().z_dim)?;
    let latents = vae.normalize(&mode)?;
    let packed = latents.squeeze(2).ok().and_then(|picture| packing::pack(&picture).ok());
    let outputs = [("moments", moments), ("mode", mode), ("latents", latents)];
    let mut outputs: Named = outputs.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    outputs.extend(packed.map(|packed| ("packed_latents".to_owned(), packed)));
    Ok((outputs, seen))
}

/// Outputs, and what modules gave.
fn decode(vae: &VideoVae, z: &Tensor, tiling: Option<Tiling>) -> Result<(Named, Named)> {
    let mut seen = Named::new();
    let mut outputs =
        Named::from([("sample".to_owned(), vae.decode(z, tiling)?), ("vae_input".to_owned(), z.clone())]);
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
        outputs.insert("decoder_raw".to_owned(), Tensor::cat(&raw, 2)?);
    }
    Ok((outputs, seen))
}

/// Records every module's output under the reference's name.
fn note(seen: &mut Named) -> impl FnMut(&Observation<'_>) -> candle_core::Result<()> {
    |x| {
        seen.insert(format!("chunk{}.{}", x.chunk, x.module), x.output.clone());
        Ok(())
    }
}
