//! Schedules in which steps also run some of the blocks: the planner against all of them, and what their
//! tables do in a model.

use magcache_core::{
    calibrate::{Recording, Rehearsal},
    config::FixedSteps,
    planner::{
        Continuation, Objective, PartialStep, PlannedWindows, Planner, PlannerError, ReuseErrors, Runs,
        StepErrors,
    },
    profile::{SkippedPart, WindowedSchedule},
};
use proptest::prelude::*;

use crate::prelude::*;

/// Of six blocks: `1..5` replaced, or `5..6`, or all.
const WINDOWS: [Window; 2] = [Window { front: 1, back: 1 }, Window { front: 5, back: 0 }];
const BLOCKS: usize = 6;
const COSTS: [f64; 4] = [1.0, 0.35, 0.85, 0.05];

/// Runs of `errors.len()` steps with errors by step, choice (the windows, then nothing) and source; `second`
/// is the first step of another expert.
fn rehearsed(errors: &[Vec<Vec<f64>>], second: usize) -> ReuseErrors {
    let step = |(i, errors): (usize, &Vec<Vec<f64>>)| {
        let sources: Vec<usize> = (if i < second { 0 } else { second }..i).collect();
        let n = sources.len();
        let products = |own: &Vec<f64>| (0..n * n).map(|p| own[p / n] * own[p % n]).collect::<Vec<_>>();
        let [a, b, nothing] = [0, 1, 2].map(|choice| products(&errors[choice]));
        StepErrors { sources, products: nothing, windows: vec![a, b] }
    };
    let windows = WINDOWS.iter().zip(&COSTS[1..]);
    ReuseErrors {
        steps: errors.iter().enumerate().map(step).collect(),
        windows: windows.map(|(window, cost)| PartialStep { window: *window, cost: *cost }).collect(),
        cost: COSTS[3],
        ..ReuseErrors::default()
    }
}

/// What is replaced of `0..1`, `1..5` and `5..6`, by choice.
const REPLACED: [[bool; 3]; 4] =
    [[false, false, false], [false, true, false], [false, false, true], [true, true, true]];

/// Sum and maximum of the errors of a schedule, from the definition: what replaces a step is as old as its
/// oldest part. `None` if it is not possible.
fn errors_of(choices: &[usize], errors: &[Vec<Vec<f64>>], second: usize) -> Option<(f64, f64)> {
    let mut ran = [None; 3];
    let (mut sum, mut worst) = (0.0, 0.0f64);
    for (step, choice) in choices.iter().enumerate() {
        let start = if step < second { 0 } else { second };
        if *choice > 0 {
            let of = |part: usize| REPLACED[*choice][part].then_some(ran[part]);
            let oldest: Option<usize> = (0..3).filter_map(of).min().flatten();
            let source = oldest.filter(|last| *last >= start)?;
            let error = errors[step][*choice - 1][source - start].abs();
            (sum, worst) = (sum + error, worst.max(error));
        }
        for part in 0..3 {
            if !REPLACED[*choice][part] {
                ran[part] = Some(step);
            }
        }
    }
    Some((sum, worst))
}

fn time(choices: &[usize]) -> f64 {
    choices.iter().map(|choice| COSTS[*choice]).sum()
}

