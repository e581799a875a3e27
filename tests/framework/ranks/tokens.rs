//! Tokens and heads in shares.

use std::ops::RangeInclusive;

use super::{
    PATIENCE, assert_as_alone, each_rank,
    models::{FLUX, FLUX2, Model, PAIR, PICTURE, SPEECH, TOKENS, WAN},
    run, ulysses,
};
use crate::prelude::*;

/// What is added to the table of a strategy.
const WITH: [&str; 4] = [
    "",
    "forecast = { type = \"taylor\", order = 1 }",
    "forecast = { type = \"taylor\", order = 2, of = \"output\", dialect = \"diffusers\" }",
    "forecast = { type = \"output\" }",
];

/// Every strategy's own example, with every forecast.
fn examples() -> Vec<String> {
    let with = |info: &StrategyInfo| WITH.map(|with| format!("[[cache]]\n{}\n{with}\n", info.example));
    strategies().into_iter().flat_map(with).collect()
}

/// Whatever else there is to be combined.
const MORE: [&str; 14] = [
    // Both signals, other metrics, every third token, a mean.
    "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nsignal = \"timestep-embedding\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"fbcache\"\nmetric = \"hidden_rel_l2\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"fbcache\"\nmetric = \"all_residual_rel_l1\"\nthreshold = 0.4\ndownsample = 3",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\ndownsample = 7\nema = 0.5",
    // A range in the middle, nested caches, a cache that leads the other branch.
    "[[cache]]\nstrategy = \"fbcache\"\nat = \"1..5\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"seacache\"\ndialect = \"filtered\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\nforecast = { type = \"dicache\" }",
    "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.3\nwarmup = 2\n[[cache]]\nstrategy = \"fbcache\"\nat = \"1..4\"\nthreshold = 0.2",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nbranches = \"cond-decides\"\nmax_skips = 1",
    // Half precision, and less room than all slots need.
    "[residuals]\ndtype = \"bf16\"\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4",
    "[residuals]\ndtype = \"f16\"\n[[cache]]\nstrategy = \"schedule\"\nskip = [2, 4, 5, 7]\nforecast = { type = \"taylor\" }",
    "[residuals]\nbudget = \"30000\"\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4",
    // Audits that find out, and that act.
    "[audit]\nfraction = 0.5\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4",
    "[audit]\nfraction = 0.5\ndrift_budget = 0.01\non_drift = \"tighten\"\n[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 5, 6, 7]",
];

/// Modules of blocks, which Wan and FLUX have by different names.
const MODULES: [&str; 3] = [
    "[[cache]]\nstrategy = \"schedule\"\nat = \"attn1\"\nskip = [2, 4, 5, 7]\nforecast = { type = \"taylor\" }\n[[cache]]\nstrategy = \"schedule\"\nat = \"attn2\"\nskip = [3, 4]",
    "[[cache]]\nstrategy = \"schedule\"\nat = \"attn\"\nskip = [2, 4, 5, 7]",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.2\n[[cache]]\nstrategy = \"schedule\"\nat = \"attn1\"\nskip = [2, 3]",
];

/// The plans that fit a model, whose random network may need larger thresholds.
fn plans(model: &Model, times: f64) -> Vec<String> {
    let more = MORE.into_iter().chain(MODULES).map(str::to_owned);
    let all = examples().into_iter().chain(more).map(|plan| with_thresholds(&plan, times));
    all.filter(|plan| model.takes(plan)).collect()
}

/// A plan with each threshold so many times as large.
fn with_thresholds(plan: &str, times: f64) -> String {
    let line = |line: &str| {
        let Some((before, rest)) = line.split_once("threshold = ") else { return line.to_owned() };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number =
            rest[..end].parse::<f64>().map_or(rest[..end].to_owned(), |n| format!("{:?}", times * n));
        format!("{before}threshold = {number}{}", &rest[end..])
    };
    plan.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every plan of a model on these numbers of ranks, with thresholds that make most of them skip.
fn ranks_are_one(model: &Model, ranks: RangeInclusive<usize>, times: f64) {
    let (plans, mut skipped) = (plans(model, times), 0);
    assert!(plans.len() > 30, "only {} plans fit {}", plans.len(), model.name);
    for plan in std::iter::once(&String::new()).chain(&plans) {
        let alone = run(model, plan, None).unwrap();
        skipped += usize::from(alone.skips() > 0);
        for n in ranks.clone() {
            assert_as_alone(model, plan, &alone, ulysses(n));
        }
    }
    assert!(2 * skipped > plans.len(), "{skipped} of {} plans of {} skip anything", plans.len(), model.name);
}

#[test]
fn text_to_video() {
    ranks_are_one(&WAN, 1..=4, 1.0);
}

#[test]
fn a_pair_of_experts() {
    ranks_are_one(&PAIR, 2..=3, 1.0);
}

#[test]
fn a_given_picture() {
    ranks_are_one(&PICTURE, 2..=3, 1.0);
}

#[test]
fn a_timestep_for_every_token_and_two_samples() {
    ranks_are_one(&TOKENS, 1..=4, 1.0);
}

#[test]
fn dual_and_joint_blocks() {
    ranks_are_one(&FLUX, 1..=3, 1.0);
}

#[test]
fn the_second_generation_of_flux() {
    ranks_are_one(&FLUX2, 1..=4, 10.0);
}

#[test]
fn speech_to_video() {
    // Both numbers of ranks cut a frame in two; every run decodes and encodes a clip, so only some plans run.
    let (plans, mut skipped) = (["", MORE[1], MORE[8], MORE[11], MODULES[0]], 0);
    for plan in plans {
        let alone = run(&SPEECH, plan, None).unwrap();
        skipped += usize::from(alone.skips() > 0);
        (2..=3).for_each(|n| assert_as_alone(&SPEECH, plan, &alone, ulysses(n)));
    }
    assert!(2 * skipped > plans.len(), "{skipped} of {} plans skip anything", plans.len());
}

#[test]
fn more_ranks_than_heads_are_refused() {
    let errors =
        each_rank(ulysses(5), PATIENCE, |ranks| run(&FLUX, "", Some(ranks)).unwrap_err().to_string());
    for error in errors {
        assert!(error.contains("4 attention heads cannot be divided among 5 ranks"), "{error}");
    }
    assert!(run(&WAN, "", None).is_ok());
}
