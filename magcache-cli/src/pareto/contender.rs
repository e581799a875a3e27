//! The contenders, and the setting of each for a budget.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::config::Residuals;

use crate::{
    console::bad_input_with,
    job::{Config, Job, Knob, Target, cache_table, set_profile},
    lanes::{Lane, Scene, run_once},
};

/// A budget counts as met if runs compute within this many steps of it.
const NEAR: f64 = 0.75;

/// The source of one curve.
#[derive(Debug)]
pub(crate) enum Contender {
    /// The profile's schedules.
    Planner,
    /// The same schedules without a continuation: the last residual is reused.
    PlannerReuse,
    /// The profile's schedules with windows of blocks that take as long as its schedule of whole steps.
    PlannerWindows,
    FewerSteps,
    /// A strategy at the threshold that meets the budget: its name and its table.
    Strategy(String, toml::Table),
}

#[derive(Clone, Debug)]
pub(crate) enum Setting {
    Tables(Vec<toml::Table>),
    /// A run without a cache and with this many steps.
    Steps(usize),
}

impl Contender {
    /// A strategy by name, or the only `[[cache]]` table of a configuration file, named after the file.
    pub(crate) fn strategy(word: &str) -> Result<Self> {
        let path = Path::new(word);
        if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml")) {
            return Ok(Self::Strategy(word.to_owned(), cache_table(word, &[])?));
        }
        let cache = Config::read(path)?.cache;
        let [table] = cache.as_slice() else {
            let message = format!("{word}: {} [[cache]] tables, a contender is one", cache.len());
            return Err(bad_input_with(
                message,
                "a [[cache]] table without `threshold`, which is searched for",
            ));
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self::Strategy(name, table.clone()))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Planner => "planner",
            Self::PlannerReuse => "planner, reuse",
            Self::PlannerWindows => "planner, windows",
            Self::FewerSteps => "fewer steps",
            Self::Strategy(name, _) => name,
        }
    }

    /// The setting for each budget; `None` if the budget cannot be met. Strategies that decide from content
    /// are tried on `scenes`.
    pub(crate) fn settings(
        &self,
        job: &Job,
        profile: Option<&str>,
        budgets: &[usize],
        scenes: &[Scene<'_>],
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Option<Setting>>> {
        let mut search = Search::default();
        let mut all = Vec::with_capacity(budgets.len());
        for budget in budgets {
            all.push(match self {
                Self::FewerSteps => Some(Setting::Steps(*budget)),
                Self::Planner => Some(Setting::Tables(chosen(job, profile, &[], *budget)?.0)),
                Self::PlannerReuse => {
                    let (mut tables, _) = chosen(job, profile, &[], *budget)?;
                    tables.iter_mut().for_each(|table| _ = table.remove("forecast"));
                    Some(Setting::Tables(tables))
                }
                Self::PlannerWindows => target(profile, *budget)
                    .windowed(job.pipeline.meta(), &job.trajectory, *budget)?
                    .map(Setting::Tables),
                Self::Strategy(_, table) => {
                    strategy(job, profile, table, *budget, scenes, &mut search, stop)?
                }
            });
        }
        Ok(all)
    }
}

/// The planner's choice for a budget, and whether it meets it.
fn chosen(
    job: &Job,
    profile: Option<&str>,
    cache: &[toml::Table],
    budget: usize,
) -> Result<(Vec<toml::Table>, bool)> {
    let target = target(profile, budget);
    let chosen = target.choose(cache, &Residuals::default(), job.pipeline.meta(), &job.trajectory, None)?;
    Ok((chosen.tables, chosen.short.is_none()))
}

fn target(profile: Option<&str>, budget: usize) -> Target {
    Target { budget: Some(budget), profile: profile.map(str::to_owned), ..Target::default() }
}

fn strategy(
    job: &Job,
    profile: Option<&str>,
    table: &toml::Table,
    budget: usize,
    scenes: &[Scene<'_>],
    search: &mut Search,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Setting>> {
    let mut table = table.clone();
    if let (Some(profile), false) = (profile, table.contains_key("profile")) {
        set_profile(&mut table, profile);
    }
    if job.hooks_of(vec![table.clone()])?.is_static() {
        let (tables, met) = chosen(job, profile, &[table], budget)?;
        return Ok(met.then_some(Setting::Tables(tables)));
    }
    let knob = Knob::of(&table)?;
    let with = |value: f64| knob.set(&table, value);
    let mut computed = |threshold: f64| -> Result<f64> {
        let registry = job.hooks_of(vec![with(threshold)])?;
        let mut sum = 0.0;
        for scene in scenes {
            let mut lane = Lane::new(scene, &registry)?;
            lane.generation.run(stop, &mut |_| {})?;
            sum += lane.summary().computed_steps(&job.trajectory);
        }
        Ok(sum / scenes.len().max(1) as f64)
    };
    let (threshold, steps) = search.find(budget as f64, knob.range, &mut computed)?;
    Ok(((steps - budget as f64).abs() <= NEAR).then(|| Setting::Tables(vec![with(threshold)])))
}

impl Setting {
    /// Runs the setting to its end: its frames, and how many steps were computed; a fraction if branches
    /// differ.
    pub(crate) fn run(&self, job: &Job, scene: &Scene<'_>, stop: &dyn Fn() -> bool) -> Result<(Tensor, f64)> {
        match self {
            Self::Steps(steps) => {
                let (frames, _) = run_once(&scene.with_steps(*steps), &Arc::default(), stop)?;
                Ok((frames, *steps as f64))
            }
            Self::Tables(tables) => {
                let (frames, summary) = run_once(scene, &job.hooks_of(tables.clone())?, stop)?;
                Ok((frames, summary.computed_steps(&job.trajectory)))
            }
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        match self {
            Self::Steps(steps) => serde_json::json!({ "steps": steps }),
            Self::Tables(tables) => serde_json::json!({ "cache": tables }),
        }
    }
}

/// Evaluations per budget: they resolve values to 1/250 of the range.
const HALVINGS: usize = 8;

/// A bisection that remembers its evaluations, so that neighbouring budgets share them.
#[derive(Debug, Default)]
struct Search {
    /// Mean computed steps by value, keyed by its bits, which sort like the value since it is positive.
    seen: BTreeMap<u64, f64>,
}

impl Search {
    /// The value in `range` whose runs compute nearest to `budget` steps, and how many they compute.
    /// `computed` runs with a value; the range goes from skipping little to skipping much.
    fn find(
        &mut self,
        budget: f64,
        range: [f64; 2],
        computed: &mut dyn FnMut(f64) -> Result<f64>,
    ) -> Result<(f64, f64)> {
        let [from, to] = range;
        // Position in the range. A later value usually skips more, but this is not guaranteed.
        let along = |value: f64| (value - from) / (to - from);
        let seen = || self.seen.iter().map(|(bits, steps)| (f64::from_bits(*bits), *steps));
        let mut low = seen()
            .filter(|(_, steps)| *steps > budget)
            .map(|(t, _)| t)
            .fold(from, |a, b| if along(b) > along(a) { b } else { a });
        let mut high = seen()
            .filter(|(t, steps)| *steps <= budget && along(*t) > along(low))
            .map(|(t, _)| t)
            .fold(to, |a, b| if along(b) < along(a) { b } else { a });
        for _ in 0..HALVINGS {
            let threshold = f64::midpoint(low, high);
            let steps = match self.seen.get(&threshold.to_bits()) {
                Some(steps) => *steps,
                None => computed(threshold)?,
            };
            self.seen.insert(threshold.to_bits(), steps);
            if (steps - budget).abs() < 1e-9 {
                break;
            }
            if steps > budget {
                low = threshold;
            } else {
                high = threshold;
            }
        }
        let off = |steps: &f64| (steps - budget).abs();
        let best = self.seen.iter().min_by(|(_, a), (_, b)| off(a).total_cmp(&off(b)));
        Ok(best.map_or((0.0, f64::INFINITY), |(bits, steps)| (f64::from_bits(*bits), *steps)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_met_and_evaluations_shared() {
        let mut runs = 0;
        let mut steps = |threshold: f64| {
            runs += 1;
            Ok((30.0 - 40.0 * threshold).clamp(8.0, 30.0).round())
        };
        let mut search = Search::default();
        for budget in [24.0, 20.0, 16.0, 12.0, 10.0] {
            let (threshold, computed) = search.find(budget, [0.0, 2.0], &mut steps).unwrap();
            assert_eq!(computed, budget);
            assert_eq!((30.0 - 40.0 * threshold).round(), budget);
        }
        assert_eq!(search.find(3.0, [0.0, 2.0], &mut steps).unwrap().1, 8.0);
        assert!(runs < 5 * HALVINGS, "{runs} runs");
    }
}
