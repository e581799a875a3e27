use super::*;

fn line(step: usize, branch: &str, decision: &str) -> Line {
    Line {
        request: "seed-1".into(),
        clip: None,
        step,
        of: 4,
        timestep: 900.0,
        sigma: 0.9,
        expert: 0,
        branch: branch.into(),
        evaluation: 0,
        strategy: Some("magcache".into()),
        around: Some(Around::Blocks),
        range: [0, 4],
        module: None,
        forecast: None,
        experts: None,
        metric: Some(0.5),
        accumulated: None,
        audit: None,
        decision: decision.into(),
        reason: "warmup".into(),
        microseconds: Some(1),
        cache_bytes: 0,
    }
}

#[test]
fn equal_traces_are_the_same_whatever_their_times() {
    let a = [line(0, "cond", "compute"), line(1, "cond", "reuse")];
    let mut b = a.clone();
    b.reverse();
    (b[0].microseconds, b[1].cache_bytes) = (None, 9);
    let diff = Diff::of(&a, &b);
    assert!(diff.same());
    assert_eq!(diff.to_string(), "2 lines in a, 2 in b\nthe decisions are the same\n");
}

#[test]
fn a_replay_by_another_strategy_has_the_same_decisions() {
    let a = [line(0, "cond", "compute"), line(1, "cond", "reuse")];
    let replay = |l: &Line| Line {
        strategy: Some("schedule".into()),
        reason: "scheduled".into(),
        metric: None,
        ..l.clone()
    };
    let diff = Diff::of(&a, &a.each_ref().map(replay));
    assert!(diff.same() && diff.metric.is_none());
    assert_eq!((diff.strategies.len(), diff.reasons.len()), (2, 2));
}

#[test]
fn every_kind_of_difference_is_found() {
    let a = [line(0, "cond", "compute"), line(1, "cond", "reuse"), line(2, "cond", "reuse")];
    let mut b = a.clone();
    b[0].sigma = 0.8;
    b[0].metric = Some(0.75);
    b[1].decision = "compute".into();
    b[1].metric = Some(0.625);
    b[2].branch = "uncond".into();
    let diff = Diff::of(&a, &b);
    assert!(!diff.same());
    let told = diff.to_string();
    for part in [
        "1 pass decided differently\n  seed-1 step 1 cond blocks 0..4: reuse in a, compute in b",
        "1 pass only in b\n  seed-1 step 2 uncond blocks 0..4",
        "1 pass only in a\n  seed-1 step 2 cond blocks 0..4",
        "1 pass under other settings\n  seed-1 step 0 cond blocks 0..4: step of 4, timestep 900, sigma 0.9, expert 0 in a",
        "the metric differs by at most 2.500e-1: seed-1 step 0 cond blocks 0..4: 0.5 in a, 0.75 in b",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert_eq!(diff.json().unwrap()["decisions"][0]["pass"]["step"], 1);
    assert_eq!(diff.json().unwrap()["only_in_b"][0]["branch"], "uncond");
}

#[test]
fn hooks_around_the_same_blocks_are_compared_in_their_order() {
    let a = [line(0, "cond", "compute"), line(0, "cond", "reuse")];
    assert!(Diff::of(&a, &a.clone()).same());
    let mut turned = a.clone();
    turned.reverse();
    assert_eq!(Diff::of(&a, &turned).decisions.len(), 2);
    assert_eq!(Diff::of(&a, &a[..1]).only_in_a.len(), 1);
}

#[test]
fn caches_around_other_blocks_are_compared_by_step_and_branch() {
    let all = |reused: &[usize]| -> Vec<Line> {
        let decision = |step: &usize| if reused.contains(step) { "reuse" } else { "compute" };
        (0..4).map(|step| line(step, "cond", decision(&step))).collect()
    };
    let inside = |mut line: Line| {
        line.range = [1, 4];
        line
    };
    let (a, b): (Vec<Line>, Vec<Line>) = (all(&[1, 2]), all(&[1, 3]).into_iter().map(inside).collect());
    let diff = Diff::of(&a, &b);
    assert!(diff.only_in_a.is_empty() && diff.only_in_b.is_empty(), "{diff}");
    let told = diff.to_string();
    for part in [
        "4 lines in a, 4 in b\ntheir caches surround other blocks: compared by step and branch\n",
        "2 passes decided differently\n  seed-1 step 2 cond: reuse in a, compute in b\n",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert_eq!(diff.json().unwrap()["decisions"][1]["pass"]["range"], Value::Null);
    // If the inner one of two hooks skips, something was skipped in the pass.
    let nested: Vec<Line> = all(&[]).into_iter().chain(all(&[1, 2]).into_iter().map(inside)).collect();
    assert!(Diff::of(&a, &nested).same());
    assert!(Diff::of(&b, &b.clone()).json().unwrap()["compared_by"] == "hook");
}

#[test]
fn many_differences_are_counted() {
    let a: Vec<Line> = (0..12).map(|step| line(step, "cond", "reuse")).collect();
    let told = Diff::of(&a, &[]).to_string();
    assert!(
        told.contains("12 passes only in a") && told.contains("  and 2 more (all with --json)"),
        "{told}"
    );
}
