//! What a user asks for in place of a threshold, and what the planner makes of it.

use anyhow::Result;
use magcache_core::{
    CachePlan, ModelMeta, PlannedSchedule, Plans, Profile, Residuals, Trajectory, count, schedule::simulate,
    schemars,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    args::Sampling,
    failure::{bad_input, bad_input_with},
    summary::Summary,
};

/// A speed-up is met where it is at most this far from what was asked, relatively.
const NEAR: f64 = 0.05;

/// Most consecutive skips that are tried for a strategy whose table does not name them.
const MAX_SKIPS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Halvings of a threshold's range: more than tell any two schedules apart.
const HALVINGS: usize = 40;

/// The `[target]` table: one of the three, and where planned schedules are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Target {
    /// Steps that are to be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<usize>,
    /// How many times faster the network is to be than in a dense run.
    #[schemars(range(min = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) speedup: Option<f64>,
    /// Picture quality, in dB against the dense run.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) psnr: Option<f64>,
    /// A profile with planned schedules; the model's own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
}

/// The one that is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Budget(usize),
    Speedup(f64),
    Psnr(f64),
}

/// What the planner chose.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The `[[cache]]` tables that do it.
    pub(crate) tables: Vec<toml::Table>,
    /// Steps computed; a fraction where branches differ.
    computed: f64,
    steps: usize,
    /// Of the network, as the profile's times have it, or the ceiling where it has none.
    speedup: f64,
    /// dB, where the profile knows.
    psnr: Option<f64>,
    /// Measured on the calibration's runs, rather than predicted.
    psnr_measured: bool,
    /// Why it is not quite what was asked for.
    pub(crate) short: Option<String>,
    /// The profile that planned it; `None` for a strategy's threshold.
    pub(crate) planned_by: Option<String>,
}

impl Target {
    /// What the flags ask for, over the file's table.
    pub(crate) fn of(flags: &Sampling, file: Option<Self>) -> Option<Self> {
        let asked = Self { budget: flags.budget, speedup: flags.speedup, psnr: flags.psnr, profile: None };
        let mut target = if asked == Self::default() { file? } else { asked };
        target.profile = flags.profile.clone().or(target.profile);
        Some(target)
    }

    pub(crate) fn goal(&self) -> Result<Goal> {
        match (self.budget, self.speedup, self.psnr) {
            (Some(steps), None, None) => Ok(Goal::Budget(steps)),
            (None, Some(times), None) if times.is_finite() && times >= 1.0 => Ok(Goal::Speedup(times)),
            (None, Some(times), None) => {
                Err(bad_input(format!("`speedup` is {times}, it must be at least 1")))
            }
            (None, None, Some(db)) if db.is_finite() && db > 0.0 => Ok(Goal::Psnr(db)),
            (None, None, Some(db)) => Err(bad_input(format!("`psnr` is {db} dB, it must be above 0"))),
            _ => Err(bad_input_with("a target is one of `budget`, `speedup` and `psnr`", "--speedup 1.8")),
        }
    }

    /// Chooses a planned schedule, or, where `cache` names a strategy, its threshold.
    pub(crate) fn choose(
        &self,
        cache: &[toml::Table],
        residuals: &Residuals,
        model: &ModelMeta,
        run: &Trajectory,
    ) -> Result<Chosen> {
        let goal = self.goal()?;
        let plans = self.plans(model, run)?;
        match (cache, plans) {
            ([], Ok(plans)) => {
                let name = self.profile.as_deref().or(model.profiles.first().copied());
                Ok(Chosen { planned_by: name.map(str::to_owned), ..scheduled(goal, &plans)? })
            }
            ([], Err(why)) => Err(why),
            ([table], plans) => tuned(goal, table, residuals, model, run, plans.ok().as_ref()),
            _ => Err(bad_input_with(
                format!("a target is for one cache, {} are configured", cache.len()),
                "leave out [[cache]] and --cache: the planner chooses the schedule itself",
            )),
        }
    }

