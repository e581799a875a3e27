//! Guidance branches on ranks of their own.

use magcache_models::ranks::Layout;

use super::{
    PATIENCE, assert_as_alone, each_rank,
    models::{FLUX2, Model, PAIR, SPEECH, TOKENS, WAN},
    run,
};

const CFG: Layout = Layout { cfg: 2, ulysses: 1 };
const BOTH_WAYS: Layout = Layout { cfg: 2, ulysses: 2 };

/// Caches of every kind: of each branch, of one that the other follows, of modules, around the forward, with
/// audits that act on both.
const PLANS: [&str; 9] = [
    "",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nbranches = \"cond-decides\"",
    "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nsignal = \"modulated-input\"\nthreshold = 0.4\nforecast = { type = \"taylor\" }",
    "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.5",
    "[[cache]]\nstrategy = \"schedule\"\nskip = { cond = [2, 5], uncond = [2, 3, 6, 7] }\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nbranches = \"cond-decides\"",
    "[[cache]]\nstrategy = \"schedule\"\nat = \"attn1\"\nskip = [2, 4, 5, 7]",
    "[audit]\nfraction = 0.5\ndrift_budget = 0.01\non_drift = \"tighten\"\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nmax_skips = 6\nbranches = \"cond-decides\"",
    "[residuals]\ndtype = \"bf16\"\n[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.3\nwarmup = 2",
];

/// `threshold` stands in for the digit before the point of all thresholds.
fn branches_are_one(model: &Model, threshold: u8) {
    for plan in PLANS.into_iter().filter(|plan| model.takes(plan)) {
        let plan = &plan.replace("threshold = 0.", &format!("threshold = {threshold}."));
        let alone = run(model, plan, None).unwrap();
        assert!(plan.is_empty() || alone.skips() > 0, "{}: nothing is skipped by\n{plan}", model.name);
        for layout in [CFG, BOTH_WAYS] {
            assert_as_alone(model, plan, &alone, layout);
        }
    }
}

#[test]
fn branches_beside_each_other_are_branches_in_turns() {
    branches_are_one(&WAN, 0);
    branches_are_one(&TOKENS, 0);
    // Its random network changes more from step to step.
    branches_are_one(&FLUX2, 4);
}

#[test]
fn clips_of_speech_follow_each_other_on_ranks_of_their_own() {
    branches_are_one(&SPEECH, 0);
}

#[test]
fn an_expert_with_its_own_guidance_and_slots() {
    branches_are_one(&PAIR, 0);
}

#[test]
fn a_cache_that_needs_both_branches_is_refused_by_name_and_so_is_a_budget_of_both() {
    let refused = |plan: &str| {
        let all = each_rank(CFG, PATIENCE, |ranks| run(&WAN, plan, Some(ranks)).unwrap_err().to_string());
        assert_eq!(all[0], all[1]);
        all[0].clone()
    };
    let rebuilt = refused("[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 3");
    assert_eq!(rebuilt, "cache 1 rebuilds one branch from the other, cfg=2 runs them apart");
    let budget = refused("[residuals]\nbudget = \"1 MiB\"\n[[cache]]\nstrategy = \"fbcache\"");
    assert!(budget.contains("1048576 bytes is that of both branches"), "{budget}");
}
