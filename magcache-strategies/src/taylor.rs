//! `TaylorSeer` as a forecast: the residual is extrapolated by a polynomial through the last computed steps
//! (Liu et al., "From Reusing to Forecasting: Accelerating Diffusion Models with `TaylorSeers`", arXiv
//! 2503.06923).
//!
//! `order + 1` differences are kept, divided by the actual distances between the computed steps, so that gaps
//! of any length are extrapolated at the right rate, whichever cache caused them. Until enough steps are
//! computed for an order, a lower one is used; order 0 is the last residual itself.
//!
//! For `order` 1 all dialects agree. For higher orders the paper, diffusers 0.42.1
//! (`hooks/taylorseer_cache.py`) and cache-dit use backward differences as derivatives at the newest step:
//! `t²` extrapolates to `t² − k` after `k` steps. Ours is Newton's form, which is exact for every polynomial
//! up to its order, also at unequal distances.

use candle_core::{DType, Result, Tensor};
use magcache_core::{
    Problem, Step, Streams,
    forecast::{Entered, Forecast, ForecastConfig, ForecastTable, forecast_table},
    inventory,
    keys::keys_of,
    meta::ForecastInfo,
    state::{StoragePolicy, Stored},
    typetag,
};
use serde::{Deserialize, Serialize};

/// The highest order: each additional one doubles the weight of rounding errors and noise.
pub const MAX_ORDER: usize = 4;

/// What is continued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// What the blocks added to their input. The input of the skipped step is the real one, so only the
    /// smaller part of the output is guessed, and blocks in front, an outer cache or another guidance branch
    /// still have their effect.
    #[default]
    Residual,
    /// Their output, whatever enters: diffusers' way.
    Output,
}

/// How differences become a continuation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Newton's form, exact for polynomials of this degree on any distances.
    #[default]
    #[serde(alias = "magcache")]
    Newton,
    /// A Taylor series whose derivatives are backward differences, each divided by the newest distance alone.
    Diffusers,
}

/// What the polynomial is a function of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Abscissa {
    /// The index of the step: the published way.
    #[default]
    Step,
    /// The noise level. A velocity that is linear in it is continued exactly, whatever the schedule.
    Sigma,
}

/// The keys of `forecast = { type = "taylor" }`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaylorConfig {
    /// Degree of the polynomial; `order + 1` residuals are stored.
    #[schemars(range(min = 1, max = MAX_ORDER))]
    pub order: usize,
    /// What is continued.
    pub of: Of,
    /// How differences become a continuation.
    #[schemars(extend("unless" = { "order": 1 }))]
    pub dialect: Dialect,
    /// What the polynomial is a function of.
    pub abscissa: Abscissa,
    /// How far beyond the last computed step it is followed, in distances between the last two computed
    /// steps; what lies farther gets the value at that place. No limit without it.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<f64>,
}

impl Default for TaylorConfig {
    fn default() -> Self {
        Self {
            order: 1,
            of: Of::default(),
            dialect: Dialect::default(),
            abscissa: Abscissa::default(),
            reach: None,
        }
    }
}

#[typetag::serde(name = "taylor")]
impl ForecastConfig for TaylorConfig {
    fn validate(&self, place: &str) -> Vec<Problem> {
        let mut out = Vec::new();
        if !(1..=MAX_ORDER).contains(&self.order) {
            let hint = match self.order {
                0 => "forecast = { type = \"residual\" } repeats the last residual",
                _ => "1 and 2 are what is published",
            };
            let message =
                format!("`order` of the forecast is {}, it must be between 1 and {MAX_ORDER}", self.order);
            out.push(Problem::error(place, message).hint(hint));
        }
        if let Some(reach) = self.reach.filter(|reach| !(*reach > 0.0 && reach.is_finite())) {
            let message = format!("`reach` of the forecast is {reach}, it must be a number above 0");
            out.push(
                Problem::error(place, message).hint("1 follows the line as far again as it was measured"),
            );
        }
        out
    }

