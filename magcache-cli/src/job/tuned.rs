//! The key of a strategy that a target sets, and how it is tuned: for a strategy that decides from the step
//! alone.

use anyhow::Result;
use magcache_core::{
    CachePlan, ModelMeta, Trajectory,
    config::{CacheEntry, Residuals},
    meta,
    profile::ScheduleSet,
    schedule::Sizes,
};

use super::{
    decisions,
    target::{Chosen, Goal, missed},
};
use crate::{
    console::{bad_input, bad_input_with},
    summary::Summary,
};

/// Limits on consecutive skips to try if the strategy's table does not set one.
const MAX_SKIPS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Number of bisection steps before every value that changes a decision is tried.
const HALVINGS: usize = 40;

/// Most values to try in sequence for one limit on consecutive skips: thresholds are compared with sums over
/// a few neighbouring steps, so a run has hardly more.
const MOST: usize = 2000;

const LEAVE: &str = "leave out --cache: the planner chooses a schedule from the profile";

/// The key and the range to search.
#[derive(Clone, Debug)]
pub(crate) struct Knob {
    pub(crate) key: String,
    /// From a value that skips little to one that skips much.
    pub(crate) range: [f64; 2],
    pub(crate) whole: bool,
}

impl Knob {
    /// The key of the strategy of a `[[cache]]` table.
    ///
    /// Errors: the strategy is unknown or has no such key.
    pub(crate) fn of(table: &toml::Table) -> Result<Self> {
        let name = table.get("strategy").and_then(toml::Value::as_str).unwrap_or_default();
        let known = meta::strategies();
        let Some(info) = known.iter().find(|info| info.name == name) else {
            return Err(match CacheEntry::from_table("cache[0]", table.clone()) {
                Err(error) => error.into(),
                Ok(_) => bad_input_with(format!("unknown strategy {name:?}"), "magcache list"),
            });
        };
        let keys = (info.keys)();
        let Some((key, range)) = keys.target() else {
            return Err(bad_input_with(format!("{name:?} has no key that a target could set"), LEAVE));
        };
        Ok(Self { key: key.name.clone(), range, whole: key.kind == "whole number" })
    }

    /// `table` with the key set to `value`, rounded if the key takes whole numbers.
    pub(crate) fn set(&self, table: &toml::Table, value: f64) -> toml::Table {
        let mut table = table.clone();
        let value =
            if self.whole { toml::Value::Integer(value.round() as i64) } else { toml::Value::Float(value) };
        table.insert(self.key.clone(), value);
        table
    }
}

pub(super) struct Tuned<'t> {
    pub(super) table: &'t toml::Table,
    pub(super) residuals: &'t Residuals,
    pub(super) model: &'t ModelMeta,
    pub(super) run: &'t Trajectory,
    pub(super) sizes: Option<&'t Sizes>,
}

/// The result of a value.
struct Tried {
    table: toml::Table,
    /// Steps computed; a fraction where branches differ.
    computed: f64,
    /// The next larger number that the value was compared with: below it, no decision changes. `None` if
    /// there is none.
    next: Option<f64>,
}

