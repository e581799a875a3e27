//! `MeanCache`: a fixed schedule, and velocities of skipped steps made from the mean velocity of the steps
//! before them ("`MeanCache`: From Instantaneous to Average Velocity", arXiv 2601.19961).
//!
//! Acts on the whole forward of each guidance branch, which gives what acting behind guidance gives, because
//! the weights of guidance add up to 1. With Euler and a velocity that is linear in the noise level, an order
//! `K` makes up `(K − 1) / (2K)` of the change of the first skipped step. With a solver that looks back
//! (UniPC) the mean velocity contains the solver's own corrections, and orders below 5 run away: they are
//! refused. A line in the noise level, `forecast = { type = "taylor", of = "output", abscissa = "sigma" }`,
//! makes up the whole change and is safe with both.

mod tables;
mod velocity;

use std::sync::Arc;

use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    TimestepCache, Verdict, Why, error::count, forecast::Forecast, inventory, keys::keys_of, profile::Part,
    typetag,
};
use serde::{Deserialize, Serialize};

pub use self::{
    tables::{PUBLISHED, Published, STEPS, scaled},
    velocity::MeanVelocity,
};
use crate::published::published;

/// The name of the strategy, and of its settings in profiles: `[[part.meancache]]`.
const NAME: &str = "meancache";

/// The smallest order that is safe with a solver that looks back.
const SAFE: usize = 5;

/// The keys of `strategy = "meancache"`: `table`, or `computed` and `orders`; without any, a table that the
/// profile names.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeanCacheConfig {
    /// A published schedule, scaled from 50 steps to those of the run: `z-image-` 25, 20, 17, 15 or 13,
    /// `qwen-image-` and `qwen-image-2512-` 25, 17 or 10. Without it the mildest that is published for the
    /// model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The computed steps of an own schedule, 0 among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed: Option<Vec<usize>>,
    /// The order `K` from each computed step to the next one, for those in between, or one for all; the last
    /// one also holds behind the last computed step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<Vec<usize>>,
}

/// What a profile has for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfModel {
    /// Names of published schedules, the default first.
    tables: Vec<String>,
}

/// The strategy.
#[derive(Clone, Debug)]
pub struct MeanCache {
    /// The order of every step of the run, 0 for computed ones.
    orders: Arc<[usize]>,
}

impl TimestepCache for MeanCache {
    type State = ();

    fn forecast(&self, _: &Step) -> Box<dyn Forecast> {
        Box::new(MeanVelocity::new(Arc::clone(&self.orders)))
    }

    fn is_static(&self) -> bool {
        true
    }

    fn head(&self, (): &mut (), step: &Step, _: Branch, _: &Head<'_>) -> candle_core::Result<Verdict> {
        let skips = self.orders.get(step.index).is_some_and(|order| *order > 0);
        Ok(if skips { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) })
    }
}

impl MeanCacheConfig {
    /// The keys, or the default table of the profile if they name no schedule.
    fn resolved(&self, cx: &BuildCx<'_>) -> Result<Self, ConfigError> {
        if !self.is_empty() {
            return Ok(self.clone());
        }
        let table = published::<OfModel>(cx, NAME)?.into_iter().flat_map(|own| own.tables).next();
        Ok(Self { table, ..Self::default() })
    }

    fn is_empty(&self) -> bool {
        self.table.is_none() && self.computed.is_none() && self.orders.is_none()
    }

    /// Computed steps and the orders of their edges, in a run of `steps`.
    fn schedule(&self, place: &str, steps: usize) -> Result<(Vec<usize>, Vec<usize>), Problem> {
        match (&self.table, &self.computed, &self.orders) {
            (Some(name), None, None) => match PUBLISHED.iter().find(|table| table.name == name) {
                Some(table) => Ok(scaled(table, steps)),
                None => {
                    let names: Vec<_> = PUBLISHED.iter().map(|table| table.name).collect();
                    let message = format!("`table` is {name:?}, which is not published");
                    Err(Problem::error(place, message).hint(format!("published are {}", names.join(", "))))
                }
            },
            (None, Some(computed), Some(orders)) => Ok((computed.clone(), orders.clone())),
            (Some(_), ..) => {
                let message = "`table` and an own schedule are both given";
                Err(Problem::error(place, message).hint("keep `table`, or `computed` and `orders`"))
            }
            _ => {
                let message = "there is no schedule";
                let hint =
                    "give `table = \"z-image-17\"` or another published one, or `computed` and `orders`";
                Err(Problem::error(place, message).hint(hint))
            }
        }
    }

