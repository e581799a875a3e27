//! Schedules as tables: how decisions that are known in advance are written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Branch, CacheConfig, ConfigError, Problem,
    error::syntax,
    meta,
    planner::Continuation,
    profile::{PlannedSchedule, SkippedPart, WindowedSchedule},
    table::write,
};

/// Steps to skip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Skips {
    /// On every branch.
    All(Vec<usize>),
    /// By branch; a branch without a list skips nothing.
    ByBranch(BTreeMap<String, Vec<usize>>),
}

impl Skips {
    /// Whether `branch` skips the step.
    pub fn has(&self, step: usize, branch: Branch) -> bool {
        match self {
            Self::All(steps) => steps.contains(&step),
            Self::ByBranch(map) => map.get(&branch.to_string()).is_some_and(|steps| steps.contains(&step)),
        }
    }

    /// The last step that a branch skips.
    pub fn last(&self) -> Option<usize> {
        match self {
            Self::All(steps) => steps.iter().max().copied(),
            Self::ByBranch(map) => map.values().flatten().max().copied(),
        }
    }

    /// An error for every key that names no branch; `place` names the table.
    pub fn problems(&self, place: &str) -> Vec<Problem> {
        match self {
            Self::All(_) => Vec::new(),
            Self::ByBranch(map) => {
                map.keys().filter_map(|name| Problem::unless_branch(place, "skip", name)).collect()
            }
        }
    }
}

/// The strategy that skips a fixed list of steps, registered with `inventory::submit!`. Planned schedules,
/// exported decisions and replayed traces are tables of this strategy.
#[derive(Debug)]
pub struct FixedSteps {
    /// Makes its configuration from the steps to skip and, if given, the number of steps of the run.
    pub config: fn(Skips, Option<usize>) -> Box<dyn CacheConfig>,
}

inventory::collect!(FixedSteps);

impl FixedSteps {
    /// The registered one; any of them if there are several.
    ///
    /// Errors: none is registered.
    pub fn registered() -> Result<&'static Self, ConfigError> {
        let all = || inventory::iter::<Self>.into_iter();
        let none = "no strategy is registered that skips a fixed list of steps, which this is written as";
        all().min_by_key(|fixed| fixed.name()).ok_or_else(|| syntax("a schedule", &none))
    }

    /// The `[[cache]]` table that skips these steps.
    pub fn table(&self, skips: Skips, steps: Option<usize>) -> Result<toml::Table, ConfigError> {
        write("a schedule", &(self.config)(skips, steps))
    }

    /// The `[[cache]]` table that runs a planned schedule.
    pub fn planned(&self, schedule: &PlannedSchedule) -> Result<toml::Table, ConfigError> {
        self.continued(schedule.skip.clone(), schedule.continuation)
    }

    /// The `[[cache]]` tables that run a planned schedule of steps and windows: one for each range of blocks.
    pub fn windowed(&self, schedule: &WindowedSchedule) -> Result<Vec<toml::Table>, ConfigError> {
        let table = |part: &SkippedPart| {
            let mut table = self.continued(part.skip.clone(), schedule.continuation)?;
            table.insert("at".to_owned(), part.at.clone().into());
            Ok(table)
        };
        schedule.parts.iter().map(table).collect()
    }

    /// The `[[cache]]` table that skips these steps, replaced by a continuation.
    pub fn continued(&self, skip: Vec<usize>, with: Continuation) -> Result<toml::Table, ConfigError> {
        let mut table = self.table(Skips::All(skip), None)?;
        if with == Continuation::Line {
            let line = meta::forecasts().into_iter().find_map(|forecast| forecast.line);
            let none = "no forecast is registered that continues along a line, as this was planned with";
            let line: toml::Table = line
                .map(toml::from_str)
                .transpose()
                .map_err(|e| syntax("forecast", &e))?
                .ok_or_else(|| syntax("a schedule", &none))?;
            table.insert("forecast".to_owned(), toml::Value::Table(line));
        }
        Ok(table)
    }

    /// The strategy's name.
    pub fn name(&self) -> &'static str {
        (self.config)(Skips::All(Vec::new()), None).typetag_name()
    }
}