impl Tuned<'_> {
    /// Chooses the value that comes nearest to a goal.
    pub(super) fn choose(&self, goal: Goal, plans: Option<&ScheduleSet>) -> Result<Chosen> {
        let name = self.table.get("strategy").and_then(toml::Value::as_str).unwrap_or_default();
        let cost = plans.map_or(0.0, |plans| plans.skipped_cost);
        let steps = self.run.steps_of_clip();
        let wanted = match goal {
            Goal::Budget(budget) if budget <= steps => budget as f64,
            Goal::Budget(budget) => {
                return Err(bad_input(format!("a budget of {budget} computed steps, the run has {steps}")));
            }
            Goal::Speedup(times) => steps as f64 * ((1.0 / times - cost) / (1.0 - cost)).max(0.0),
            Goal::Psnr(_) => {
                let message = format!("what {name:?} gives in dB is known only after a run");
                return Err(bad_input_with(message, LEAVE));
            }
        };
        let knob = self.free_knob(name)?;
        let (best, reachable) = self.nearest(name, &knob, wanted)?;
        let Some(Tried { table, computed, .. }) = best else {
            return Err(bad_input(format!("nothing to choose for {name:?}")));
        };
        let speedup = |computed: f64| steps as f64 / (computed + (steps as f64 - computed) * cost);
        let short = match goal {
            Goal::Speedup(times) => missed(times, speedup(computed), reachable.iter().map(|c| speedup(*c))),
            _ if (computed - wanted).abs() >= 0.5 => Some(format!(
                "{wanted} computed steps cannot be had with {name:?}: the nearest is {computed:.1}"
            )),
            _ => None,
        };
        Ok(Chosen {
            tables: vec![table],
            computed,
            steps,
            speedup: speedup(computed),
            quality: None,
            short,
            planned_by: None,
            searched: false,
        })
    }

    /// The key that the target sets. Errors: the strategy has none, or it is already set.
    fn free_knob(&self, name: &str) -> Result<Knob> {
        let knob = Knob::of(self.table)?;
        if let Some(typed) = self.table.get(&knob.key) {
            let message = format!("`{}` of {name:?} is {typed}, and a target would set it", knob.key);
            return Err(bad_input_with(message, "leave out one of them"));
        }
        CacheEntry::from_table("cache[0]", knob.set(self.table, knob.range[0]))?;
        Ok(knob)
    }

    /// The value that computes nearest to `wanted` steps, and the steps that other values compute. All whole
    /// numbers are tried. Otherwise bisection finds the value, as larger values usually skip more; if it
    /// finds none, every value that makes a difference is tried.
    fn nearest(&self, name: &str, knob: &Knob, wanted: f64) -> Result<(Option<Tried>, Vec<f64>)> {
        let named = self.table.contains_key("max_skips");
        let caps = if named { vec![None] } else { MAX_SKIPS.map(Some).to_vec() };
        let mut seen = Seen { wanted, best: None, reachable: Vec::new() };
        let [from, to] = knob.range;
        for cap in &caps {
            if knob.whole {
                let (first, last) = (from.min(to) as usize, from.max(to) as usize);
                for value in (first..=last).take(MOST) {
                    seen.add(self.at(name, knob, value as f64, *cap)?);
                }
                continue;
            }
            let (mut low, mut high) = (from, to);
            for _ in 0..HALVINGS {
                let value = f64::midpoint(low, high);
                let more = seen.add(self.at(name, knob, value, *cap)?) > wanted;
                (low, high) = if more { (value, high) } else { (low, value) };
            }
        }
        for cap in &caps {
            if seen.is_met() || knob.whole || from > to {
                break;
            }
            let mut value = from;
            for _ in 0..MOST {
                let tried = self.at(name, knob, value, *cap)?;
                let next = tried.next.filter(|next| *next <= to);
                seen.add(tried);
                let Some(next) = next.filter(|_| !seen.is_met()) else { break };
                // The first value that lets it pass, even if thresholds are compared in f32.
                value = f64::from((next as f32).next_up());
            }
        }
        Ok((seen.best, seen.reachable))
    }

    fn at(&self, name: &str, knob: &Knob, value: f64, max_skips: Option<usize>) -> Result<Tried> {
        let Self { residuals, model, run, sizes, .. } = self;
        let mut table = knob.set(self.table, value);
        table.extend(max_skips.map(|n| ("max_skips".to_owned(), toml::Value::Integer(n as i64))));
        let plan = CachePlan::from_tables(vec![table.clone()], (*residuals).clone())?;
        let built = plan.build(model, Some(run))?;
        if !built.registry.is_static() {
            let message =
                format!("{name:?} decides from what it sees: what it skips is known only after a run");
            return Err(bad_input_with(message, LEAVE));
        }
        let log = decisions(&built.registry, model, run, *sizes)?;
        let summary = Summary::of(&log, &built.registry, model, run);
        let above = log.records().iter().filter_map(|record| record.accumulated);
        Ok(Tried {
            table,
            computed: summary.computed_steps(run),
            next: above.filter(|compared| *compared >= value).min_by(f64::total_cmp),
        })
    }
}

/// The values tried so far.
struct Seen {
    wanted: f64,
    best: Option<Tried>,
    reachable: Vec<f64>,
}

impl Seen {
    /// Keeps the nearest value; returns the steps it computes.
    fn add(&mut self, tried: Tried) -> f64 {
        let computed = tried.computed;
        let off = |computed: f64| (computed - self.wanted).abs();
        if self.best.as_ref().is_none_or(|best| off(computed) < off(best.computed)) {
            self.best = Some(tried);
        }
        self.reachable.push(computed);
        computed
    }

    /// True if no other value can be nearer: it computes the wanted number of steps, or the next whole one.
    fn is_met(&self) -> bool {
        self.best.as_ref().is_some_and(|best| (best.computed - self.wanted).abs() < 0.5)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use magcache_core::Branch;

    use super::*;

    /// A curve unlike any real one: on these, a larger threshold sometimes computes more steps.
    fn table(seed: u32) -> toml::Table {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let mut ratio = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            0.6 + 0.7 * f64::from(state >> 8) / f64::from(1 << 24)
        };
        let ratios: Vec<String> = (0..14).map(|_| format!("{:.4}", ratio())).collect();
        let text =
            format!("strategy = \"magcache\"\nmax_skips = 3\nwarmup = 1\nratios = [{}]", ratios.join(", "));
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn every_number_of_steps_that_a_threshold_gives_is_found() {
        magcache_strategies::link();
        let (model, run) =
            (ModelMeta::of("toy", "tests").meta().with_blocks(&[3]), Trajectory::plain(14, &[Branch::Cond]));
        let residuals = Residuals::default();
        for seed in [8, 13, 19, 20, 30, 40, 57, 62] {
            let table = table(seed);
            let tuned = Tuned { table: &table, residuals: &residuals, model: &model, run: &run, sizes: None };
            let knob = Knob { key: "threshold".to_owned(), range: [0.0, 4.0], whole: false };
            let at = |threshold: usize| {
                tuned.at("magcache", &knob, threshold as f64 / 500.0, None).unwrap().computed as usize
            };
            let computed: Vec<usize> = (0..1000).map(at).collect();
            assert!(computed.windows(2).any(|pair| pair[0] < pair[1]), "curve {seed} is no such curve");
            for budget in computed.into_iter().collect::<BTreeSet<_>>() {
                let chosen = tuned.choose(Goal::Budget(budget), None).unwrap();
                assert_eq!((chosen.computed as usize, chosen.short), (budget, None), "curve {seed}");
            }
        }
    }
}