fn choices(plan: &PlannedWindows) -> Vec<usize> {
    let of = |runs: &Runs| match runs {
        Runs::All => 0,
        Runs::Window(window) => 1 + WINDOWS.iter().position(|own| own == window).unwrap(),
        Runs::Nothing => 3,
    };
    plan.runs.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_best_of_all_schedules_of_few_steps_are_found(
        errors in (3usize..7).prop_flat_map(|steps| {
            let own = proptest::collection::vec(0.01..1.0f64, steps);
            proptest::collection::vec(proptest::collection::vec(own, 3), steps)
        }),
        second in 1usize..7,
    ) {
        let steps = errors.len();
        let planner = Planner::new(&[rehearsed(&errors, second)]).unwrap();
        let all: Vec<(Vec<usize>, f64, (f64, f64))> = (0..4usize.pow(steps as u32))
            .map(|mask| (0..steps).map(|step| mask / 4usize.pow(step as u32) % 4).collect::<Vec<_>>())
            .filter_map(|own| errors_of(&own, &errors, second).map(|found| (own.clone(), time(&own), found)))
            .collect();
        for objective in [Objective::Sum, Objective::Minimax] {
            let value = |(sum, worst): (f64, f64)| if objective == Objective::Sum { sum } else { worst };
            let plans = planner.windows(BLOCKS, Continuation::Residual, objective);
            for plan in &plans {
                let own = choices(plan);
                let found = errors_of(&own, &errors, second).expect("a schedule that is possible");
                prop_assert!((plan.sum - found.0).abs() < 1e-9 && (plan.time * steps as f64 - time(&own)).abs() < 1e-9);
                // Nothing that takes as long is better.
                let rivals = all.iter().filter(|(_, time, _)| *time <= plan.time * steps as f64 + 1e-9);
                let best = rivals.map(|(.., found)| value(*found)).fold(f64::INFINITY, f64::min);
                prop_assert!((value(found) - best).abs() < 1e-9, "{own:?}: {} {best}", value(found));
                prop_assert!(plan.runs.iter().any(|runs| matches!(runs, Runs::Window(_))));
            }
            prop_assert!(plans.is_sorted_by(|a, b| a.time < b.time));
            // Of the best for each quarter of a step, none is left out that is better than whole steps.
            for quarter in 4..4 * steps {
                let computed = quarter as f64 / 4.0;
                let limit = computed + (steps as f64 - computed) * COSTS[3] + 1e-9;
                let within = || all.iter().filter(|(_, time, _)| *time <= limit);
                let least = |own: &mut dyn Iterator<Item = &(Vec<usize>, f64, (f64, f64))>| {
                    own.map(|(.., found)| value(*found)).fold(f64::INFINITY, f64::min)
                };
                let whole = least(&mut within().filter(|(own, ..)| own.iter().all(|c| [0, 3].contains(c))));
                let best = least(&mut within());
                let own = plans.iter().filter(|plan| plan.time * steps as f64 <= limit);
                let own = own.map(|plan| value(errors_of(&choices(plan), &errors, second).unwrap()));
                let own = own.fold(whole, f64::min);
                prop_assert!(own == best || (own - best).abs() < 1e-9, "{objective:?}: {own} {best}");
            }
        }
    }
}

#[test]
fn long_runs_are_climbed_to_schedules_that_no_change_makes_better() {
    let noise = |a: usize, b: usize, c: usize| ((a * 31 + b * 17 + c * 7) as f64 * 78.233).sin().abs();
    let error = |step: usize, choice: usize, source: usize| {
        let age = (step - source.min(step)) as f64;
        (0.2 + noise(step, choice, 0)) * age * [0.5, 0.3, 1.0][choice]
    };
    let of = |step: usize| {
        (0..3).map(|choice| (0..step).map(|source| error(step, choice, source)).collect()).collect()
    };
    let errors: Vec<Vec<Vec<f64>>> = (0..14).map(of).collect();
    let planner = Planner::new(&[rehearsed(&errors, 14)]).unwrap();
    let plans = planner.windows(BLOCKS, Continuation::Residual, Objective::Sum);
    assert!(plans.len() >= 8, "{}", plans.len());
    for plan in &plans {
        let own = choices(plan);
        let limit = time(&own);
        for (step, choice) in (1..14).flat_map(|step| (0..4).map(move |choice| (step, choice))) {
            let mut other = own.clone();
            other[step] = choice;
            let changed = errors_of(&other, &errors, 14).filter(|_| time(&other) <= limit + 1e-9);
            assert!(changed.is_none_or(|(sum, _)| sum >= plan.sum - 1e-9), "{own:?} {other:?}");
        }
    }
}

#[test]
fn without_windows_there_are_no_such_schedules_and_runs_must_agree_on_them() {
    let errors = vec![vec![vec![0.5; 4]; 3]; 4];
    let run = rehearsed(&errors, 4);
    let without = ReuseErrors { windows: Vec::new(), ..run.clone() };
    let planner = Planner::new(std::slice::from_ref(&without)).unwrap();
    assert!(planner.windows(BLOCKS, Continuation::Residual, Objective::Final).is_empty());
    assert_eq!(Planner::new(&[run, without]).unwrap_err(), PlannerError::Windows);
}

#[test]
fn rehearsed_windows_are_read_back_as_they_were() {
    let errors = vec![vec![vec![0.5, 0.25, 2.0, 1.0, 3.0]; 3]; 5];
    let reuse = vec![rehearsed(&errors, 5), rehearsed(&errors, 3)];
    let recording = Recording { steps: 5, reuse, ..Recording::default() };
    let tensors = recording.to_tensors().unwrap();
    assert_eq!(Recording::from_tensors(&tensors).unwrap().reuse, recording.reuse);
    for name in ["reuse.window_products", "reuse.window_costs"] {
        let mut cut = tensors.clone();
        cut.remove(name);
        assert!(Recording::from_tensors(&cut).unwrap_err().to_string().contains(name));
    }
}

