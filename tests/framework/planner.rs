//! The planner against all possible schedules, and a rehearsal against what the cache does.

use magcache_core::{
    calibrate::{Recording, Rehearsal},
    config::FixedSteps,
    planner::{
        Continuation, Objective, Planned, Planner, PlannerError, ReuseErrors, StepErrors, WINDOW, neighbours,
    },
    profile::{PlannedSchedule, Provenance, ScheduleSet},
};
use proptest::prelude::*;

use crate::prelude::*;

/// Inner products of error vectors `[source][axis]`.
fn step(sources: std::ops::Range<usize>, errors: &[[f64; 3]]) -> StepErrors {
    let own = || errors.iter().take(sources.len());
    let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let products = own().flat_map(|a| own().map(move |b| dot(a, b))).collect();
    StepErrors { sources: sources.collect(), products, windows: Vec::new() }
}

/// A run of `errors.len()` steps whose experts begin at 0 and at `second`, rehearsed up to `reach` steps
/// back.
fn rehearsed(
    errors: &[Vec<[f64; 3]>],
    second: usize,
    reach: usize,
    growth: Vec<(usize, f64)>,
) -> ReuseErrors {
    let of = |(i, errors): (usize, &Vec<[f64; 3]>)| {
        let start = if i < second { 0 } else { second };
        step(start.max(i.saturating_sub(reach))..i, errors)
    };
    let steps = errors.iter().enumerate().map(of).collect();
    ReuseErrors { steps, growth, pixels: 0.5, cost: 0.1, ..ReuseErrors::default() }
}

/// Every schedule that has a predicted error, computed from the definition and not by the search.
fn all(planner: &Planner, with: Continuation, steps: usize) -> Vec<Planned> {
    let chosen = |mask: u32| (0..steps).filter(|step| mask >> step & 1 == 1).collect::<Vec<_>>();
    (0..1u32 << steps).filter_map(|mask| planner.predict(with, &chosen(mask))).collect()
}

/// The error of each skipped step alone: what its skip adds to the sum.
fn sizes(planner: &Planner, with: Continuation, skip: &[usize]) -> Vec<f64> {
    let sum = |count: usize| {
        let first = skip.iter().take(count).copied().collect::<Vec<_>>();
        planner.predict(with, &first).expect("a part of a schedule").sum
    };
    (0..skip.len()).map(|i| sum(i + 1) - sum(i)).collect()
}

/// The sum of the squared errors of a schedule's steps.
fn powers(planner: &Planner, with: Continuation, skip: &[usize]) -> f64 {
    sizes(planner, with, skip).iter().map(|size| size.powi(2)).sum()
}

/// What a schedule of lines is chosen by: the squared errors of its gaps, in which each step counts twice as
/// much as the one before it.
fn gaps(planner: &Planner, skip: &[usize]) -> f64 {
    let sizes = sizes(planner, Continuation::Line, skip);
    let (mut sum, mut gap, mut weight) = (0.0, 0.0, 1.0);
    for (i, size) in sizes.iter().enumerate() {
        (gap, weight) = if i > 0 && skip[i] == skip[i - 1] + 1 {
            (gap + weight * 2.0 * size, weight * 2.0)
        } else {
            sum += f64::powi(gap, 2);
            (*size, 1.0)
        };
    }
    sum + f64::powi(gap, 2)
}

fn runs() -> impl Strategy<Value = Vec<ReuseErrors>> {
    let error = proptest::array::uniform3(-1.0..1.0f64);
    (4usize..8, 1usize..8, 1usize..8, 1usize..3).prop_flat_map(move |(steps, second, reach, runs)| {
        let step = proptest::collection::vec(error.clone(), steps);
        let growth = proptest::collection::vec(0.2..5.0f64, 2);
        let run = (proptest::collection::vec(step, steps), growth);
        proptest::collection::vec(run, runs).prop_map(move |runs| {
            let one = |(errors, growth): &(Vec<Vec<[f64; 3]>>, Vec<f64>)| {
                let growth = vec![(1, growth[0]), (steps - 1, growth[1])];
                rehearsed(errors, second, reach, growth)
            };
            runs.iter().map(one).collect()
        })
    })
}

