//! `bench`: the time of one network, the overhead of the cache, the peak of the machine.

mod cache;
mod forward;
mod machine;
mod overhead;

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_models::checkpoint::{Folder, Ops};
use serde_json::{Value, json};

use crate::{
    args::{Bench, BenchModel},
    compare::estimate::Spread,
    console::Console,
    job::model_name,
    timing,
};

pub(crate) fn run(args: &Bench, ops: Ops, out: &Console) -> Result<()> {
    match args {
        Bench::Forward(args) => forward::run(args, ops, out),
        Bench::Vae { model, latent, repeat } => {
            let times = timing::decode(&component(model, ops, "vae")?, &Device::Cpu, *latent, *repeat)?;
            let [frames, height, width] = latent;
            answer(times, &format!("latents of {frames}x{height}x{width}"), *repeat, &[], out);
            Ok(())
        }
        Bench::Text { model, tokens, repeat } => {
            let folder = component(model, ops, "text_encoder")?;
            let times = timing::encode(&folder, &Device::Cpu, *tokens, *repeat)?;
            answer(times, &format!("{tokens} tokens"), *repeat, &[], out);
            Ok(())
        }
        Bench::Cache(args) => cache::run(args, ops, out),
        Bench::Overhead { repeat } => overhead::run(*repeat, out),
        Bench::Machine { repeat } => machine::run(*repeat, out),
    }
}

/// The component `name` of a model folder, or the folder itself if it holds just that component; the embedded
/// model by default.
fn component(model: &BenchModel, ops: Ops, name: &str) -> Result<Folder> {
    let folder = match &model.model {
        Some(typed) => model_name::folder(typed)?,
        None => model_name::default_folder()?,
    }
    .computing_with(ops);
    let inside = folder.exists(&format!("{name}/config.json"));
    Ok(if inside { folder.sub(name) } else { folder })
}

/// Random normal values.
fn gaussian(shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?)
}

/// Prints the times of `what`.
fn answer(times: Spread, what: &str, repeat: usize, more: &[(&str, Value)], out: &Console) {
    let (Spread { min, median, max }, repeat) = (times, repeat.max(1));
    let mut document = json!({ "median_ms": median, "min_ms": min, "max_ms": max, "repeat": repeat });
    let mut text = format!("{what}: median {median:.2} ms, min {min:.2}, max {max:.2} of {repeat}");
    for (key, value) in more {
        document[*key] = value.clone();
    }
    if let Some(gflop) = document["gflop"].as_f64() {
        text += &format!(" ({:.0} GFLOP/s)", gflop / median * 1e3);
    }
    out.answer(&text, &document);
}