    /// The schedules that were planned for such a run; the outer error is that of a profile that cannot be read.
    fn plans(&self, model: &ModelMeta, run: &Trajectory) -> Result<Result<Plans>> {
        let hint = "magcache calibrate with these settings, then --profile FILE; or name a strategy: --cache magcache";
        let Some(name) = self.profile.as_deref().or(model.profiles.first().copied()) else {
            return Ok(Err(bad_input_with(format!("{} has no profile to plan from", model.name), hint)));
        };
        let profile = Profile::find(name)?;
        if let Some(plans) = profile.plans.iter().find(|plans| plans.fit(run)) {
            return Ok(Ok(plans.clone()));
        }
        let kind = |steps: usize, shift: Option<f64>, boundary: Option<f64>| {
            let mut text = count(steps, "step");
            text += &shift.map_or(String::new(), |shift| format!(" at flow_shift {shift}"));
            text += &boundary.map_or(String::new(), |boundary| format!(" with boundary {boundary}"));
            text
        };
        let late = if run.first > 0 { format!(" from step {}", run.first) } else { String::new() };
        let asked = kind(run.len(), run.flow_shift, run.boundary_ratio) + &late;
        let known: Vec<String> =
            profile.plans.iter().map(|p| kind(p.steps, p.flow_shift, p.boundary_ratio)).collect();
        let has = if known.is_empty() {
            "none at all".to_owned()
        } else {
            format!("those for {}", known.join(" and "))
        };
        Ok(Err(bad_input_with(format!("profile {name:?} has no schedules for {asked}, it has {has}"), hint)))
    }
}

/// A planned schedule.
fn scheduled(goal: Goal, plans: &Plans) -> Result<Chosen> {
    let all = &plans.schedules;
    let of = |short: Option<String>, found: &PlannedSchedule| Chosen {
        tables: vec![found.table()],
        computed: found.computed as f64,
        steps: plans.steps,
        speedup: plans.speedup(found.computed),
        psnr: Some(found.expected_psnr()),
        psnr_measured: found.psnr.is_some(),
        short,
        planned_by: None,
    };
    let (Some(fewest), Some(most)) = (all.first(), all.last()) else {
        return Err(bad_input_with("the profile has an empty list of schedules", "magcache calibrate"));
    };
    match goal {
        Goal::Budget(steps) => match all.iter().find(|plan| plan.computed == steps) {
            Some(found) => Ok(of(None, found)),
            None => {
                let message = format!(
                    "no schedule computes {steps} of {} steps, there are those of {} to {}",
                    plans.steps, fewest.computed, most.computed
                );
                Err(bad_input_with(
                    message,
                    format!("--budget {}", steps.clamp(fewest.computed, most.computed)),
                ))
            }
        },
        Goal::Speedup(times) => {
            let off = |plan: &&PlannedSchedule| (plans.speedup(plan.computed) / times).ln().abs();
            let found = all.iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(fewest);
            Ok(of(
                missed(times, plans.speedup(found.computed), all.iter().map(|p| plans.speedup(p.computed))),
                found,
            ))
        }
        Goal::Psnr(db) => match all.iter().find(|plan| plan.expected_psnr() >= db) {
            Some(found) => Ok(of(None, found)),
            None => {
                let best = all.iter().map(PlannedSchedule::expected_psnr).fold(f64::NEG_INFINITY, f64::max);
                let message = format!("{db} dB cannot be had with a skipped step, the best is {best:.1} dB");
                Err(bad_input_with(
                    message,
                    format!("--psnr {:.0}, or a dense run without a target", best.floor()),
                ))
            }
        },
    }
}

/// What can be had around a speed-up that cannot.
fn missed(asked: f64, got: f64, all: impl Iterator<Item = f64>) -> Option<String> {
    if (got / asked - 1.0).abs() <= NEAR {
        return None;
    }
    let (mut below, mut above) = (1.0_f64, f64::INFINITY);
    for speedup in all {
        if speedup <= asked {
            below = below.max(speedup);
        } else {
            above = above.min(speedup);
        }
    }
    let nearest = if above.is_finite() {
        format!("the nearest are {below:.2}x and {above:.2}x")
    } else {
        format!("the nearest is {below:.2}x")
    };
    Some(format!("{asked}x cannot be had: {nearest}"))
}