proptest! {
    #[test]
    fn the_search_finds_the_best_of_all_schedules(runs in runs()) {
        let planner = Planner::new(&runs).unwrap();
        let steps = runs[0].steps.len();
        for with in [Continuation::Residual, Continuation::Line] {
            let all = all(&planner, with, steps);
            for objective in [Objective::Sum, Objective::Power(2.0), Objective::Minimax, Objective::Final] {
                let found = planner.schedules(with, objective);
                let counts: Vec<usize> = found.iter().map(|plan| plan.computed).collect();
                let mut possible: Vec<usize> = all.iter().map(|plan| plan.computed).collect();
                possible.sort_unstable();
                possible.dedup();
                prop_assert_eq!(&counts, &possible);
                for plan in found {
                    // The error stored with a schedule is the predicted one.
                    let own = planner.predict(with, &plan.skip).expect("a schedule that was found");
                    prop_assert_eq!(own.computed, plan.computed);
                    prop_assert!((own.error - plan.error).abs() < 1e-12 && (own.worst - plan.worst).abs() < 1e-12);
                    // Errors that are not known to cancel add up, but those of lines are orthogonal.
                    let whole = match with {
                        Continuation::Residual => plan.sum,
                        Continuation::Line => powers(&planner, with, &plan.skip).sqrt(),
                    };
                    prop_assert!(runs.len() > 1 || (plan.error - whole).abs() < 1e-9);
                    let rivals = || all.iter().filter(|other| other.computed == plan.computed);
                    let worst = rivals().map(|p| p.worst).fold(f64::INFINITY, f64::min);
                    let best = match objective {
                        Objective::Sum => rivals().map(|p| p.sum).fold(f64::INFINITY, f64::min),
                        Objective::Minimax => {
                            prop_assert!(plan.worst <= worst + 1e-12, "{} {worst}", plan.worst);
                            let equal = rivals().filter(|p| p.worst <= worst);
                            equal.map(|p| p.sum).fold(f64::INFINITY, f64::min)
                        }
                        // These are of all skipped steps together; what they minimise is asked below.
                        Objective::Power(_) | Objective::Final => plan.sum,
                    };
                    prop_assert!((plan.sum - best).abs() < 1e-12, "{objective:?} {with}: {} {best}", plan.sum);
                    if objective == Objective::Final && with == Continuation::Residual {
                        let near = neighbours(&plan.skip, steps, WINDOW, &[]);
                        let mut near = near.iter().filter_map(|skip| planner.predict(with, skip));
                        prop_assert!(near.all(|other| other.error >= plan.error - 1e-12));
                    }
                    if objective == Objective::Final && with == Continuation::Line {
                        let least = rivals().map(|p| gaps(&planner, &p.skip)).fold(f64::INFINITY, f64::min);
                        prop_assert!((gaps(&planner, &plan.skip) - least).abs() < 1e-9);
                    }
                    if objective == Objective::Power(2.0) {
                        let power = |skip: &[usize]| powers(&planner, with, skip);
                        let least = rivals().map(|p| power(&p.skip)).fold(f64::INFINITY, f64::min);
                        prop_assert!((power(&plan.skip) - least).abs() < 1e-9);
                    }
                }
            }
        }
    }
}

#[test]
fn a_thousand_steps_are_planned() {
    // Rehearsed eight steps back, the default; no two schedules have the same error.
    let error = |step: usize, back: usize| [(0.3 + (step as f64 * 0.7).sin().abs()) * back as f64, 0.1, 0.0];
    let errors: Vec<Vec<[f64; 3]>> =
        (0..1000).map(|step| (1..=8).rev().map(|back| error(step, back)).collect()).collect();
    let planner = Planner::new(&[rehearsed(&errors, 400, 8, vec![(1, 2.0), (999, 1.0)])]).unwrap();
    for objective in [Objective::Sum, Objective::Minimax] {
        let found = planner.schedules(Continuation::Line, objective);
        assert!(found.len() > 700 && found.last().unwrap().computed == 1000, "{}", found.len());
        for plan in found.iter().step_by(97) {
            let own = planner.predict(Continuation::Line, &plan.skip).unwrap();
            assert!((own.sum - plan.sum).abs() < 1e-9 * plan.sum.max(1.0), "{}", plan.computed);
        }
        assert!(found.is_sorted_by(|a, b| a.sum >= b.sum || objective == Objective::Minimax));
    }
}

