//! The transformers of Wan and FLUX from files, with and without adapters.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{Adapter, AdapterNames, CheckpointError, Folder, WeightDtype, Weights},
    flux::{FluxConfig, FluxTransformer, flux1},
    wan::{self, WanConfig, WanTransformer, names},
};

use super::{decoded, folder_of, label};
use crate::{
    console::bad_input,
    verify::{
        call::Call,
        case::{Case, Named, class_in},
        frequencies::like_recorded,
        report::CaseReport,
        transformer::Network,
    },
};

/// Weights decoded while they are loaded, and those that stay as they are.
pub(super) const POLICIES: [WeightDtype; 2] = [WeightDtype::Cast(DType::F32), WeightDtype::Keep];

/// A network that is read from a file.
pub(super) trait InFile: Network {
    type Config;
    const ADAPTER: AdapterNames;

    /// The sizes that the folder's `config.json` says.
    fn stated(folder: &Folder) -> Result<Self::Config, CheckpointError>;

    /// The tensors of a file, or of the folder's, under our names.
    fn open(
        folder: &Folder,
        file: Option<&str>,
        dtype: WeightDtype,
    ) -> Result<(Self::Config, Weights), CheckpointError>;

    fn build(weights: &Weights, config: Self::Config) -> Result<Self, CheckpointError>;

    /// Frequencies that torch rounded up where the case was recorded.
    fn round_up(&mut self, which: &[usize]) -> candle_core::Result<()>;
}

impl InFile for WanTransformer {
    type Config = WanConfig;
    const ADAPTER: AdapterNames = names::ADAPTER;

    fn open(
        folder: &Folder,
        file: Option<&str>,
        dtype: WeightDtype,
    ) -> Result<(WanConfig, Weights), CheckpointError> {
        match file {
            Some(file) => wan::open_transformer(folder, file, &Device::Cpu, dtype),
            None => Ok((Self::stated(folder)?, Weights::open(folder, &Device::Cpu, dtype)?)),
        }
    }

    fn stated(folder: &Folder) -> Result<WanConfig, CheckpointError> {
        let config = WanConfig::from_json(&folder.read_to_string("config.json")?);
        config.map_err(|error| refused(folder, &error))
    }

    fn round_up(&mut self, which: &[usize]) -> candle_core::Result<()> {
        self.round_frequencies_up(which)
    }

    fn build(weights: &Weights, config: WanConfig) -> Result<Self, CheckpointError> {
        WanTransformer::load(weights, config)
    }
}

impl InFile for FluxTransformer {
    type Config = FluxConfig;
    const ADAPTER: AdapterNames = flux1::native::ADAPTER;

    fn open(
        folder: &Folder,
        file: Option<&str>,
        dtype: WeightDtype,
    ) -> Result<(FluxConfig, Weights), CheckpointError> {
        match file {
            Some(file) => flux1::native::open(folder, file, &Device::Cpu, dtype),
            None => Ok((Self::stated(folder)?, Weights::open(folder, &Device::Cpu, dtype)?)),
        }
    }

    fn stated(folder: &Folder) -> Result<FluxConfig, CheckpointError> {
        let config = FluxConfig::from_json(&folder.read_to_string("config.json")?);
        config.map_err(|error| refused(folder, &error))
    }

    fn build(weights: &Weights, config: FluxConfig) -> Result<Self, CheckpointError> {
        FluxTransformer::load(weights, config)
    }

    fn round_up(&mut self, which: &[usize]) -> candle_core::Result<()> {
        self.round_frequencies_up(which)
    }
}

fn refused(folder: &Folder, error: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError::BadConfig { file: folder.describe_file("config.json"), reason: error.to_string() }
}

/// The class of the network that a call runs.
pub(super) fn class(call: Call<'_>) -> Result<String> {
    match &call.source.component {
        Some(_) => class_in(&folder_of(call)),
        None => call.case.class(),
    }
}

/// The number of the expert that a call runs.
fn expert(call: Call<'_>) -> usize {
    usize::from(call.source.component.as_deref() == Some("transformer_2"))
}