/// The tables of a schedule of six blocks: step 2 runs the window, step 3 nothing, step 4 all but the last
/// block.
fn tables() -> Vec<toml::Table> {
    let runs =
        [Runs::All, Runs::All, Runs::Window(WINDOWS[0]), Runs::Nothing, Runs::Window(WINDOWS[1]), Runs::All];
    let plan = PlannedWindows { runs: runs.to_vec(), time: 0.6, error: 0.01, sum: 0.01 };
    let schedule = WindowedSchedule::new(&plan, BLOCKS, Continuation::Residual);
    let part = |at: &str, skip: &[usize]| SkippedPart { at: at.to_owned(), skip: skip.to_vec() };
    let parts = [part("0..1", &[3]), part("1..5", &[2, 3]), part("5..6", &[3, 4])];
    assert_eq!(schedule.parts, parts);
    FixedSteps::registered().unwrap().windowed(&schedule).unwrap()
}

#[test]
fn the_tables_of_a_schedule_run_its_blocks_and_no_others() {
    let toy = Toy::image(BLOCKS);
    let steps = guided(6);
    let plan = CachePlan::from_tables(tables(), magcache_core::config::Residuals::default()).unwrap();
    let built = plan.build(toy.meta(), Some(&steps)).unwrap();
    assert!(built.registry.is_static());
    let passes = run(&toy, Some(&mut built.registry.session()), &steps, 1).unwrap();
    let ran: Vec<usize> = passes.iter().flat_map(|pass| &pass.blocks).map(|own| own.block).collect();
    let all: Vec<usize> = (0..BLOCKS).collect();
    let of_steps = [&all[..], &all, &[0, 5], &[], &all[..5], &all];
    let expected = of_steps.map(|own| own.repeat(BOTH.len())).concat();
    assert_eq!(ran, expected);
}

#[test]
fn a_rehearsed_window_is_what_the_tables_give() {
    let steps = guided(4);
    for toy in toys() {
        let blocks = toy.blocks();
        if blocks < 3 {
            continue;
        }
        let between = 1..blocks - 1;
        let rehearsal = Rehearsal::new(HookId(0), between.clone(), toy.meta(), 2);
        let builder = HookRegistry::builder(blocks).ring(between, Arc::new(rehearsal.clone())).unwrap();
        let mut session = builder.build().session();
        let watched = run(&toy, Some(&mut session), &steps, 1).unwrap();
        assert_same(&watched, &run(&toy, None, &steps, 1).unwrap(), &format!("{blocks} blocks"));
        let stand_in = rehearsal.stand_in(&session, Expert(0), &BOTH, 2).unwrap();
        let table = format!("[[cache]]\nstrategy = 'schedule'\nat = '1..{}'\nskip = [3]", blocks - 1);
        let cached =
            run(&toy, Some(&mut crate::support::session(&table, toy.meta(), &steps)), &steps, 1).unwrap();
        let last = steps.step(3);
        let latents = toy.latents(1, &last).unwrap();
        for (branch, reused) in BOTH.iter().zip(&cached[6..]) {
            let mut session = stand_in.session();
            let output = toy.forward(&latents, &last, *branch, &mut session.pass(&last, *branch)).unwrap();
            assert!(same_bits(&output, &reused.output), "{blocks} blocks, {branch}");
        }
    }
}

#[test]
fn a_schedule_of_a_profile_says_what_is_wrong() {
    let part = SkippedPart { at: "1..5".to_owned(), skip: vec![1, 3] };
    let good = WindowedSchedule {
        time: 0.7,
        continuation: Continuation::Line,
        error: 0.01,
        psnr: None,
        psnr_error: None,
        ssim: None,
        parts: vec![part],
    };
    assert_eq!(good.predicted_psnr(), 40.0);
    let lines = FixedSteps::registered().unwrap().windowed(&good).unwrap();
    assert_eq!((lines.len(), lines[0]["at"].as_str()), (1, Some("1..5")));
    assert_eq!(lines[0]["forecast"]["type"].as_str(), Some("taylor"));
    let text = |own: &WindowedSchedule| {
        let plan = toml::to_string(own).unwrap();
        let head = "name = 'p'\n[[plan]]\nsteps = 4\nskipped_cost = 0.1\nschedule = []\n[[plan.windowed]]\n";
        head.to_owned() + &plan.replace("[[part]]", "[[plan.windowed.part]]")
    };
    let read = |own: &WindowedSchedule| Profile::parse(&text(own), "p.toml");
    assert_eq!(read(&good).unwrap().plans[0].windowed, std::slice::from_ref(&good));
    let broken = |change: fn(&mut WindowedSchedule)| {
        let mut own = good.clone();
        change(&mut own);
        read(&own).unwrap_err().to_string()
    };
    assert!(broken(|own| own.time = 1.5).contains("`time` is 1.5"));
    assert!(broken(|own| own.error = -1.0).contains("`error` is -1"));
    assert!(broken(|own| own.parts[0].skip = vec![3, 1]).contains("in order"));
    assert!(broken(|own| own.parts[0].skip = vec![0, 1]).contains("without step 0"));
    assert!(broken(|own| own.parts[0].skip = vec![1, 4]).contains("blocks 1..5 names step 4"));
}