#[test]
fn a_cost_is_the_error_grown_to_the_end_of_the_run() {
    // At step 2 the residual of step 1 is off by (3, 4, 0) and that of step 0 by (0, 5, 0); the line through
    // both, continued by one step, is off by 2·(3, 4, 0) − (0, 5, 0) = (6, 3, 0).
    let errors = vec![vec![], vec![[1.0, 0.0, 0.0]], vec![[0.0, 5.0, 0.0], [3.0, 4.0, 0.0]]];
    let run = rehearsed(&errors, 0, 8, vec![(1, 2.0), (2, 8.0)]);
    let planner = Planner::new(std::slice::from_ref(&run)).unwrap();
    let cost = |with, skip: &[usize]| planner.predict(with, skip).unwrap().error;
    let pixels = 0.5;
    assert!((cost(Continuation::Residual, &[2]) - 5.0 * 8.0 * pixels).abs() < 1e-12);
    assert!((cost(Continuation::Line, &[2]) - 45f64.sqrt() * 8.0 * pixels).abs() < 1e-12);
    // After a single computed step the line is just its residual; its errors count as orthogonal.
    let both = [(Continuation::Residual, 42.0), (Continuation::Line, 2.0_f64.hypot(40.0))];
    for (with, whole) in both {
        assert!((cost(with, &[1, 2]) - whole * pixels).abs() < 1e-12);
        assert_eq!(planner.predict(with, &[0]), None);
    }
    // Between two measured steps growth is interpolated exponentially.
    let long = ReuseErrors { growth: vec![(2, 4.0), (6, 64.0)], ..run };
    assert_eq!([0, 2, 4, 6, 9].map(|step| long.growth_at(step).round()), [4.0, 4.0, 16.0, 64.0, 64.0]);
}

#[test]
fn errors_add_up_as_vectors() {
    // At the end the errors are 1.5, 1 and 1 long. The second and third point the same way, the first is at
    // 120 degrees from the second and orthogonal to the third.
    let errors = vec![vec![[1.0, 0.0, 0.0]; 4]; 4];
    let run = ReuseErrors {
        cosines: vec![1.0, -0.5, 0.0, -0.5, 1.0, 1.0, 0.0, 1.0, 1.0],
        pixels: 1.0,
        ..rehearsed(&errors, 0, 8, vec![(1, 1.5), (2, 1.0), (3, 1.0)])
    };
    let planner = Planner::new(std::slice::from_ref(&run)).unwrap();
    let error = |skip: &[usize]| planner.predict(Continuation::Residual, skip).unwrap().error;
    for (skip, square) in [(&[1, 2][..], 1.75), (&[2, 3], 4.0), (&[1, 3], 3.25), (&[1, 2, 3], 4.75)] {
        assert!((error(skip).powi(2) - square).abs() < 1e-12, "{skip:?}");
    }
    let sum = |skip: &[usize]| planner.predict(Continuation::Residual, skip).unwrap().sum;
    assert!((sum(&[1, 2, 3]) - 3.5).abs() < 1e-12);
    // The best schedule of two computed steps is not the one with the least sum.
    let plan = |objective| {
        let all = planner.schedules(Continuation::Residual, objective);
        all.into_iter().find(|plan| plan.computed == 2).unwrap().skip
    };
    assert_eq!((plan(Objective::Sum), plan(Objective::Final)), (vec![2, 3], vec![1, 2]));
    // However far errors cancel, more than half of the largest is left.
    let opposite =
        ReuseErrors { cosines: vec![1.0, -1.0, -1.0, 1.0], growth: vec![(1, 1.0), (2, 1.0)], ..run };
    let planner = Planner::new(&[opposite]).unwrap();
    assert_eq!(planner.predict(Continuation::Residual, &[1, 2]).unwrap().error, 0.5);
}