pub(super) fn check(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    match class(call)?.as_str() {
        WanTransformer::CLASS => each_file::<WanTransformer>(call, report),
        FluxTransformer::CLASS => each_file::<FluxTransformer>(call, report),
        class => {
            report.leave_out(&call.name, format!("this build has no {class} in files"));
            Ok(())
        }
    }
}

/// Runs the call with every file of the model and every spelling of its adapters, with weights decoded at
/// once and with weights that are decoded when they are needed.
fn each_file<N: InFile>(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    for file in call.source.files() {
        for adapters in call.source.adapters(call.case.path()) {
            for dtype in POLICIES {
                let (weights, sample) = run::<N>(call, file, &adapters, dtype, report)?;
                let spelling = match adapters.as_slice() {
                    [one] => one.path.file_name().map(|name| name.to_string_lossy().into_owned()),
                    _ => None,
                };
                let place = spelling.or(file.map(str::to_owned)).unwrap_or_default();
                let seen = Named::from([("sample".to_owned(), sample)]);
                decoded::compare(call, report, &label(call, &place), &weights, &seen)?;
            }
        }
    }
    Ok(())
}

/// The adapted tensors, and what the network gives.
fn run<N: InFile>(
    call: Call<'_>,
    file: Option<&str>,
    adapters: &[Adapter],
    dtype: WeightDtype,
    report: &mut CaseReport,
) -> Result<(Weights, Tensor)> {
    let own = folder_of(call);
    let folder = if file.is_some() { call.case.folder.clone() } else { own.clone() };
    let of = |which: &[usize]| -> Result<((Weights, Tensor), Tensor)> {
        let (inferred, weights) = N::open(&folder, file, dtype)?;
        // What no tensor says is recorded in the part's folder.
        let config = if own.exists("config.json") { N::stated(&own)? } else { inferred };
        let (weights, _) = weights.adapted(adapters, &N::ADAPTER, expert(call))?;
        let mut network = N::build(&weights, config)?;
        network.round_up(which)?;
        let sample = network.prepare(call)?(&mut Pass::off())?;
        Ok(((weights, sample.clone()), sample))
    };
    let Some(key) = call.outputs.get("sample") else { return Err(bad_input("the call records no sample")) };
    like_recorded(report, of, call.case.tensor(key)?)
}

/// The error of opening a file with adapters as a network of this class, if there is one.
pub(super) fn error_of(
    class: &str,
    folder: &Folder,
    file: Option<&str>,
    adapters: &[Adapter],
) -> Option<CheckpointError> {
    fn open<N: InFile>(
        folder: &Folder,
        file: Option<&str>,
        adapters: &[Adapter],
    ) -> Result<(), CheckpointError> {
        let (config, weights) = N::open(folder, file, WeightDtype::Keep)?;
        let (weights, _) = weights.adapted(adapters, &N::ADAPTER, 0)?;
        N::build(&weights, config).map(|_| ())
    }
    match class {
        FluxTransformer::CLASS => open::<FluxTransformer>(folder, file, adapters).err(),
        _ => open::<WanTransformer>(folder, file, adapters).err(),
    }
}

/// Checks calls that must give the bits of another one.
pub(super) fn same_bits(case: &Case, report: &mut CaseReport) -> Result<()> {
    for call in case.calls() {
        let Some(name) = &call.source.same_bits_as else { continue };
        let Some(other) = case.calls().find(|other| other.name == *name) else {
            return Err(bad_input(format!("{}: no call {name:?}", case.place)));
        };
        let bits = |call: Call<'_>, report: &mut CaseReport| -> Result<Tensor> {
            let all = call.source.adapters(case.path());
            let adapters = all.first().map(Vec::as_slice).unwrap_or_default();
            let keep = WeightDtype::Keep;
            Ok(match class(call)?.as_str() {
                WanTransformer::CLASS => run::<WanTransformer>(call, None, adapters, keep, report)?.1,
                _ => run::<FluxTransformer>(call, None, adapters, keep, report)?.1,
            })
        };
        let (got, want) = (bits(call, report)?, bits(other, report)?);
        report.tensors(&call.name, &format!("the bits of {name}"), &got, &want, 0.0)?;
    }
    Ok(())
}
