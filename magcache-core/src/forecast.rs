//! Forecasts: replacements for the output of skipped blocks.

use std::fmt::Debug;

use candle_core::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    Problem, Streams,
    keys::keys_of,
    meta::ForecastInfo,
    snapshot::Persist,
    state::{StoragePolicy, Stored},
    table::write,
};

/// Predicts the output of a range of blocks from its input and from the outputs of earlier computed steps.
///
/// An error must leave the memory unchanged, because the step may be run again.
///
/// The memory is part of a snapshot of the run ([`Persist`]) and is restored into a forecast built from the
/// same configuration.
pub trait Forecast: Persist + Debug + Send + 'static {
    /// Learns from a computed step: `x` entered the blocks and `y` left them.
    fn observe(&mut self, step: usize, x: &Streams, y: &Streams, storage: &StoragePolicy) -> Result<()>;

    /// Predicts the output of the blocks at `step` for the input `x`. Returns `None` without enough history.
    fn predict(&self, step: usize, x: &Streams) -> Result<Option<Streams>>;

    /// The residual that [`Forecast::predict`] adds to its input at `step`, if that is all it does. It is
    /// then called instead, and the addition is deferred until the streams are read. Returns `None` if the
    /// prediction is not such a sum, or without enough history.
    fn residual(&self, _step: usize) -> Result<Option<Streams>> {
        Ok(None)
    }

    /// The table that builds a forecast like this one; `None` if only the strategy itself can build it.
    fn table(&self) -> Option<ForecastTable> {
        None
    }
}

/// Serialises a forecast configuration to its table.
pub fn forecast_table(config: &dyn ForecastConfig) -> Option<ForecastTable> {
    write("forecast", config).ok()
}

/// The `forecast` table of a configuration.
pub type ForecastTable = toml::Table;

/// Builds a forecast from its table in a configuration (`forecast = { type = "residual" }`).
#[typetag::serde(tag = "type")]
pub trait ForecastConfig: Debug + Send + Sync {
    /// All problems of the values; `place` names the table.
    fn validate(&self, _place: &str) -> Vec<Problem> {
        Vec::new()
    }

    /// Builds a forecast without history. Called only if [`ForecastConfig::validate`] found no error.
    fn build(&self) -> Box<dyn Forecast>;
}

impl JsonSchema for dyn ForecastConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "forecast".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "description": "A forecast, by its `type` and with its keys." })
    }
}

/// `x + (y − x)` of the last computed step: what every published method starts from.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResidualConfig {}

#[typetag::serde(name = "residual")]
impl ForecastConfig for ResidualConfig {
    fn build(&self) -> Box<dyn Forecast> {
        Box::new(LastResidual::default())
    }
}

inventory::submit! {
    ForecastInfo {
        name: "residual",
        summary: "what the blocks added at the last computed step is added again; what holds without the key",
        paper: "-",
        keys: keys_of::<ResidualConfig>,
        line: None,
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// `y` of the last computed step as it was: for predictions that do not move with their input.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {}

#[typetag::serde(name = "output")]
impl ForecastConfig for OutputConfig {
    fn build(&self) -> Box<dyn Forecast> {
        Box::new(LastOutput::default())
    }
}

inventory::submit! {
    ForecastInfo {
        name: "output",
        summary: "the output of the last computed step as it was; what holds without the key for a module",
        paper: "-",
        keys: keys_of::<OutputConfig>,
        line: None,
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// The state of [`OutputConfig`].
#[derive(Debug, Default)]
pub struct LastOutput {
    output: Option<Stored>,
}

crate::fields!(LastOutput { output });

impl Forecast for LastOutput {
    fn observe(&mut self, _: usize, _: &Streams, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.output = Some(Stored::new(y, storage)?);
        Ok(())
    }

    fn predict(&self, _: usize, x: &Streams) -> Result<Option<Streams>> {
        self.output.as_ref().map(|stored| stored.load()?.or_text_of(x)).transpose()
    }

    fn table(&self) -> Option<ForecastTable> {
        forecast_table(&OutputConfig {})
    }
}

/// The state of [`ResidualConfig`].
#[derive(Debug, Default)]
pub struct LastResidual {
    residual: Option<Stored>,
}

crate::fields!(LastResidual { residual });

impl Forecast for LastResidual {
    fn observe(&mut self, _: usize, x: &Streams, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.residual = Some(Stored::new(&y.sub(x)?, storage)?);
        Ok(())
    }

    fn predict(&self, step: usize, x: &Streams) -> Result<Option<Streams>> {
        self.residual(step)?.map(|residual| x.add(&residual)).transpose()
    }

    fn residual(&self, _: usize) -> Result<Option<Streams>> {
        self.residual.as_ref().map(Stored::load).transpose()
    }

    fn table(&self) -> Option<ForecastTable> {
        forecast_table(&ResidualConfig {})
    }
}