#[test]
fn cosines_fall_with_the_distance_between_measured_steps() {
    let growth = vec![(1, 1.0), (5, 1.0), (9, 1.0)];
    let cosines = vec![1.0, 0.2, -0.4, 0.2, 1.0, 0.6, -0.4, 0.6, 1.0];
    let run = ReuseErrors { growth, cosines, ..ReuseErrors::default() };
    let of = |a, b| (run.cosine(a, b) * 1e9).round() / 1e9;
    assert_eq!([of(1, 1), of(3, 3), of(1, 5), of(1, 9), of(9, 5)], [1.0, 1.0, 0.2, -0.4, 0.6]);
    // Within a stretch, and from one stretch to the next.
    assert_eq!([of(1, 3), of(2, 4), of(3, 2)], [0.6, 0.6, 0.8]);
    assert_eq!([of(3, 5), of(5, 7), of(3, 7)], [0.6, 0.8, 0.35]);
    for a in 0..12 {
        for b in 0..12 {
            assert_eq!(of(a, b), of(b, a), "{a} {b}");
        }
    }
    // Before the first and after the last one as there; 1 if nothing was measured.
    assert_eq!([of(0, 5), of(12, 5), of(0, 0)], [0.2, 0.6, 1.0]);
    assert_eq!(ReuseErrors::default().cosine(2, 7), 1.0);
}

#[test]
fn a_gap_is_as_long_as_allowed() {
    let errors = vec![vec![[1.0, 0.0, 0.0]; 8]; 8];
    let planner = Planner::new(&[rehearsed(&errors, 0, 8, vec![])]).unwrap().with_max_gap(2);
    for objective in [Objective::Sum, Objective::Minimax, Objective::Final] {
        let found = planner.schedules(Continuation::Residual, objective);
        assert_eq!(found[0].computed, 3, "{objective}");
        let longest = |skip: &[usize]| skip.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).max();
        assert!(found.iter().all(|plan| longest(&plan.skip).unwrap_or(0) <= 2), "{objective}");
    }
    assert_eq!(planner.predict(Continuation::Residual, &[1, 2, 3]), None);
}

#[test]
fn objectives_are_read_as_they_are_written() {
    for objective in [Objective::Final, Objective::Sum, Objective::Power(2.5), Objective::Minimax] {
        assert_eq!(objective.to_string().parse(), Ok(objective));
    }
    for word in ["", "max", "power", "power:0", "power:-1", "power:inf", "power:x"] {
        assert!(word.parse::<Objective>().is_err(), "{word:?}");
    }
}

#[test]
fn runs_that_differ_are_refused() {
    let errors = vec![vec![[1.0; 3]; 4]; 4];
    let run = |steps: usize, reach| rehearsed(&errors[..steps], 0, reach, vec![]);
    assert_eq!(Planner::new(&[]).unwrap_err(), PlannerError::NoRuns);
    let error = Planner::new(&[run(4, 8), run(3, 8)]).unwrap_err();
    assert_eq!(error, PlannerError::Steps { got: 3, expected: 4 });
    let error = Planner::new(&[run(4, 8), run(4, 1)]).unwrap_err();
    assert_eq!(error, PlannerError::Sources { step: 2 });
}

#[test]
fn a_rehearsal_changes_nothing_and_stands_in_as_a_reuse_does() {
    let phases = phases(&[2, 4]);
    let steps = guided(6).with_phases(phases);
    for toy in toys() {
        let blocks = toy.blocks();
        let rehearsal = Rehearsal::new(HookId(0), toy.meta().whole(), toy.meta(), 2);
        let mut session = around(blocks, Arc::new(rehearsal.clone()));
        let watched = run(&toy, Some(&mut session), &steps, 1).unwrap();
        assert_same(&watched, &run(&toy, None, &steps, 1).unwrap(), &format!("{blocks} blocks"));
        assert_eq!(rehearsal.sources(&session, Expert(1), &BOTH), [4, 5]);
        assert!(rehearsal.sources(&session, Expert(1), &[Branch::Other(3)]).is_empty());

        // A cache that computes step 4 and skips step 5 gives exactly the rehearsed output of step 4's
        // residual at step 5.
        let stand_in = rehearsal.stand_in(&session, Expert(1), &BOTH, 4).unwrap();
        let skip = "[[cache]]\nstrategy = 'schedule'\nskip = [5]";
        let cached =
            run(&toy, Some(&mut crate::support::session(skip, toy.meta(), &steps)), &steps, 1).unwrap();
        let last = steps.step(5);
        let latents = toy.latents(1, &last).unwrap();
        for (branch, reused) in BOTH.iter().zip(&cached[10..]) {
            let mut session = stand_in.session();
            let mut pass = session.pass(&last, *branch);
            let output = toy.forward(&latents, &last, *branch, &mut pass).unwrap();
            assert!(same_bits(&output, &reused.output), "{blocks} blocks, {branch}");
        }
        let mut session = stand_in.session();
        let mut pass = session.pass(&last, Branch::Batched);
        assert!(toy.forward(&latents, &last, Branch::Batched, &mut pass).is_err());
    }
}