/// The threshold of a strategy that decides from the step alone.
fn tuned(
    goal: Goal,
    table: &toml::Table,
    residuals: &Residuals,
    model: &ModelMeta,
    run: &Trajectory,
    plans: Option<&Plans>,
) -> Result<Chosen> {
    let name = table.get("strategy").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let leave = "leave out --cache: the planner chooses a schedule from the profile";
    let cost = plans.map_or(0.0, |plans| plans.skipped_cost);
    let steps = run.steps().count();
    let wanted = match goal {
        Goal::Budget(budget) if budget <= steps => budget as f64,
        Goal::Budget(budget) => {
            return Err(bad_input(format!("a budget of {budget} computed steps, the run has {steps}")));
        }
        Goal::Speedup(times) => steps as f64 * ((1.0 / times - cost) / (1.0 - cost)).max(0.0),
        Goal::Psnr(_) => {
            return Err(bad_input_with(
                format!("what {name:?} gives in dB is known only after a run"),
                leave,
            ));
        }
    };
    let named = table.contains_key("max_skips");
    let skips = if named { vec![None] } else { MAX_SKIPS.map(Some).to_vec() };
    let mut best: Option<(f64, toml::Table)> = None;
    let mut reachable = Vec::new();
    for max_skips in skips {
        let (mut low, mut high) = (0.0, 4.0);
        for _ in 0..HALVINGS {
            let threshold = f64::midpoint(low, high);
            let mut table = table.clone();
            table.insert("threshold".to_owned(), toml::Value::Float(threshold));
            table.extend(max_skips.map(|n| ("max_skips".to_owned(), toml::Value::Integer(n as i64))));
            let built =
                CachePlan::from_tables(vec![table.clone()], residuals.clone())?.build(model, Some(run))?;
            if !built.registry.is_static() {
                let message =
                    format!("{name:?} decides from what it sees: what it skips is known only after a run");
                return Err(bad_input_with(message, leave));
            }
            let log = simulate(&built.registry, model, run)?;
            let summary = Summary::of(&log, &built.registry, model, run);
            let computed = steps as f64 * summary.computed() as f64 / summary.passes.max(1) as f64;
            reachable.push(computed);
            let off = (computed - wanted).abs();
            if best.as_ref().is_none_or(|(own, _)| off < (own - wanted).abs()) {
                best = Some((computed, table));
            }
            if computed > wanted {
                low = threshold;
            } else {
                high = threshold;
            }
        }
    }
    let Some((computed, table)) = best else {
        return Err(bad_input(format!("nothing to choose for {name:?}")));
    };
    let speedup = |computed: f64| steps as f64 / (computed + (steps as f64 - computed) * cost);
    let short = match goal {
        Goal::Speedup(times) => missed(times, speedup(computed), reachable.iter().map(|c| speedup(*c))),
        _ if (computed - wanted).abs() >= 0.5 => {
            Some(format!("{wanted} computed steps cannot be had with {name:?}: the nearest is {computed:.1}"))
        }
        _ => None,
    };
    Ok(Chosen {
        tables: vec![table],
        computed,
        steps,
        speedup: speedup(computed),
        psnr: None,
        psnr_measured: false,
        short,
        planned_by: None,
    })
}

impl Chosen {
    /// One line for a user.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "planned: {} of {} steps computed, network {:.2}x as fast",
            (self.computed * 10.0).round() / 10.0,
            self.steps,
            self.speedup
        );
        if let Some(psnr) = self.psnr {
            let how = if self.psnr_measured { "measured" } else { "predicted" };
            text += &format!(", {psnr:.1} dB against a dense run ({how})");
        }
        text
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "computed": self.computed,
            "steps": self.steps,
            "speedup": self.speedup,
            "psnr": self.psnr,
            "psnr_measured": self.psnr_measured,
            "short": self.short,
        })
    }
}
