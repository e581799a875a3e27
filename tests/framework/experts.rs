//! Two networks in one run: whatever the schedule, no strategy reads the other expert's slots or skips the
//! first step of a phase.

use std::path::PathBuf;

use magcache_models::sampler::{SamplerKind, Schedule, SchedulerConfig};
use proptest::prelude::*;
use serde_json::Value;

use crate::prelude::*;

fn passes(toy: &Toy, session: &mut Session, run: &Trajectory, only: Option<Expert>) -> Vec<Ran> {
    let steps = run.steps().filter(|step| only.is_none_or(|only| only == step.expert));
    let all = steps.flat_map(|step| run.branches.iter().map(move |branch| (step.clone(), *branch)));
    all.map(|(step, branch)| run_pass(toy, Some(session), &step, branch, 1).unwrap()).collect()
}

/// Checks that every expert's passes are those of a session in which the other expert never ran, and begin
/// with a computed step. Returns how many passes skipped something.
fn check(info: &StrategyInfo, toy: &Toy, run: &Trajectory) -> usize {
    let together = passes(toy, &mut example(info, toy, ANY), run, None);
    for phase in &run.phases {
        let alone = passes(toy, &mut example(info, toy, ANY), run, Some(phase.expert));
        let mine = together.iter().filter(|ran| ran.step.expert == phase.expert);
        for (a, b) in alone.iter().zip(mine) {
            let at = format!("{}: phases {:?}, step {} {}", info.name, run.phases, a.step.index, a.branch);
            assert_eq!((&a.step, a.branch), (&b.step, b.branch), "{at}");
            assert!(same_bits(&a.output, &b.output), "{at}: the other expert's run changes it");
            let first = b.step.index == phase.steps.start;
            assert!(
                !first || b.is_whole(toy.blocks()),
                "{at}: the first step of a phase skips: {:?}",
                b.records
            );
        }
    }
    together.iter().filter(|ran| ran.records.iter().any(|r| r.reused)).count()
}

/// A row of the recorded table.
struct Recorded {
    flow_shift: f64,
    boundary: f64,
    /// Numbers of steps, each with how many of them lie above the boundary.
    high: Vec<(usize, usize)>,
}

fn recorded() -> Vec<Recorded> {
    let path = "fixtures/golden/schedulers/wan22_boundary/boundary.json";
    let text = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let numbers = |v: &Value| -> Vec<usize> {
        v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    };
    let row = |row: &Value| Recorded {
        flow_shift: row["flow_shift"].as_f64().unwrap(),
        boundary: row["boundary_ratio"].as_f64().unwrap(),
        high: numbers(&row["steps"])
            .into_iter()
            .zip(numbers(&row["high_noise_steps"]["diffusers_unipc"]))
            .collect(),
    };
    table["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn no_expert_meets_the_other_at_any_recorded_shift_and_boundary() {
    // Only the position of the phases matters, and several shifts share one.
    let mut splits = BTreeSet::new();
    for Recorded { flow_shift: shift, boundary, high: table } in recorded() {
        for steps in 2..=60 {
            let schedule = Schedule::new(&SchedulerConfig::new(SamplerKind::UniPc, shift), steps).unwrap();
            let found = schedule.experts(Some(boundary)).unwrap();
            let high = found.iter().find(|p| p.expert == Expert(0)).map_or(0, |p| p.steps.len());
            if let Some((_, expected)) = table.iter().find(|(n, _)| *n == steps) {
                assert_eq!(high, *expected, "shift {shift}, boundary {boundary}, {steps} steps");
            }
            splits.insert((steps, high));
        }
    }
    assert!(splits.len() > 200);
    let every_split = |info: &StrategyInfo| {
        let runs =
            splits.iter().map(|(steps, high)| guided(*steps).with_phases(phases(&[*high, steps - high])));
        let skipped: usize = runs.map(|run| check(info, &Toy::image(4), &run)).sum();
        assert!(skipped > 0, "{} never skips, so this shows nothing", info.name);
    };
    std::thread::scope(|scope| {
        for info in strategies() {
            scope.spawn(|| every_split(info));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_expert_meets_another_on_random_schedules(
        lengths in prop::collection::vec(0usize..14, 1..4),
        sigmas in prop::collection::vec(0.0..1.0f64, 40),
        uncond_first in any::<bool>(),
        which in any::<prop::sample::Index>(),
    ) {
        let steps: usize = lengths.iter().sum();
        prop_assume!(steps > 0);
        let mut sigmas: Vec<f64> = sigmas.into_iter().take(steps).collect();
        sigmas.sort_by(|a, b| b.total_cmp(a));
        let branches = if uncond_first { [Branch::Uncond, Branch::Cond] } else { BOTH };
        let plain = Trajectory::plain(steps, &branches).with_phases(phases(&lengths));
        let timesteps = sigmas.iter().map(|s| 1000.0 * s).collect();
        let run = Trajectory { timesteps, sigmas: sigmas.into_iter().chain([0.0]).collect(), ..plain };
        check(which.get::<&StrategyInfo>(&strategies()), &Toy::image(5), &run);
    }
}
