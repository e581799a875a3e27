//! Forecasts: replacements for the output of skipped blocks.

use std::fmt::Debug;

use candle_core::{Result, Tensor};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    Problem, Step, Streams,
    group::Together,
    keys::keys_of,
    meta::ForecastInfo,
    metrics,
    snapshot::Persist,
    state::{StoragePolicy, Stored},
    table::write,
};

/// What reaches blocks that a forecast replaces or learns from.
#[derive(Clone, Copy, Debug)]
pub struct Entered<'a> {
    /// Where the pass stands.
    pub step: &'a Step,
    /// What entered the range, in front of the blocks that always run ([`Window::front`](crate::Window)).
    /// Only for a forecast that [needs it](Forecast::needs_input); for others the same as `x`.
    pub input: &'a Streams,
    /// What enters the blocks themselves, after the front ones; with
    /// [`Base::Leader`](crate::strategy::Base::Leader) the conditional branch's output.
    pub x: &'a Streams,
    pub(crate) together: Together<'a>,
}

impl<'a> Entered<'a> {
    /// `x` entered the blocks at `step`, and no block in front of them ran.
    pub fn new(step: &'a Step, x: &'a Streams) -> Self {
        Self { step, input: x, x, together: Together::alone(step) }
    }

    /// The same, where the blocks in front were given `input`.
    #[must_use]
    pub fn from(self, input: &'a Streams) -> Self {
        Self { input, ..self }
    }

    /// `mean|a − b| / mean|c − d|` of every row of a batch, over all ranks. NaN for 0 / 0.
    ///
    /// Errors: shapes that differ within a pair; ranks that do not answer.
    pub fn ratio_of_changes(&self, [a, b]: [&Tensor; 2], [c, d]: [&Tensor; 2]) -> Result<Vec<f64>> {
        let [above, below] = metrics::l1_sums_of([(a, b), (c, d)])?;
        let (above, below) = (self.together.sums(above)?, self.together.sums(below)?);
        Ok(above.iter().zip(&below).map(|(above, below)| above.difference() / below.difference()).collect())
    }
}

/// Predicts the output of a range of blocks from its input and from the outputs of earlier computed steps.
///
/// An error must leave the memory unchanged, because the step may be run again.
///
/// The memory is part of a snapshot of the run ([`Persist`]) and is restored into a forecast built from the
/// same configuration.
pub trait Forecast: Persist + Debug + Send + 'static {
    /// Learns from a computed step: `y` left the blocks.
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()>;

    /// Predicts the output of the blocks. Returns `None` without enough history.
    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>>;

    /// The residual that [`Forecast::predict`] adds to its input at `step`, if that is all it does. It is
    /// then called instead, and the addition is deferred until the streams are read. Returns `None` if the
    /// prediction is not such a sum, or without enough history.
    fn residual(&self, _step: &Step) -> Result<Option<Streams>> {
        Ok(None)
    }

    /// Hears that its prediction `y` stood in for the blocks, for a forecast whose memory has every step. A
    /// step that is run again is told again.
    fn stood_in(&mut self, _at: &Entered<'_>, _y: &Streams, _storage: &StoragePolicy) -> Result<()> {
        Ok(())
    }

    /// Whether it wants [`Forecast::stood_in`], which ends the deferral of additions.
    fn hears_stand_ins(&self) -> bool {
        false
    }

    /// Whether it looks at [`Entered::input`], which is then held while the blocks run.
    fn needs_input(&self) -> bool {
        false
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

    /// The number of blocks at the start of the range that have to run on every step, because the forecast
    /// looks at what leaves them.
    fn front(&self) -> usize {
        0
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
    fn observe(&mut self, _: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.output = Some(Stored::new(y, storage)?);
        Ok(())
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        self.output.as_ref().map(|stored| stored.load()?.or_text_of(at.x)).transpose()
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
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.residual = Some(Stored::new(&y.sub(at.x)?, storage)?);
        Ok(())
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        self.residual(at.step)?.map(|residual| at.x.add(&residual)).transpose()
    }

    fn residual(&self, _: &Step) -> Result<Option<Streams>> {
        self.residual.as_ref().map(Stored::load).transpose()
    }

    fn table(&self) -> Option<ForecastTable> {
        forecast_table(&ResidualConfig {})
    }
}