    /// The order of every step, or what is wrong with the schedule.
    fn orders(&self, place: &str, steps: usize) -> Result<Vec<usize>, Problem> {
        let (computed, orders) = self.schedule(place, steps)?;
        let error = |message: String, hint: &str| Problem::error(place, message).hint(hint);
        if computed.first() != Some(&0) || !computed.is_sorted_by(|a, b| a < b) {
            return Err(error(format!("`computed` is {computed:?}"), "it rises, and begins with step 0"));
        }
        if let Some(last) = computed.last().filter(|last| **last >= steps) {
            let message = format!("`computed` names step {last}, the run has {}", count(steps, "step"));
            return Err(error(message, "schedules are for one number of steps"));
        }
        let edges = computed.len();
        if ![1, edges - 1, edges].contains(&orders.len()) {
            let (orders, edges) = (count(orders.len(), "order"), count(edges, "computed step"));
            let message = format!("{orders} for {edges}");
            return Err(error(message, "one for all, or one for each edge between computed steps"));
        }
        let mut out = vec![0; steps];
        for (i, from) in computed.iter().enumerate() {
            let order = orders.get(i).or(orders.last()).copied().unwrap_or(0);
            let to = computed.get(i + 1).copied().unwrap_or(steps);
            if order == 0 && to > from + 1 {
                let message =
                    format!("the order from step {from} to step {to} is 0, and steps lie in between");
                return Err(error(message, "it is at least 1; published are 1 to 5"));
            }
            out[from + 1..to].fill(order);
        }
        Ok(out)
    }
}

#[typetag::serde(name = "meancache")]
impl CacheConfig for MeanCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let Some(run) = cx.trajectory else { return Vec::new() };
        let own = match self.resolved(cx) {
            Ok(own) => own,
            Err(error) => return vec![Problem::error(cx.place, error.to_string())],
        };
        let orders = match own.orders(cx.place, run.len()) {
            Ok(orders) => orders,
            Err(problem) => return vec![problem],
        };
        let mut out = Vec::new();
        let low = orders.iter().find(|order| (1..SAFE).contains(*order));
        if let Some(order) = low.filter(|_| run.multistep) {
            let message = format!(
                "the schedule has order {order}, and the solver builds on earlier predictions: orders below {SAFE} \
                 run away with it"
            );
            let hint = "use Euler, or strategy = \"schedule\" with forecast = { type = \"taylor\", of = \"output\", \
                        abscissa = \"sigma\" }";
            out.push(Problem::error(cx.place, message).hint(hint));
        }
        if own.table.is_some() && run.len() != STEPS {
            let message = format!("published for {STEPS} steps and scaled to {}: a guess", run.len());
            out.push(
                Problem::warning(cx.place, message).hint("plan it: `magcache calibrate`, `magcache plan`"),
            );
        }
        if run.phases.len() > 1 {
            let message =
                "the schedule is of one network, and the run changes networks: the history ends there";
            out.push(Problem::warning(cx.place, message).hint("plan it, or name `experts`"));
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.is_empty() { vec![Part::Own(NAME)] } else { Vec::new() }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let steps = cx.trajectory.map_or(STEPS, magcache_core::Trajectory::len);
        let orders = self
            .resolved(cx)?
            .orders(cx.place, steps)
            .map_err(|problem| ConfigError::Problems(vec![problem]))?;
        Ok(Strategy::cache(MeanCache { orders: orders.into() }, cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
        summary: "skips the forwards of a published schedule and makes velocities from the mean of those before",
        paper: "https://arxiv.org/abs/2601.19961",
        level: Level::Forward,
        example: r#"
            strategy = "meancache"
            computed = [0, 1, 2, 4, 6, 8]
            orders = [5]
        "#,
        never: r#"
            strategy = "meancache"
            computed = [0, 1]
            orders = [5]
            warmup = 1.0
        "#,
        keys: keys_of::<MeanCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
