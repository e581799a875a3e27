//! A fixed schedule: skips a given list of steps, recorded in a trace, chosen by a planner, or published.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Strategy, StrategyInfo, Verdict, Why,
    config::{FixedSteps, Skips},
    error::count,
    inventory,
    keys::keys_of,
    profile::Part,
    strategy::Seen,
    typetag,
};
use serde::{Deserialize, Serialize};

use crate::published::published;

/// The name of the strategy, and of published schedules in profiles: `[[part.schedule]]`.
const NAME: &str = "schedule";

/// What a profile has for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    /// Steps of the runs that it is for.
    steps: usize,
    /// Those that are computed.
    computed: Vec<usize>,
}

/// The keys of `strategy = "schedule"`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Steps to skip: one list for every branch, or one by branch. Without it a schedule that is published
    /// for the model, that of the table's `variant` or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<Skips>,
    /// Steps of the runs that it is for; any number without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
}

/// The strategy.
#[derive(Debug)]
pub struct FixedSchedule(Skips);

impl Rule for FixedSchedule {
    fn decide(&self, seen: &Seen<'_>, _: &mut Option<f64>) -> Verdict {
        let skip = self.0.has(seen.step.index, seen.branch);
        if skip { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) }
    }
}

impl ScheduleConfig {
    /// The steps to skip, and the number of steps of the runs that they are for; none if there are none.
    fn resolved(&self, cx: &BuildCx<'_>) -> Result<Option<(Skips, Option<usize>)>, ConfigError> {
        if let Some(skip) = &self.skip {
            return Ok(Some((skip.clone(), self.steps)));
        }
        let first = published::<Published>(cx, NAME)?.into_iter().next();
        Ok(first.map(|Published { steps, computed }| {
            let skip = (0..steps).filter(|step| !computed.contains(step)).collect();
            (Skips::All(skip), self.steps.or(Some(steps)))
        }))
    }
}

#[typetag::serde(name = "schedule")]
impl CacheConfig for ScheduleConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let (skip, own) = match self.resolved(cx) {
            Ok(Some(resolved)) => resolved,
            Ok(None) => {
                let message = "`skip` is missing, and no schedule is published for this model";
                return vec![Problem::error(cx.place, message).hint("`skip = [2, 4]`")];
            }
            Err(error) => return vec![Problem::error(cx.place, error.to_string())],
        };
        let mut out = skip.problems(cx.place);
        let Some(run) = cx.trajectory else { return out };
        let (last, steps) = (skip.last(), count(run.len(), "step"));
        if let Some(own) = own.filter(|own| *own != run.len()) {
            let message = format!("the schedule is for runs of {}, the run has {steps}", count(own, "step"));
            out.push(Problem::error(cx.place, message).hint(format!("`steps = {own}`")));
        } else if let Some(last) = last.filter(|last| *last >= run.len()) {
            let message = format!("`skip` names step {last}, the run has {steps}");
            out.push(
                Problem::error(cx.place, message).hint(format!("run it with `steps = {}` or more", last + 1)),
            );
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.skip.is_some() { Vec::new() } else { vec![Part::Own(NAME)] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let skip = self.resolved(cx)?.map_or_else(|| Skips::All(Vec::new()), |(skip, _)| skip);
        Ok(Strategy::rule(FixedSchedule(skip), cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
        summary: "skips the steps that it is told",
        paper: "-",
        level: Level::Blocks,
        example: r#"
            strategy = "schedule"
            skip = [2, 4, 5]
        "#,
        never: r#"
            strategy = "schedule"
            skip = []
        "#,
        keys: keys_of::<ScheduleConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}

inventory::submit! {
    FixedSteps { config: |skip, steps| Box::new(ScheduleConfig { skip: Some(skip), steps }) }
}
