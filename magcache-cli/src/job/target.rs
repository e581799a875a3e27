//! The target that a user sets in place of a threshold, and the planner's choice for it.

use anyhow::Result;
use magcache_core::{
    ModelMeta, Trajectory,
    config::{FixedSteps, Residuals},
    error::count,
    profile::{Grounds, PlannedSchedule, Profile, Quality, ScheduleSet, WindowedSchedule},
    schedule::Sizes,
    schemars,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tuned::Tuned;
use crate::{
    args::Sampling,
    console::{bad_input, bad_input_with},
};

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

impl Target {
    /// The target of the flags, which override the file's table.
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

    /// Chooses a planned schedule or, if `cache` names a strategy, its threshold.
    pub(crate) fn choose(
        &self,
        cache: &[toml::Table],
        residuals: &Residuals,
        model: &ModelMeta,
        run: &Trajectory,
        sizes: Option<&Sizes>,
    ) -> Result<Chosen> {
        let goal = self.goal()?;
        let plans = self.plans(model, run)?;
        match (cache, plans) {
            ([], Ok(plans)) => {
                let name = self.profile.as_deref().or(model.profiles.first().copied());
                Ok(Chosen { planned_by: name.map(str::to_owned), ..scheduled(goal, &plans)? })
            }
            ([], Err(why)) => Err(why),
            ([table], plans) => {
                Tuned { table, residuals, model, run, sizes }.choose(goal, plans.ok().as_ref())
            }
            _ => Err(bad_input_with(
                format!("a target is for one cache, {} are configured", cache.len()),
                "leave out [[cache]] and --cache: the planner chooses the schedule itself",
            )),
        }
    }

    /// The tables of the best schedule with windows that takes no longer than the one of `budget` computed
    /// steps; `None` if the profile has none that is expected to be better.
    pub(crate) fn windowed(
        &self,
        model: &ModelMeta,
        run: &Trajectory,
        budget: usize,
    ) -> Result<Option<Vec<toml::Table>>> {
        let plans = self.plans(model, run)??;
        let whole = plans.schedules.iter().find(|own| own.computed == budget);
        let limit = (1.0 + SAME) / plans.speedup(budget);
        let better =
            |own: &&WindowedSchedule| own.time <= limit && whole.is_none_or(|whole| own.error < whole.error);
        let fixed = FixedSteps::registered()?;
        Ok(plans.windowed.iter().rev().find(better).map(|own| fixed.windowed(own)).transpose()?)
    }

    /// The schedules planned for such a run; the outer error is for a profile that cannot be read.
    fn plans(&self, model: &ModelMeta, run: &Trajectory) -> Result<Result<ScheduleSet>> {
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

/// Chooses a planned schedule.
fn scheduled(goal: Goal, plans: &ScheduleSet) -> Result<Chosen> {
    let empty = || bad_input_with("the profile has an empty list of schedules", "magcache calibrate");
    let all = &plans.schedules;
    let qualities = plans.qualities();
    let of = |short: Option<String>, (found, quality): (&PlannedSchedule, &Quality)| -> Result<Chosen> {
        Ok(Chosen {
            tables: vec![FixedSteps::registered()?.planned(found)?],
            computed: found.computed as f64,
            steps: plans.steps,
            speedup: plans.speedup(found.computed),
            quality: Some(*quality),
            short,
            planned_by: None,
            searched: found.searched.is_some(),
        })
    };
    let with_windows = |own: &WindowedSchedule, beside: (&PlannedSchedule, &Quality)| -> Result<Chosen> {
        Ok(Chosen {
            tables: FixedSteps::registered()?.windowed(own)?,
            computed: own.time * plans.steps as f64,
            steps: plans.steps,
            speedup: 1.0 / own.time,
            quality: Some(expected(own, beside)),
            short: None,
            planned_by: None,
            searched: false,
        })
    };
    let known = || all.iter().zip(&qualities);
    let (Some(fewest), Some(most)) = (all.first(), all.last()) else {
        return Err(empty());
    };
    match goal {
        Goal::Budget(steps) => match known().find(|(job, _)| job.computed == steps) {
            Some(found) => of(None, found),
            None => {
                let message = format!(
                    "no schedule computes {steps} of {} steps, there are those of {} to {}",
                    plans.steps, fewest.computed, most.computed
                );
                let hint = format!("--budget {}", steps.clamp(fewest.computed, most.computed));
                Err(bad_input_with(message, hint))
            }
        },
        Goal::Speedup(times) => {
            let speedup = |job: &PlannedSchedule| plans.speedup(job.computed);
            let off = |job: &PlannedSchedule| (speedup(job) / times).ln().abs();
            let Some(found) = known().min_by(|(a, _), (b, _)| off(a).total_cmp(&off(b))) else {
                return Err(empty());
            };
            let near = |own: &&WindowedSchedule| {
                let times_faster = 1.0 / own.time;
                times_faster >= times.min(speedup(found.0)) * (1.0 - SAME)
                    && times_faster <= times * (1.0 + NEAR)
            };
            // They are in the order of their time, and each is better than the ones before it.
            if let Some(own) = plans.windowed.iter().rev().find(near).filter(|own| own.error < found.0.error)
            {
                return with_windows(own, found);
            }
            of(missed(times, speedup(found.0), all.iter().map(speedup)), found)
        }
        Goal::Psnr(db) => {
            let whole = known().find(|(_, quality)| quality.psnr >= db);
            let beside = whole.unwrap_or((most, qualities.last().ok_or_else(empty)?));
            let faster = |own: &&WindowedSchedule| {
                whole.is_none_or(|(whole, _)| 1.0 / own.time > plans.speedup(whole.computed))
            };
            let reaches = |own: &&WindowedSchedule| expected(own, beside).psnr >= db;
            match (plans.windowed.iter().filter(faster).find(reaches), whole) {
                (Some(own), _) => with_windows(own, beside),
                (None, Some(whole)) => of(None, whole),
                (None, None) => {
                    let best = qualities.iter().map(|quality| quality.psnr).fold(f64::NEG_INFINITY, f64::max);
                    let message =
                        format!("{db} dB cannot be had with a skipped step, the best is {best:.1} dB");
                    let hint = format!("--psnr {:.0}, or a dense run without a target", best.floor());
                    Err(bad_input_with(message, hint))
                }
            }
        }
    }
}

/// The quality of a schedule with windows: the measured one, or what is predicted, as far off as it is for
/// the schedule `beside` it.
fn expected(own: &WindowedSchedule, (beside, quality): (&PlannedSchedule, &Quality)) -> Quality {
    match own.psnr {
        Some(psnr) => Quality { psnr, within: own.psnr_error, grounds: Grounds::Measured },
        None => {
            let psnr = own.predicted_psnr() + (quality.psnr - beside.predicted_psnr());
            let grounds = match quality.grounds {
                Grounds::Predicted => Grounds::Predicted,
                Grounds::Measured | Grounds::Calibrated => Grounds::Calibrated,
            };
            Quality { psnr, within: quality.within, grounds }
        }
    }
}

/// Relative distance of speed-ups that are the same but for rounding.
const SAME: f64 = 1e-6;

/// A speed-up counts as met if it is within this relative distance of the requested one.
const NEAR: f64 = 0.05;

/// The one target that was given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Budget(usize),
    Speedup(f64),
    Psnr(f64),
}

/// What the planner chose.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The `[[cache]]` tables that achieve it.
    pub(crate) tables: Vec<toml::Table>,
    /// Steps computed; a fraction where branches differ.
    pub(super) computed: f64,
    pub(super) steps: usize,
    /// Speed-up of the network from the profile's times, or the ceiling if it has none.
    pub(super) speedup: f64,
    /// Quality against a dense run, if the profile records it.
    pub(super) quality: Option<Quality>,
    /// Why the target is not met exactly.
    pub(crate) short: Option<String>,
    /// The profile that planned it; `None` for a strategy's threshold.
    pub(crate) planned_by: Option<String>,
    /// Whether it was found by running schedules.
    pub(crate) searched: bool,
}

impl Chosen {
    /// The choice in one line.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "planned: {} of {} steps computed, network {:.2}x as fast",
            (self.computed * 10.0).round() / 10.0,
            self.steps,
            self.speedup
        );
        if let Some(Quality { psnr, within, grounds }) = self.quality {
            let within = within.map_or(String::new(), |within| format!(" ±{within:.1}"));
            let how = match grounds {
                Grounds::Measured => "measured",
                Grounds::Calibrated => "from schedules that were measured",
                Grounds::Predicted => "predicted",
            };
            text += &format!(", {psnr:.1} dB{within} against a dense run ({how})");
        }
        text
    }

    /// The choice for `--json`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "computed": self.computed,
            "steps": self.steps,
            "speedup": self.speedup,
            "psnr": self.quality.map(|quality| quality.psnr),
            "psnr_within": self.quality.and_then(|quality| quality.within),
            "psnr_grounds": self.quality.map(|quality| quality.grounds),
            "short": self.short,
        })
    }
}

/// The nearest reachable speed-ups around one that cannot be reached.
pub(super) fn missed(asked: f64, got: f64, all: impl Iterator<Item = f64>) -> Option<String> {
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
