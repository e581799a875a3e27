//! The image autoencoders of FLUX.1 and FLUX.2, in both directions, and their latents as tokens.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_models::{
    autoencoder::{ImageVae, image::packing},
    flux::positions,
};

use super::{
    call::Call,
    case::{Case, Named},
    report::CaseReport,
    vae,
};

/// Classes of their configurations.
pub(super) const CLASSES: [&str; 2] = ["AutoencoderKL", "AutoencoderKLFlux2"];

const NO_OUTPUT: &str = "the autoencoder gives no such output";

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let vae = ImageVae::open(&case.folder, &case.on.device)?;
    case.compare_calls(report, |call, report| {
        let inputs: Vec<&str> = call.inputs.keys().map(String::as_str).collect();
        match inputs.as_slice() {
            ["x"] => encode(&vae, call, report)?,
            ["latents" | "z"] => decode(&vae, call, report)?,
            ["raw"] => pack(call, report)?,
            _ => {
                let why = format!("this build has no step that takes {}", inputs.join(", "));
                report.leave_out(&call.name, why);
                return Ok(());
            }
        }
        call.compare_inside(report, call.tolerance(), &Named::new())
    })
}

fn encode(vae: &ImageVae, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let distribution = vae.encode(call.required("x")?, vae::tiling(call)?)?;
    let mode = distribution.mean()?;
    call.compare(report, call.tolerance(), NO_OUTPUT, |output| {
        Ok(Some(match output {
            "moments" => distribution.moments().clone(),
            "mode" => mode.clone(),
            "latents" => vae.normalize(&mode)?,
            "patchified" => packing::patchify(&mode)?,
            "packed_latents" => vae.to_tokens(&mode)?,
            _ => return Ok(None),
        }))
    })
}

/// From raw latents `z`, or from those that the transformer gives.
fn decode(vae: &ImageVae, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let z = match call.input("latents")? {
        Some(latents) => vae.denormalize(latents)?,
        None => call.required("z")?.clone(),
    };
    let sample = vae.decode(&z, vae::tiling(call)?)?;
    call.compare(report, call.tolerance(), NO_OUTPUT, |output| {
        Ok(match output {
            "vae_input" => Some(z.clone()),
            "sample" => Some(sample.clone()),
            _ => None,
        })
    })
}

/// Raw latents in the order of tokens, and the positions of those: nothing is rounded.
fn pack(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let raw = call.required("raw")?;
    let patches = packing::patchify(raw)?;
    let grid = packing::token_grid(raw)?;
    let [rows, columns] = grid;
    call.compare(report, 0.0, "latents have no such form", |output| {
        Ok(Some(match output {
            "packed" => packing::pack(raw)?,
            "patches" => patches.clone(),
            "flat" => packing::flatten(&patches)?,
            "image_ids" => ids(positions::image_ids(grid, 0))?,
            "latent_ids" => ids(positions::latent_ids(grid))?,
            "reference_ids" => ids(positions::reference_ids(&[[rows, 1], [1, columns]]))?,
            "text_ids" => ids(positions::text_ids(columns))?,
            _ => return Ok(None),
        }))
    })
}

/// `[tokens, axes]`.
fn ids<const N: usize>(ids: Vec<[f32; N]>) -> candle_core::Result<Tensor> {
    Tensor::from_vec(ids.concat(), (ids.len(), N), &Device::Cpu)
}
