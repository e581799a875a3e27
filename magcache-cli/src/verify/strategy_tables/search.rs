//! Moves, climbs, stops and plans of searches.

use std::{collections::BTreeMap, convert::Infallible};

use anyhow::{Context, Result};
use magcache_core::planner::{
    Continuation, Objective, Planner, ReuseErrors, Skipped, StepErrors, StopRule, climb, neighbours,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Differences, Tally, inputs, rows};
use crate::verify::report::CaseReport;

#[derive(Deserialize)]
struct Moves {
    mask: String,
    any_swap: usize,
    window_3: Vec<String>,
}

#[derive(Deserialize)]
struct Climb {
    score_seed: u64,
    budget: usize,
    start: String,
    window: Option<usize>,
    end: String,
    moves: usize,
    evaluations: usize,
}

#[derive(Deserialize)]
struct Stop {
    best_scores_after_unit: Vec<Vec<f64>>,
    /// Counted from 0.
    stopped_after_unit: Option<usize>,
}

#[derive(Deserialize)]
struct Plan {
    cost_seed: u64,
    steps: usize,
    budget: usize,
    objective: String,
    mask: String,
    value: f64,
}

pub(super) fn check(json: &Value, report: &mut CaseReport) -> Result<()> {
    let mut tally = Tally::default();
    for (i, Moves { mask, any_swap, window_3 }) in rows(json, "moves")?.into_iter().enumerate() {
        let near = |window| neighbours(&skipped(&mask), mask.len(), window, &[0]);
        let near_by: Vec<String> = near(3).iter().map(|skip| digits(skip, mask.len())).collect();
        tally.row(i, "any swap", &near(mask.len()).len().to_string(), &any_swap.to_string());
        tally.row(i, "window 3", &near_by.join(" "), &window_3.join(" "));
    }
    tally.tell(report, "moves");

    let mut tally = Tally::default();
    for (i, row) in rows::<Climb>(json, "climbs")?.into_iter().enumerate() {
        let scores = scores(row.score_seed, row.start.len(), row.budget);
        let (end, moves, scored) = climbed(&scores, &row.start, row.window);
        let want = format!("{} {} {}", row.end, row.moves, row.evaluations);
        tally.row(i, "climb", &format!("{end} {moves} {scored}"), &want);
    }
    tally.tell(report, "climbs");

    let mut tally = Tally::default();
    for (i, row) in rows::<Stop>(json, "stops")?.into_iter().enumerate() {
        let mut rule = StopRule::default();
        let stopped = row.best_scores_after_unit.iter().position(|best| rule.unit(best));
        let word = |unit: Option<usize>| unit.map_or("goes on".to_owned(), |unit| unit.to_string());
        tally.row(i, "stop rule", &word(stopped), &word(row.stopped_after_unit));
    }
    tally.tell(report, "stops");

    let (mut tally, mut values) = (Tally::default(), Differences::default());
    for (i, row) in rows::<Plan>(json, "plans")?.into_iter().enumerate() {
        let planner = Planner::new(&[costs(row.cost_seed, row.steps)])?;
        let objective: Objective = row.objective.parse().map_err(anyhow::Error::msg)?;
        let plans = planner.schedules(Continuation::Residual, objective);
        let own = plans.into_iter().find(|plan| plan.computed == row.budget).context("no such plan")?;
        tally.row(i, &row.objective, &digits(&own.skip, row.steps), &row.mask);
        values.row(&[if objective == Objective::Sum { own.sum } else { own.worst }], &[row.value]);
    }
    tally.tell(report, "plans");
    values.tell(report, "plans", "value");
    Ok(())
}

/// The skipped steps of a mask.
pub(in crate::verify) fn skipped(mask: &str) -> Skipped {
    mask.bytes().enumerate().filter(|(_, digit)| *digit == b'1').map(|(step, _)| step).collect()
}

/// The mask of a schedule: 1 is a skipped step.
pub(in crate::verify) fn digits(skip: &[usize], steps: usize) -> String {
    (0..steps).map(|step| if skip.contains(&step) { '1' } else { '0' }).collect()
}

/// A climb over scored masks: where it ends, its moves and how many masks it asks for.
pub(in crate::verify) fn climbed(
    scores: &BTreeMap<String, f64>,
    start: &str,
    window: Option<usize>,
) -> (String, usize, usize) {
    let steps = start.len();
    let near = |skip: &[usize]| neighbours(skip, steps, window.unwrap_or(steps), &[0]);
    let score = |all: &[Skipped]| {
        Ok::<_, Infallible>(all.iter().map(|skip| scores.get(&digits(skip, steps)).copied()).collect())
    };
    let Ok(found) = climb(skipped(start), &near, score);
    let end = found.way.last().map(|skip| digits(skip, steps)).unwrap_or_default();
    (end, found.way.len() - 1, found.scored)
}

/// A rugged score of every mask of `n` steps with `budget` of them computed, step 0 among them.
fn scores(seed: u64, n: usize, budget: usize) -> BTreeMap<String, f64> {
    let weights: Vec<f64> = inputs::noise(seed, n).into_iter().map(|w| 1.0 + w).collect();
    let masks: Vec<String> = (0..1u32 << n)
        .map(|bits| (0..n).map(|i| if bits >> (n - 1 - i) & 1 == 1 { '1' } else { '0' }).collect::<String>())
        .filter(|mask| mask.starts_with('0') && mask.matches('0').count() == budget)
        .collect();
    let noise = inputs::noise(seed + 1, masks.len());
    let score = |(mask, noise): (String, f64)| {
        let (mut last, mut total) = (0, 0.0);
        for (step, digit) in mask.bytes().enumerate() {
            if digit == b'0' {
                last = step;
            } else {
                total += ((step - last) as f64).powi(2) * weights[step];
            }
        }
        (mask, -total + 0.2 * noise)
    };
    masks.into_iter().zip(noise).map(score).collect()
}

/// Errors of `(1 + noise) (t - s)^0.7` at step t with the residual of step s.
fn costs(seed: u64, n: usize) -> ReuseErrors {
    let noise = inputs::noise(seed, n * n);
    let step = |t: usize| {
        let error = |s: usize| (1.0 + noise[t * n + s]) * ((t - s) as f64).powf(0.7);
        let errors: Vec<f64> = (0..t).map(error).collect();
        let products = errors.iter().flat_map(|a| errors.iter().map(move |b| a * b)).collect();
        StepErrors { sources: (0..t).collect(), products, windows: Vec::new() }
    };
    ReuseErrors { steps: (0..n).map(step).collect(), ..ReuseErrors::default() }
}
