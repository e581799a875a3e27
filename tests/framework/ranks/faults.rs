//! Ranks that do not do the same, or do nothing any more.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    PATIENCE, each_rank,
    models::{PAIR, WAN},
    run, ulysses,
};
use crate::prelude::*;

/// Enough for a run of this size, and short for one that hangs.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

const CACHE: &str = "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nlast_steps = 0";

/// The errors of a run whose rank 1 has another plan than rank 0.
fn apart(plans: [&str; 2]) -> Vec<String> {
    each_rank(ulysses(2), SOON, |ranks| {
        let error = run(&WAN, plans[ranks.world().place()], Some(ranks)).err().map(|error| error.to_string());
        error.inspect(|error| ranks.world().stop(error)).unwrap_or_default()
    })
}

#[test]
fn ranks_that_come_apart_say_where_with_both_sides() {
    let other = CACHE.replace("0.4", "0.0001");
    for error in apart([CACHE, &other]) {
        assert!(error.contains("decision of hook 0 at step") && error.contains("on rank 1"), "{error}");
    }
    let earlier = CACHE.replace("last_steps = 0", "warmup = 5");
    for error in apart([CACHE, &earlier]) {
        assert!(error.contains("decision of hook 0 at step"), "{error}");
    }
    let none = apart([CACHE, ""]);
    assert!(none.iter().any(|error| error.contains("the ranks have come apart")), "{none:?}");
}

#[test]
fn what_is_no_number_on_one_rank_is_noticed_by_all() {
    #[derive(Debug)]
    struct Spoil;
    impl BlockHook for Spoil {
        fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
            let out = next.run(cx, x)?;
            // Only the first rank has the first tokens.
            let first = cx.group.is_none_or(|group| group.place() == 0);
            if cx.step.index != 3 || !first {
                return Ok(out);
            }
            let broken = out.streams.map(|t| {
                let nan = (t.narrow(1, 0, 1)? * f64::NAN)?;
                Tensor::cat(&[nan, t.narrow(1, 1, t.dim(1)? - 1)?], 1)
            })?;
            Ok(Output { streams: broken, ..out })
        }
    }
    let spoiled = |ranks: Option<&magcache_models::ranks::Ranks>| {
        let run = WAN.begin_with(CACHE, ranks, |hooks| hooks.inside(Arc::new(Spoil))).unwrap();
        let mut run = run;
        let error = run.run(&|| false, &mut |_| {}).unwrap_err();
        assert!(matches!(error, magcache_models::pipeline::PipelineError::NotFinite { step: 3 }), "{error}");
        run.session().unwrap().log().records().to_vec()
    };
    let alone = spoiled(None);
    assert!(alone.iter().any(|r| r.why == Why::FailsafeNonFinite), "{alone:?}");
    let whys = |records: &[magcache_core::log::Record]| {
        records.iter().map(|r| (r.step, r.branch, r.reused, r.why)).collect::<Vec<_>>()
    };
    for records in each_rank(ulysses(3), PATIENCE, |ranks| spoiled(Some(ranks))) {
        assert_eq!(whys(&records), whys(&alone));
    }
}

#[test]
fn an_error_a_panic_and_silence_end_every_rank() {
    let ends = |fault: &(dyn Fn(usize) + Sync)| {
        each_rank(ulysses(3), std::time::Duration::from_secs(3), |ranks| {
            let mut run = PAIR.begin(CACHE, Some(ranks)).unwrap();
            let rank = ranks.world().place();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run.run(
                    &|| {
                        fault(rank);
                        false
                    },
                    &mut |_| {},
                )
            }));
            match caught {
                Ok(Ok(())) => "done".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => {
                    ranks.world().stop("panicked");
                    "panicked".to_owned()
                }
            }
        })
    };
    let panicked = ends(&|rank| assert!(rank != 1, "injected"));
    assert_eq!(
        panicked,
        ["rank 1 stopped the run: panicked", "panicked", "rank 1 stopped the run: panicked"]
    );
    let once = AtomicBool::new(true);
    let silent = ends(&|rank| {
        if rank == 2 && once.swap(false, Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_secs(8));
        }
    });
    assert!(silent[0].starts_with("rank 2 has not answered for 3 s: whether step 0 runs"), "{silent:?}");
}

#[test]
fn a_request_to_stop_on_one_rank_stops_all_at_the_same_pass() {
    let errors = each_rank(ulysses(2), PATIENCE, |ranks| {
        let mut run = WAN.begin(CACHE, Some(ranks)).unwrap();
        run.step(&|| false).unwrap();
        let asked = ranks.world().place() == 1;
        run.step(&|| asked).unwrap_err().to_string()
    });
    assert_eq!(errors, ["interrupted at step 1 of 9", "interrupted at step 1 of 9"]);
}
