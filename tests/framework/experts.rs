//! Two networks in one run: whatever the schedule, no strategy reads the other expert's slots or skips the
//! first step of a phase.

use std::{fs, path::Path};

use magcache_models::sampler::{SamplerKind, Schedule, SchedulerConfig};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::prelude::*;

/// Checks that every expert's passes are those of a session in which no other expert ran, and begin with a
/// computed step. Returns how many passes skipped something.
fn check(info: &StrategyInfo, toy: &Toy, steps: &[Step], branches: [Branch; 2]) -> usize {
    let passes = |only: Option<Expert>| -> Vec<Ran> {
        let mut session = example(info, toy, ANY);
        let own = steps.iter().filter(|step| only.is_none_or(|only| only == step.expert));
        let all = own.flat_map(|step| branches.map(|branch| (step, branch)));
        all.map(|(step, branch)| run_pass(toy, Some(&mut session), step, branch, 1).unwrap()).collect()
    };
    let together = passes(None);
    let experts: BTreeSet<Expert> = steps.iter().map(|step| step.expert).collect();
    for expert in experts {
        let mine: Vec<Ran> = together.iter().filter(|ran| ran.step.expert == expert).cloned().collect();
        assert_same(&passes(Some(expert)), &mine, &format!("{} beside another expert", info.name));
        for ran in mine.iter().filter(|ran| ran.step.index == mine[0].step.index) {
            let place = format!("{}: {expert:?} of {:?}", info.name, ran.step);
            assert!(ran.is_whole(toy.blocks()), "{place}: its first step skips: {:?}", ran.records);
        }
    }
    together.iter().filter(|ran| ran.records.iter().any(|r| r.reused)).count()
}

/// A row of the recorded table: for each number of steps, how many of them lie above the boundary.
#[derive(Deserialize)]
struct Recorded {
    flow_shift: f64,
    boundary_ratio: f64,
    steps: Vec<usize>,
    high_noise_steps: BTreeMap<String, Vec<usize>>,
}

fn recorded() -> Vec<Recorded> {
    let path = "fixtures/golden/schedulers/wan22_boundary/boundary.json";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let mut table: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(table["rows"].take()).unwrap()
}

#[test]
fn no_expert_meets_the_other_at_any_recorded_shift_and_boundary() {
    // Only the position of the phases matters, and several shifts share one.
    let mut splits = BTreeSet::new();
    for Recorded { flow_shift: shift, boundary_ratio: boundary, steps: counts, high_noise_steps } in
        recorded()
    {
        let table = &high_noise_steps["diffusers_unipc"];
        for steps in 2..=60 {
            let schedule = Schedule::new(&SchedulerConfig::new(SamplerKind::UniPc, shift), steps).unwrap();
            let found = schedule.experts(Some(boundary)).unwrap();
            let high = found.iter().find(|p| p.expert == Expert(0)).map_or(0, |p| p.steps.len());
            if let Some(row) = counts.iter().position(|n| *n == steps) {
                assert_eq!(high, table[row], "shift {shift}, boundary {boundary}, {steps} steps");
            }
            splits.insert((steps, high));
        }
    }
    assert!(splits.len() > 200);
    let every_split = |info: &StrategyInfo| {
        let check = |(steps, high): &(usize, usize)| {
            let run = guided(*steps).with_phases(phases(&[*high, steps - high]));
            check(info, &Toy::image(4), &run.steps().collect::<Vec<_>>(), BOTH)
        };
        let skipped: usize = splits.iter().map(check).sum();
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
        branches in prop::sample::select(vec![BOTH, [Branch::Uncond, Branch::Cond]]),
        which in any::<prop::sample::Index>(),
    ) {
        let steps: usize = lengths.iter().sum();
        prop_assume!(steps > 0);
        let mut sigmas: Vec<f64> = sigmas.into_iter().take(steps).collect();
        sigmas.sort_by(|a, b| b.total_cmp(a));
        let timesteps = sigmas.iter().map(|s| 1000.0 * s).collect();
        let plain = guided(steps).with_phases(phases(&lengths));
        let run = Trajectory { timesteps, sigmas: sigmas.into_iter().chain([0.0]).collect(), ..plain };
        let steps: Vec<Step> = run.steps().collect();
        check(which.get::<&StrategyInfo>(&strategies()), &Toy::image(5), &steps, branches);
    }

    /// However two experts alternate.
    #[test]
    fn experts_never_read_each_others_slots(
        owners in prop::collection::vec(0u8..2, 12),
        branches in prop::sample::select(vec![BOTH, [Branch::Uncond, Branch::Cond]]),
        which in any::<prop::sample::Index>(),
    ) {
        let first = |owner| owners.iter().position(|o| *o == owner).unwrap_or(0);
        let step = |(index, owner): (usize, &u8)| {
            let (expert, phase) = (Expert(*owner), first(*owner)..12);
            Step { expert, phase, ..guided(12).step(index) }
        };
        let steps: Vec<Step> = owners.iter().enumerate().map(step).collect();
        check(which.get::<&StrategyInfo>(&strategies()), &dual(2, 3), &steps, branches);
    }
}
