//! One forward of a transformer on random latents. The module of a family registers how its networks are run.

mod flux;
mod qwen_image;
mod wan;
mod z_image;

use anyhow::Result;
use candle_core::Device;
use magcache_core::inventory;
use magcache_models::checkpoint::{ConfigError, Folder, Ops, WeightDtype, Weights};
use serde::Deserialize;
use serde_json::json;

use super::{answer, component, gaussian};
use crate::{
    args::BenchForward,
    console::{Console, bad_input, bad_input_at},
    timing::measure,
};

const FILE: &str = "config.json";

/// The networks of a class.
struct Network {
    /// As `config.json` names it.
    class: &'static str,
    open: fn(&Stored, &BenchForward) -> Result<Forward>,
}

inventory::collect!(Network);

/// A network's folder.
struct Stored {
    folder: Folder,
    config: String,
    weights: Weights,
}

impl Stored {
    /// The configuration as `parse` reads it.
    fn config<C>(&self, parse: impl Fn(&str) -> Result<C, ConfigError>) -> Result<C> {
        parse(&self.config).map_err(|error| bad_input_at(&self.folder.describe_file(FILE), &error))
    }
}

/// A network, ready to run.
struct Forward {
    tokens: usize,
    /// Multiplications and additions of the blocks' matrix products, in 10^9.
    gflop: f64,
    run: Box<dyn Fn() -> candle_core::Result<()>>,
}

#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    name: String,
}

pub(super) fn run(args: &BenchForward, ops: Ops, out: &Console) -> Result<()> {
    let folder = component(&args.model, ops, "transformer")?;
    let Class { name } = folder.read_json(FILE)?;
    let Some(network) = inventory::iter::<Network>.into_iter().find(|network| network.class == name) else {
        return Err(bad_input(format!("{} names {name:?}, which is not timed", folder.describe_file(FILE))));
    };
    let config = folder.read_to_string(FILE)?;
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Auto)?;
    let Forward { tokens, gflop, run } = (network.open)(&Stored { folder, config, weights }, args)?;
    let times = measure(&Device::Cpu, args.repeat, || Ok(run()?))?;
    let what = format!("{tokens} tokens, {} text tokens, {gflop:.2} GFLOP", args.text);
    answer(times, &what, args.repeat, &[("tokens", json!(tokens)), ("gflop", json!(gflop))], out);
    Ok(())
}