    fn build(&self) -> Box<dyn Forecast> {
        Box::new(Taylor::new(*self))
    }
}

inventory::submit! {
    ForecastInfo {
        name: "taylor",
        summary: "continues what the blocks added at the last computed steps as a polynomial (TaylorSeer)",
        paper: "https://arxiv.org/abs/2503.06923",
        keys: keys_of::<TaylorConfig>,
        line: Some("type = \"taylor\"\norder = 1"),
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// The forecast of [`TaylorConfig`] in one slot.
#[derive(Debug)]
pub struct Taylor {
    config: TaylorConfig,
    /// The computed steps from which the differences are made, newest first.
    steps: Vec<usize>,
    /// The abscissas of those steps.
    places: Vec<f64>,
    /// At the newest step: the value, its first difference, and so on.
    differences: Vec<Stored>,
}

magcache_core::fields!(Taylor { steps, places, differences } given { config });

impl Taylor {
    /// A forecast without history. An order above [`MAX_ORDER`] is clamped to it.
    pub fn new(config: TaylorConfig) -> Self {
        let order = config.order.min(MAX_ORDER);
        let config = TaylorConfig { order, ..config };
        Self { config, steps: Vec::new(), places: Vec::new(), differences: Vec::new() }
    }

    /// The abscissa of a step.
    fn place(&self, step: &Step) -> f64 {
        match self.config.abscissa {
            Abscissa::Step => step.index as f64,
            Abscissa::Sigma => step.sigma,
        }
    }

    /// Where the polynomial is read for `place`: there, or as far as it reaches.
    fn within_reach(&self, place: f64) -> f64 {
        match (self.config.reach, &*self.places) {
            (Some(reach), [newest, before, ..]) => {
                let distance = newest - before;
                if (place - newest) / distance > reach { newest + reach * distance } else { place }
            }
            _ => place,
        }
    }

    /// The differences at `place` with the value `value`, in f32.
    fn differences(&self, place: f64, value: Streams) -> Result<Vec<Streams>> {
        let mut newest = value;
        let mut all = Vec::with_capacity(self.config.order + 1);
        for (i, before) in self.differences.iter().take(self.config.order).enumerate() {
            let from = match self.config.dialect {
                Dialect::Newton => self.places.get(i),
                Dialect::Diffusers => self.places.first(),
            };
            let Some(distance) = from.map(|from| place - from).filter(|d| *d != 0.0) else { break };
            let change = newest.sub(&full(&before.load()?)?)?;
            all.push(newest);
            newest = change.map(|t| t.affine(1.0 / distance, 0.0))?;
        }
        all.push(newest);
        Ok(all)
    }

    /// The weight of the difference of each order at `place`, lowest first.
    fn weights(&self, place: f64) -> impl Iterator<Item = f64> {
        let newest = self.places.first().copied().unwrap_or(place);
        let factor = move |(i, from): (usize, &f64)| match self.config.dialect {
            Dialect::Newton => place - *from,
            Dialect::Diffusers => (place - newest) / (i + 1) as f64,
        };
        let factors = self.places.iter().enumerate().map(factor);
        std::iter::once(1.0).chain(factors.scan(1.0, |weight, factor| {
            *weight *= factor;
            Some(*weight)
        }))
    }

    /// The extrapolated value in f32. Each number leaves out the terms that would make it infinite, so it
    /// does not depend on the others, which may be on another rank.
    fn at(&self, place: f64) -> Result<Option<Streams>> {
        let mut sum: Option<Streams> = None;
        for (difference, weight) in self.differences.iter().zip(self.weights(self.within_reach(place))) {
            let term = full(&difference.load()?)?.map(|t| t.affine(weight, 0.0))?;
            let next = match &sum {
                Some(sum) => sum.add(&term)?.finite_or(sum)?,
                None if !term.is_finite_on_host()? => break,
                None => term,
            };
            sum = Some(next);
        }
        Ok(sum)
    }
}

impl Forecast for Taylor {
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        let (step, place) = (at.step.index, self.place(at.step));
        // A run that started over begins without history.
        let again = self.steps.first().is_some_and(|newest| *newest >= step);
        let own = if again { &Self::new(self.config) } else { &*self };
        let value = match self.config.of {
            Of::Residual => full(y)?.sub(&full(at.x)?)?,
            Of::Output => full(y)?,
        };
        let dtype = y.image()?.dtype();
        let store = |d: Streams| Stored::new(&d.map(|t| t.to_dtype(dtype))?, storage);
        let differences =
            own.differences(place, value)?.into_iter().map(store).collect::<Result<Vec<_>>>()?;
        if again {
            self.steps.clear();
            self.places.clear();
        }
        self.differences = differences;
        self.steps.insert(0, step);
        self.steps.truncate(self.config.order + 1);
        self.places.insert(0, place);
        self.places.truncate(self.config.order + 1);
        Ok(())
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        if self.steps.first().is_some_and(|newest| *newest >= at.step.index) {
            return Ok(None);
        }
        let Some(value) = self.at(self.place(at.step))? else { return Ok(None) };
        let dtype = at.x.image()?.dtype();
        let y = match self.config.of {
            Of::Residual => full(at.x)?.add(&value)?,
            Of::Output => value,
        };
        y.map(|t| t.to_dtype(dtype))?.or_text_of(at.x).map(Some)
    }

    fn table(&self) -> Option<ForecastTable> {
        forecast_table(&self.config)
    }
}

/// The streams in f32, the dtype of all arithmetic here.
fn full(streams: &Streams) -> Result<Streams> {
    streams.map(|t: &Tensor| t.to_dtype(DType::F32))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use magcache_core::snapshot::Persist;

    use super::*;

    /// Unequal distances, as outer caches and thresholds produce them.
    const COMPUTED: [usize; 7] = [0, 1, 2, 5, 6, 9, 14];

    fn streams(values: &[f32]) -> Streams {
        Streams::Image(Tensor::from_slice(values, (1, 1, values.len()), &Device::Cpu).unwrap())
    }

    fn learn(taylor: &mut Taylor, step: usize, x: &Streams, y: &Streams, storage: &StoragePolicy) {
        taylor.observe(&Entered::new(&Step::plain(step, 16), x), y, storage).unwrap();
    }

    fn predict(taylor: &Taylor, step: usize, x: &Streams) -> Option<Streams> {
        taylor.predict(&Entered::new(&Step::plain(step, 16), x)).unwrap()
    }

    fn values(streams: &Streams) -> Vec<f32> {
        streams.image().unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The forecast `k` steps after `steps`, without the input, for a residual `f` on an input that changes
    /// too.
    fn continued(config: TaylorConfig, f: impl Fn(f32) -> f32, steps: &[usize], k: usize) -> f32 {
        let input = |step: usize| 3.0 - 0.25 * step as f32;
        let mut taylor = Taylor::new(config);
        for step in steps {
            let (x, y) = (input(*step), input(*step) + f(*step as f32));
            learn(&mut taylor, *step, &streams(&[x]), &streams(&[y]), &StoragePolicy::default());
        }
        let step = steps.last().unwrap() + k;
        let y = predict(&taylor, step, &streams(&[input(step)])).unwrap();
        values(&y)[0] - input(step)
    }

    #[test]
    fn polynomials_up_to_the_order_are_continued_exactly() {
        for order in 1..=MAX_ORDER {
            let f = |t: f32| 2.0 + (1..=order as i32).map(|p| (0.25 * t - 1.0).powi(p)).sum::<f32>();
            for k in 1..4 {
                let got = continued(TaylorConfig { order, ..TaylorConfig::default() }, f, &COMPUTED, k);
                let want = f((14 + k) as f32);
                assert!((got - want).abs() < 1e-4 * want.abs(), "order {order}, {k} steps on: {got}, {want}");
            }
        }
    }

    #[test]
    fn the_published_series_leaves_an_error_of_its_own_above_order_1() {
        let config = TaylorConfig { order: 2, dialect: Dialect::Diffusers, ..TaylorConfig::default() };
        for k in 1..4 {
            let square = continued(config, |t| t * t, &[3, 4, 5], k);
            assert_eq!(square, ((5 + k) * (5 + k) - k) as f32);
            assert_eq!(continued(config, |t| 2.0 * t - 1.0, &[3, 4, 7], k), (2 * (7 + k) - 1) as f32);
        }
    }

    #[test]
    fn a_lower_order_serves_until_there_is_enough_history() {
        let config = TaylorConfig { order: 3, ..TaylorConfig::default() };
        assert!(predict(&Taylor::new(config), 1, &streams(&[1.0])).is_none());
        let at = |steps: &[usize]| continued(config, |t| t * t * t, steps, 1);
        assert_eq!(at(&[2]), 8.0);
        assert_eq!(at(&[1, 2]), 15.0);
        assert_eq!(at(&[0, 1, 2]), 21.0);
        assert_eq!(at(&[0, 1, 2, 3]), 64.0);
        assert_eq!(at(&[0, 1, 2, 3, 4, 5]), 216.0);
    }

    #[test]
    fn an_output_is_continued_whatever_enters() {
        let mut taylor = Taylor::new(TaylorConfig { of: Of::Output, ..TaylorConfig::default() });
        for step in [1, 3] {
            let y = streams(&[step as f32]);
            learn(&mut taylor, step, &streams(&[7.0]), &y, &StoragePolicy::default());
        }
        assert_eq!(values(&predict(&taylor, 6, &streams(&[99.0])).unwrap()), [6.0]);
    }

    #[test]
    fn bytes_are_those_of_the_differences_in_the_stored_dtype() {
        for (dtype, each) in [(None, 4), (Some(DType::BF16), 2), (Some(DType::F16), 2)] {
            let storage = StoragePolicy { dtype, ..StoragePolicy::default() };
            let mut taylor = Taylor::new(TaylorConfig { order: 2, ..TaylorConfig::default() });
            assert_eq!(taylor.bytes(), 0);
            for (step, differences) in [(0, 1), (1, 2), (4, 3), (5, 3)] {
                learn(&mut taylor, step, &streams(&[0.0; 5]), &streams(&[1.0; 5]), &storage);
                assert_eq!(taylor.bytes(), differences * 5 * each, "{dtype:?}, step {step}");
            }
        }
    }

    #[test]
    fn what_is_no_number_lowers_the_order_and_never_comes_out() {
        let storage = StoragePolicy { dtype: Some(DType::F16), ..StoragePolicy::default() };
        let mut taylor = Taylor::new(TaylorConfig::default());
        let x = streams(&[0.0]);
        learn(&mut taylor, 0, &x, &streams(&[-6e4]), &storage);
        learn(&mut taylor, 1, &x, &streams(&[6e4]), &storage);
        // The difference exceeds the range of f16 and is stored nevertheless.
        assert!((values(&predict(&taylor, 2, &x).unwrap())[0] - 1.8e5).abs() < 200.0);
        // A difference of f32's largest numbers is not finite in f32 either: the last residual is used.
        let mut taylor = Taylor::new(TaylorConfig::default());
        learn(&mut taylor, 0, &x, &streams(&[-3e38]), &StoragePolicy::default());
        learn(&mut taylor, 1, &x, &streams(&[3e38]), &StoragePolicy::default());
        assert_eq!(values(&predict(&taylor, 2, &x).unwrap())[0], 3e38);
    }

    #[test]
    fn a_run_that_starts_again_has_another_past() {
        let mut taylor = Taylor::new(TaylorConfig::default());
        let x = streams(&[0.0]);
        for (step, y) in [(4, 1.0), (6, 2.0), (6, 5.0)] {
            learn(&mut taylor, step, &x, &streams(&[y]), &StoragePolicy::default());
        }
        assert_eq!(values(&predict(&taylor, 9, &x).unwrap()), [5.0]);
        assert!(predict(&taylor, 6, &x).is_none());
    }
}
