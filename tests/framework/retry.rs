//! Caps, leaders and steps that are run again: an error or an interruption must not change them.

use magcache_core::testing::retries;

use crate::prelude::*;

/// Skips every step but the first, at most three in total.
fn capped() -> Arc<dyn BlockHook> {
    let guards = Guards { max_total_skips: Some(3), ..Guards::default() };
    Script::at(1..24).hook_with(0, Arc::new(ResidualConfig {}), guards)
}

#[test]
fn an_error_lifts_no_cap() {
    let toy = Toy::image(3);
    let mut session = around(3, capped());
    for step in alone(24).steps() {
        let failing = [6, 12, 18].contains(&step.index);
        toy.set_fault(failing.then_some((1, Fault::Error)));
        assert_eq!(run_pass(&toy, Some(&mut session), &step, Branch::Cond, 1).is_err(), failing);
        toy.set_fault(None);
    }
    assert_eq!(reused(&session, 0, Branch::Cond).len(), 3);
}

#[test]
fn another_shape_lifts_no_cap() {
    let toys = [Toy::image(3), Toy::image(3).with_tokens(5)];
    let mut session = around(3, capped());
    for step in alone(24).steps() {
        run_pass(&toys[step.index / 6 % 2], Some(&mut session), &step, Branch::Cond, 1).unwrap();
    }
    assert_eq!((reused(&session, 0, Branch::Cond).len(), session.log().failsafes()), (3, 3));
}

#[test]
fn an_eviction_lifts_no_cap() {
    let toy = Toy::image(4);
    // Two slots; the second, which holds a line or a parabola, now and then evicts the first.
    let rows =
        |skip: &[usize], keys: &str| format!("[[cache]]\nstrategy = \"schedule\"\nskip = {skip:?}\n{keys}\n");
    let all: Vec<usize> = (1..24).collect();
    let some: Vec<usize> = (1..24).filter(|step| step % 3 != 0).collect();
    let text = rows(&all, "at = \"0..2\"\nmax_total_skips = 3")
        + &rows(&some, "at = \"2..4\"\nforecast = { type = \"taylor\", order = 2 }")
        + "[residuals]\nbudget = \"600\"\n";
    let run = alone(24);
    let mut session = session(&text, toy.meta(), &run);
    for step in run.steps() {
        run_pass(&toy, Some(&mut session), &step, Branch::Cond, 1).unwrap();
    }
    assert!(
        session.slots().evicted() > 0 && reused(&session, 0, Branch::Cond).len() <= 3,
        "{} skips",
        reused(&session, 0, Branch::Cond).len()
    );
}

/// Runs the tables in `text` on a toy of `blocks` blocks over ten steps and two branches.
fn on_toy(blocks: usize, text: &str) -> (Toy, Trajectory, Session) {
    let (toy, run) = (Toy::image(blocks), guided(10));
    let session = session(text, toy.meta(), &run);
    (toy, run, session)
}

#[test]
fn nobody_follows_a_leader_whom_an_outer_cache_replaced() {
    let outer = "[[cache]]\nstrategy = \"schedule\"\nat = \"0..3\"\nskip = { cond = [4, 6], uncond = [] }\n";
    let inner =
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"1..3\"\nthreshold = 0.0\nbranches = \"cond-decides\"\n";
    let (toy, steps, mut session) = on_toy(4, &format!("{outer}{inner}"));
    run(&toy, Some(&mut session), &steps, 1).unwrap();
    let own = |step| {
        let record = |r: &&magcache_core::log::Record| {
            r.hook == HookId(1) && r.branch == Branch::Uncond && r.step == step
        };
        session.log().records().iter().find(record).map(|r| (r.reused, r.why)).unwrap()
    };
    assert_eq!([own(4), own(6)], [(false, Why::NoLeader); 2]);
    assert_eq!(own(5), (false, Why::Followed));
}

#[test]
fn nobody_follows_a_pass_that_failed() {
    let keys = "strategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.5\nwarmup = 1\nbranches = \"cond-decides\"\n";
    let (toy, steps, mut session) = on_toy(5, &format!("[[cache]]\n{keys}"));
    for step in steps.steps() {
        // The fault comes after the middle, whose reuse has been decided by then.
        toy.set_fault((step.index == 4).then_some((4, Fault::Error)));
        let cond = run_pass(&toy, Some(&mut session), &step, Branch::Cond, 1);
        toy.set_fault(None);
        let uncond = run_pass(&toy, Some(&mut session), &step, Branch::Uncond, 1).unwrap();
        let record = &uncond.records[0];
        match step.index {
            4 => {
                assert!(cond.is_err() && uncond.is_whole(5));
                assert_eq!((record.reused, record.why), (false, Why::NoLeader));
            }
            5 => assert!(cond.unwrap().is_whole(5), "the next step computes"),
            _ => assert!(cond.is_ok()),
        }
    }
    let failed = |r: &&magcache_core::log::Record| (r.step, r.branch) == (4, Branch::Cond);
    assert_eq!(session.log().records().iter().filter(failed).count(), 0, "nothing came of it");
}

const FORECASTS: [&str; 4] = [
    "type = \"residual\"",
    "type = \"output\"",
    "type = \"taylor\", order = 1",
    "type = \"taylor\", order = 2, of = \"output\"",
];

#[test]
fn every_strategy_with_every_forecast_runs_a_step_again() {
    for info in strategies() {
        for forecast in FORECASTS {
            for toy in [Toy::image(4), dual(2, 3)] {
                let text = format!("[[cache]]\n{}\nforecast = {{ {forecast} }}\n", info.example.trim());
                let steps = guided(9);
                let hooks = build(&text, toy.meta(), &steps).unwrap().registry;
                retries(&format!("{} with {forecast}", info.name), &toy, &steps, &hooks);
            }
        }
    }
}

#[test]
fn combinations_run_a_step_again() {
    let schedule = "[[cache]]\nstrategy = \"schedule\"\n";
    let plans = [
        // Nested tables, and tables inside a cache of the whole forward.
        format!("{schedule}at = \"0..3\"\nskip = [3, 6]\n{schedule}at = \"1..5\"\nskip = [4, 5, 7]\nforecast = {{ type = \"taylor\" }}\n"),
        "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.2\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1\n".to_owned(),
        format!("[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 3\nstart = 1\n{schedule}skip = [3, 5, 6]\n"),
        "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.1\nwarmup = 2\n[[cache]]\nstrategy = \"schedule\"\nat = \"2..4\"\nskip = [2, 5]\n[residuals]\ndtype = \"f16\"\n".to_owned(),
        // Audited tables, one of them until its budget is exceeded.
        format!("{schedule}skip = [2, 4, 5, 7]\n[audit]\nfraction = 0.5\n"),
        format!("{schedule}skip = [2, 3, 5, 6, 7]\nforecast = {{ type = \"taylor\" }}\n[audit]\nfraction = 1.0\ndrift_budget = 0.001\non_drift = \"tighten\"\n"),
    ];
    for text in plans {
        for toy in [Toy::image(5), dual(2, 3)] {
            let steps = guided(9);
            retries(&text, &toy, &steps, &build(&text, toy.meta(), &steps).unwrap().registry);
        }
    }
}