#[test]
fn rehearsed_runs_are_read_back_as_they_were() {
    let errors = vec![vec![[0.5, -1.0, 2.0]; 5]; 5];
    let followed = ReuseErrors {
        cosines: vec![1.0, 0.25, 0.25, 1.0],
        ..rehearsed(&errors, 3, 2, vec![(1, 2.0), (4, 1.0)])
    };
    let reuse = vec![followed, rehearsed(&errors, 3, 2, vec![])];
    let recording = Recording { steps: 5, reuse, ..Recording::default() };
    let tensors = recording.to_tensors().unwrap();
    assert_eq!(Recording::from_tensors(&tensors).unwrap().reuse, recording.reuse);
    let cut = tensors["reuse.products"].narrow(3, 0, 1).unwrap();
    unread(&tensors, "reuse.products", Some(cut), ["reuse.products", "[2, 5, 2, 1]"]);
    unread(&tensors, "reuse.products", None, ["reuse.products"]);
    // Rows without cosines are older.
    let mut older = tensors.clone();
    older.remove("reuse.cosines");
    let reuse = Recording::from_tensors(&older).unwrap().reuse;
    assert!(reuse.iter().all(|run| run.cosines.is_empty()) && reuse[0].growth == recording.reuse[0].growth);
}

#[test]
fn plans_know_their_runs_and_their_speed() {
    let schedule = PlannedSchedule {
        computed: 2,
        skip: vec![1, 3],
        continuation: Continuation::Line,
        error: 0.01,
        psnr: None,
        psnr_error: None,
        ssim: None,
        searched: None,
    };
    let plans = ScheduleSet {
        steps: 4,
        flow_shift: Some(3.0),
        boundary_ratio: None,
        skipped_cost: 0.1,
        schedules: vec![schedule.clone()],
        windowed: Vec::new(),
        source: Provenance::default(),
    };
    assert!(plans.problems("here").is_empty());
    assert!((plans.speedup(2) - 4.0 / 2.2).abs() < 1e-12);
    assert_eq!(schedule.predicted_psnr(), 40.0);
    let table = FixedSteps::registered().unwrap().planned(&schedule).unwrap();
    assert_eq!(table["forecast"]["type"].as_str(), Some("taylor"));

    let run = Trajectory { flow_shift: Some(3.0), ..guided(4) };
    assert!(plans.fit(&run));
    let others = [
        Trajectory { flow_shift: Some(5.0), ..run.clone() },
        Trajectory { boundary_ratio: Some(0.9), ..run.clone() },
        Trajectory { first: 1, ..run.clone() },
        Trajectory { flow_shift: Some(3.0), ..guided(5) },
    ];
    assert!(others.iter().all(|other| !plans.fit(other)));

    let broken = |change: fn(&mut PlannedSchedule)| {
        let mut schedule = schedule.clone();
        change(&mut schedule);
        let plans = ScheduleSet { schedules: vec![schedule], ..plans.clone() };
        plans.problems("here").iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(broken(|s| s.computed = 3).contains("3 computed and 2 skipped"));
    assert!(broken(|s| s.skip = vec![3, 1]).contains("in order"));
    assert!(broken(|s| s.skip = vec![0, 1]).contains("without step 0"));
    assert!(broken(|s| s.skip = vec![1, 4]).contains("names step 4"));
    assert!(broken(|s| s.error = f64::NAN).contains("NaN"));
    let slow = ScheduleSet { skipped_cost: 1.5, ..plans.clone() };
    assert!(slow.problems("here")[0].to_string().contains("1.5"));
}
