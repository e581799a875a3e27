//! A fixed schedule: skips a given list of steps, recorded in a trace or chosen by a planner.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Strategy, StrategyInfo, Verdict, Why,
    config::{FixedSteps, Skips},
    error::count,
    inventory,
    keys::keys_of,
    strategy::Seen,
    typetag,
};
use serde::{Deserialize, Serialize};

/// The keys of `strategy = "schedule"`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Steps to skip: one list for every branch, or one by branch.
    pub skip: Skips,
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

#[typetag::serde(name = "schedule")]
impl CacheConfig for ScheduleConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let mut out = self.skip.problems(cx.place);
        let Some(run) = cx.trajectory else { return out };
        let (last, steps) = (self.skip.last(), count(run.len(), "step"));
        if let Some(own) = self.steps.filter(|own| *own != run.len()) {
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

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        Ok(Strategy::rule(FixedSchedule(self.skip.clone()), cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "schedule",
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
    FixedSteps { config: |skip, steps| Box::new(ScheduleConfig { skip, steps }) }
}
