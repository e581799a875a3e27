//! Times against the limits of the device.

mod blocks;
mod limits;
mod network;
mod steps;

use anyhow::Result;

use super::{Findings, Setup, findings::Timed};
use crate::{job::model_name, timing};

pub(super) fn measure_all(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let limits = limits::Limits::of(setup, findings)?;
    blocks::measure_all(setup, &limits, findings)?;
    parts(setup, findings)?;
    steps::measure_all(setup, findings)
}

/// What runs once per generation, of the default model.
fn parts(setup: &Setup, findings: &mut Findings) -> Result<()> {
    setup.go_on()?;
    let folder = model_name::default_folder()?.computing_with(setup.ops);
    let (repeat, latent) =
        (if setup.quick { 2 } else { 5 }, if setup.quick { [2, 8, 8] } else { [5, 32, 32] });
    let times = timing::decode(&folder.sub("vae"), &setup.device, latent, repeat)?;
    let [frames, height, width] = latent;
    let part =
        |name: &str, shape| Timed { name: name.to_owned(), dtype: "f32", shape, gflop: None, limit: None };
    let shape = format!("latents of {frames}x{height}x{width}");
    findings.time(part("autoencoder of the default model", shape), times, repeat);
    let tokens = 128;
    let times = timing::encode(&folder.sub("text_encoder"), &setup.device, tokens, repeat)?;
    findings.time(part("text encoder of the default model", format!("{tokens} tokens")), times, repeat);
    Ok(())
}
