//! What stands in for skipped blocks.

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
};

/// Predicts the output of a range of blocks from its input and from outputs of earlier computed steps.
///
/// An error must leave the memory as it was: the step may be run again.
///
/// Its memory is stored with a run that may have to be continued ([`Persist`]) and put back into a forecast that was built
/// from the same configuration.
pub trait Forecast: Persist + Debug + Send + 'static {
    /// Learns from a computed step: `x` entered the blocks and `y` left them.
    fn observe(&mut self, step: usize, x: &Streams, y: &Streams, storage: &StoragePolicy) -> Result<()>;

    /// What would leave the blocks at `step` if `x` entered; `None` without enough history.
    fn predict(&self, step: usize, x: &Streams) -> Result<Option<Streams>>;

    /// What [`Forecast::predict`] adds to its input at `step`, where adding is all that it does: it is then asked in its place, and
    /// the addition is put off until somebody reads. `None` where a prediction is no such sum, and without enough history.
    fn residual(&self, _step: usize) -> Result<Option<Streams>> {
        Ok(None)
    }

    /// The table that builds a forecast like this one; `None` where there is none, so that only the strategy itself can.
    fn table(&self) -> Option<ForecastTable> {
        None
    }
}

/// The `forecast` table of a configuration.
pub fn forecast_table(config: &dyn ForecastConfig) -> Option<ForecastTable> {
    toml::Table::try_from(config).ok()
}

/// A `forecast` table of a configuration.
pub type ForecastTable = toml::Table;

/// Builds a forecast from its table in a configuration (`forecast = { type = "residual" }`).
#[typetag::serde(tag = "type")]
pub trait ForecastConfig: Debug + Send + Sync {
    /// Everything wrong with the values; `place` names the table.
    fn validate(&self, _place: &str) -> Vec<Problem> {
        Vec::new()
    }

    /// A forecast without history. Called only when [`ForecastConfig::validate`] found no error.
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
