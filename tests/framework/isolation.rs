//! What happens to one session, pass, branch or expert affects no other; after a fault the blocks are
//! computed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Barrier,
    time::Duration,
};

use candle_core::Result;
use magcache_core::{Group, group, strategy::Branches, testing::Bench};

use crate::prelude::*;

#[test]
fn two_sessions_on_two_threads_share_a_model_and_nothing_else() {
    for info in strategies() {
        let toy = dual(2, 3);
        let alone = [1, 2]
            .map(|seed| run(&toy, Some(&mut example(info, &toy, &guided(12))), &guided(12), seed).unwrap());
        let registry = Arc::clone(example(info, &toy, &guided(12)).registry());
        let turn = Barrier::new(2);
        let both = std::thread::scope(|scope| {
            let request = |seed: u64| {
                let (toy, registry, turn) = (&toy, &registry, &turn);
                scope.spawn(move || {
                    let mut session = registry.session();
                    let mut out = Vec::new();
                    for (step, branch) in guided(12).steps().flat_map(|step| BOTH.map(|b| (step.clone(), b)))
                    {
                        turn.wait();
                        out.push(run_pass(toy, Some(&mut session), &step, branch, seed).unwrap());
                    }
                    out
                })
            };
            [request(1), request(2)].map(|t| t.join().unwrap())
        });
        for (a, b) in alone.iter().zip(&both) {
            assert_same(a, b, info.name);
        }
        assert!(!same_bits(&alone[0][9].output, &alone[1][9].output), "two requests are different");
    }
}

/// Whether a branch depends on what another one did at the same step.
fn branches_meet(info: &'static StrategyInfo) -> bool {
    Bench::new(info, dual(2, 3)).branches_meet()
}

#[test]
fn a_branch_that_runs_before_the_one_that_it_needs_is_computed() {
    let needy: Vec<_> = strategies().into_iter().filter(|info| branches_meet(info)).collect();
    assert!(needy.len() >= 3);
    for info in needy {
        let toy = dual(2, 3);
        let other = Trajectory { branches: vec![Branch::Uncond, Branch::Cond], ..guided(12) };
        // The program warns about this order, which only custom code can produce.
        let ran = run(&toy, Some(&mut example(info, &toy, &other)), &other, 1).unwrap();
        let plain = run(&toy, None, &other, 1).unwrap();
        for (a, b) in ran.iter().zip(&plain).filter(|(a, _)| a.branch == Branch::Uncond) {
            assert!(same_bits(&a.output, &b.output), "{}: step {}", info.name, a.step.index);
            assert!(a.is_whole(toy.blocks()), "{}: {:?}", info.name, a.records);
        }
    }
}

/// Steps 0 to 3, a disturbance at step 4, then the rest, which must equal a request that starts empty at step
/// 5.
fn recovers(name: &str, new: impl Fn(&Toy) -> Session, disturb: impl Fn(&Toy, &mut Session, &Step)) {
    let toy = dual(2, 3);
    let one = alone(12);
    let mut session = new(&toy);
    for index in 0..4 {
        run_pass(&toy, Some(&mut session), &one.step(index), Branch::Cond, 1).unwrap();
    }
    disturb(&toy, &mut session, &one.step(4));
    toy.set_fault(None);
    let late = Trajectory { first: 5, ..one };
    let rest = run(&toy, Some(&mut session), &late, 1).unwrap();
    let clean = run(&toy, Some(&mut new(&toy)), &late, 1).unwrap();
    assert!(rest[0].is_whole(toy.blocks()), "{name}: the pass after computes");
    assert_same(&clean, &rest, name);
}

/// Two adjacent caches; the first has already stored its slot when block 4 fails.
fn two_ranges(toy: &Toy) -> Session {
    let script = |id| Script::at([3, 5, 6, 8]).hook(id);
    rings(toy.blocks(), [(0..3, script(0)), (3..5, script(1))]).build().session()
}

#[test]
fn a_pass_that_errors_or_panics_leaves_nothing_behind() {
    for (k, fault) in (0..5).flat_map(|k| [Fault::Error, Fault::Panic].map(|fault| (k, fault))) {
        recovers(&format!("{fault:?} in block {k}"), two_ranges, |toy, session, step| {
            toy.set_fault(Some((k, fault)));
            let pass = || run_pass(toy, Some(session), step, Branch::Cond, 1);
            let ended = catch_unwind(AssertUnwindSafe(pass));
            assert_eq!(ended.is_err(), matches!(fault, Fault::Panic));
            assert!(ended.is_err() || ended.is_ok_and(|ran| ran.is_err()));
        });
    }
}

#[test]
fn a_failed_probe_or_hook_leaves_nothing_behind() {
    let tea = |toy: &Toy| {
        let table =
            "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nthreshold = 0.3\nlast_steps = 0";
        session(table, toy.meta(), &alone(12))
    };
    recovers("a probe fails", tea, |toy, session, step| {
        let x = Streams::Image(toy.latents(1, step).unwrap());
        let mut pass = session.pass(step, Branch::Cond);
        assert!(pass.run(5, &no_signals, x, |_, x| Ok(x)).is_err());
    });
}

/// The passes of both branches if the first block of the conditional one fails at a step.
fn failing_at(info: &StrategyInfo, failing: usize) -> Vec<[Result<Ran>; 2]> {
    let (toy, run) = (dual(2, 3), guided(12));
    let mut session = example(info, &toy, &run);
    let pass = |step: Step| {
        BOTH.map(|branch| {
            let fails = (step.index, branch) == (failing, Branch::Cond);
            toy.set_fault(fails.then_some((0, Fault::Error)));
            run_pass(&toy, Some(&mut session), &step, branch, 1)
        })
    };
    run.steps().map(pass).collect()
}

#[test]
fn an_error_on_one_branch_leaves_the_other_alone() {
    for info in strategies().into_iter().filter(|info| !branches_meet(info)) {
        let own =
            run(&dual(2, 3), Some(&mut example(info, &dual(2, 3), &guided(12))), &guided(12), 1).unwrap();
        let own: Vec<Ran> = own.into_iter().filter(|r| r.branch == Branch::Uncond).collect();
        let uncond: Vec<Ran> = failing_at(info, 5).into_iter().map(|[_, uncond]| uncond.unwrap()).collect();
        assert_same(&own, &uncond, info.name);
    }
}

#[test]
fn an_error_on_one_branch_makes_those_that_need_it_compute() {
    for info in strategies().into_iter().filter(|info| branches_meet(info)) {
        let ran =
            run(&dual(2, 3), Some(&mut example(info, &dual(2, 3), &guided(12))), &guided(12), 1).unwrap();
        let runs = |r: &&Ran| r.branch == Branch::Cond && r.is_whole(5) && r.step.index > 1;
        for step in ran.iter().filter(runs).map(|r| r.step.index) {
            let [cond, uncond] = &failing_at(info, step)[step];
            let uncond = uncond.as_ref().unwrap();
            assert!(cond.is_err() && uncond.is_whole(5), "{} step {step}: {:?}", info.name, uncond.records);
        }
    }
}

#[test]
fn a_pass_that_was_opened_and_never_run_changes_nothing() {
    let toy = dual(2, 3);
    let one = alone(12);
    let clean = run(&toy, Some(&mut two_ranges(&toy)), &one, 1).unwrap();
    let mut session = two_ranges(&toy);
    let mut out = Vec::new();
    for step in one.steps() {
        drop(session.pass(&step, Branch::Cond));
        out.push(run_pass(&toy, Some(&mut session), &step, Branch::Cond, 1).unwrap());
    }
    assert_same(&clean, &out, "dropped passes");
}

#[test]
fn shape_and_dtype_that_change_compute_and_count_a_failsafe() {
    for info in strategies() {
        let bench = Bench::new(info, Toy::image(4));
        for changed in [Toy::image(4).with_tokens(5), Toy::image(4).with_dtype(DType::F64)] {
            let toy = Toy::image(4);
            let mut session = example(info, &toy, &guided(12));
            for (index, toy) in (0..8).map(|i| (i, if i < 5 { &toy } else { &changed })) {
                for branch in bench.until_decided() {
                    let ran = run_pass(toy, Some(&mut session), &guided(12).step(index), branch, 1).unwrap();
                    let (why, here) = (ran.records[0].why, index == 5 && branch == bench.decided());
                    assert_eq!(why == Why::FailsafeShape, here, "{}: step {index}: {why}", info.name);
                    assert!(index != 5 || ran.is_whole(4));
                }
            }
            assert_eq!(session.log().failsafes(), 1);
        }
    }
}

#[test]
fn a_metric_that_is_nan_computes() {
    for name in ["fbcache", "teacache", "easycache", "sencache"] {
        let toy = Toy::image(4);
        let mut session = example(strategy(name), &toy, &guided(12));
        for index in 0..5 {
            run_pass(&toy, Some(&mut session), &guided(12).step(index), Branch::Cond, 1).unwrap();
        }
        let step = guided(12).step(5);
        let x = toy.latents(1, &step).unwrap().affine(f64::NAN, 0.0).unwrap();
        let mut pass = session.pass(&step, Branch::Cond);
        toy.forward(&x, &step, Branch::Cond, &mut pass).unwrap();
        drop(pass);
        assert_eq!(session.log().failsafes(), 1, "{name}");
        assert!(!session.log().records().last().unwrap().reused, "{name}");
        let next = run_pass(&toy, Some(&mut session), &guided(12).step(6), Branch::Cond, 1).unwrap();
        assert!(next.is_whole(4), "{name}: nothing of the broken pass is kept");
        let plain = run_pass(&toy, None, &guided(12).step(6), Branch::Cond, 1).unwrap();
        assert!(same_bits(&next.output, &plain.output), "{name}");
    }
}

/// Wants to reuse at steps 2 and 3, at step 2 with a non-finite metric.
#[derive(Debug)]
struct Broken(f64);

impl TimestepCache for Broken {
    type State = ();

    fn head(&self, (): &mut (), step: &Step, _: Branch, _: &Head<'_>) -> Result<Verdict> {
        let metric = if step.index == 2 { self.0 } else { 0.0 };
        Ok(if step.index < 2 {
            Verdict::compute(Why::Over)
        } else {
            Verdict::reuse(Why::Under).metric(metric)
        })
    }
}

#[test]
fn a_verdict_from_a_broken_number_is_not_believed() {
    let toy = Toy::image(3);
    let one = alone(4);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let hook = CacheHook::new(HookId(0), Box::new(Broken(value)), None, Guards::default());
        let mut session = around(3, Arc::new(hook));
        let ran = run(&toy, Some(&mut session), &one, 1).unwrap();
        let why: Vec<Why> = ran.iter().map(|r| r.records[0].why).collect();
        assert_eq!(why, [Why::Warmup, Why::Over, Why::FailsafeNonFinite, Why::Under], "{value}");
        assert!(ran[2].is_whole(3) && ran[3].blocks.is_empty(), "{value}");
    }
}

#[test]
fn bytes_are_exact_and_a_budget_evicts() {
    let toy = Toy::image(4);
    let slot = 6 * 8 * 4;
    let mut free = scripted(4, 1..12, StoragePolicy::default());
    run(&toy, Some(&mut free), &guided(12), 1).unwrap();
    assert_eq!((free.slots().bytes(), free.slots().keys().count()), (2 * slot, 2));
    assert_eq!((free.slots().peak_bytes(), free.slots().evicted()), (2 * slot, 0));
    assert_eq!(free.log().reused(HookId(0), Branch::Cond).count(), 11);
    // Room for one slot: the first branch's stays, and the other branch's is never stored.
    let mut tight = scripted(4, 1..12, StoragePolicy { budget: Some(slot), ..StoragePolicy::default() });
    let out = run(&toy, Some(&mut tight), &guided(12), 1).unwrap();
    let (cond, uncond): (Vec<Ran>, Vec<Ran>) = out.into_iter().partition(|r| r.branch == Branch::Cond);
    assert!(cond.iter().skip(1).all(|r| r.blocks.is_empty()));
    assert!(uncond.iter().skip(1).all(|r| r.records[0].why == Why::NoHistory && r.is_whole(4)));
    assert_eq!((tight.slots().bytes(), tight.slots().keys().count()), (slot, 1));
    assert_eq!((tight.slots().peak_bytes(), tight.slots().evicted()), (slot, 12));
    let plain = run(&toy, None, &guided(12), 1).unwrap();
    let plain: Vec<Ran> = plain.into_iter().filter(|r| r.branch == Branch::Uncond).collect();
    assert_same(&plain, &uncond, "evicted");
}

#[test]
fn what_a_step_needs_is_not_dropped_for_another_part_of_it() {
    // Two ranges with room for one and a half: storing the second would evict the first, which this step has
    // used.
    let slot = 6 * 8 * 4;
    let storage = StoragePolicy { budget: Some(slot + slot / 2), ..StoragePolicy::default() };
    let builder = rings(4, [(0..2, Script::at(1..12).hook(0)), (2..4, Script::at(1..12).hook(1))]);
    let mut session = builder.storage(storage).build().session();
    run(&Toy::image(4), Some(&mut session), &alone(12), 1).unwrap();
    let reused = |hook| reused(&session, hook, Branch::Cond).len();
    assert_eq!([reused(0), reused(1)], [11, 0]);
    assert!(session.slots().peak_bytes() <= slot + slot / 2);
}

#[test]
fn half_precision_storage_halves_the_bytes_and_rounds_only_the_residual() {
    let toy = Toy::image(4);
    let mut session =
        scripted(4, [1], StoragePolicy { dtype: Some(DType::BF16), ..StoragePolicy::default() });
    let ran = run(&toy, Some(&mut session), &alone(3), 1).unwrap();
    assert_eq!(session.slots().bytes(), 6 * 8 * 2);
    let plain = run_pass(&toy, None, &ran[1].step, Branch::Cond, 1).unwrap();
    let (first, last) = (&ran[0].blocks[0].input, &ran[0].blocks[3].output);
    let residual = last.sub(first).unwrap().image().unwrap();
    let expected =
        |r: &Tensor| (plain.blocks[0].input.image().unwrap() + r).unwrap().affine(0.8, 0.01).unwrap();
    let rounded = residual.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    assert_eq!(ran[1].output.dtype(), DType::F32);
    assert!(same_bits(&ran[1].output, &expected(&rounded)));
    assert!(!same_bits(&ran[1].output, &expected(&residual)));
}

/// The steps that each of two sessions skips, whose tokens differ, alone or as two ranks.
fn ranks(together: bool, thresholds: [f64; 2]) -> [Result<Vec<usize>>; 2] {
    let one = alone(24);
    let one = &one;
    std::thread::scope(|scope| {
        let threads = group::threads(2).into_iter().zip([1, 14]).zip(thresholds);
        let threads = threads.map(|((plane, seed), threshold)| {
            scope.spawn(move || {
                let toy = Toy::image(4);
                let table = format!("strategy = \"fbcache\"\nthreshold = {threshold}\nlast_steps = 0");
                let session = session(&format!("[[cache]]\n{table}"), toy.meta(), one);
                let group = Group::world(Arc::new(plane), Duration::from_mins(1));
                let mut session = if together { session.in_group(group) } else { session };
                run(&toy, Some(&mut session), one, seed)?;
                Ok(reused(&session, 0, Branch::Cond))
            })
        });
        let threads: Vec<_> = threads.collect();
        let mut ends = threads.into_iter().map(|thread| thread.join().unwrap());
        [ends.next().unwrap(), ends.next().unwrap()]
    })
}

#[test]
fn ranks_decide_alike_from_the_tokens_of_all() {
    let [a, b] = ranks(false, [0.02; 2]).map(Result::unwrap);
    assert_ne!(a, b, "alone the two disagree, else this shows nothing");
    let [a, b] = ranks(true, [0.02; 2]).map(Result::unwrap);
    assert_eq!(a, b);
    assert!(!a.is_empty());
}

#[test]
fn ranks_that_decide_differently_do_not_act() {
    for error in ranks(true, [0.02, 0.5]).map(|ran| ran.unwrap_err().to_string()) {
        let sides = error.contains("on rank 0 and ")
            && error.contains("compute (over-threshold")
            && error.contains("reuse (");
        assert!(sides && error.starts_with("decision of hook 0 at step "), "{error}");
    }
}

#[test]
fn uncond_follows_cond_and_computes_where_cond_has_not_run() {
    use Why::{Followed, NoLeader, Warmup};

    let toy = Toy::image(4);
    let guards = Guards { branches: Branches::CondDecides, ..Guards::default() };
    let whys = |order: &[Branch]| {
        let mut session = around(4, Script::at([2, 3]).hook_with(0, Arc::new(ResidualConfig {}), guards));
        let out = run(&toy, Some(&mut session), &Trajectory::plain(5, order), 1).unwrap();
        let uncond = out.into_iter().filter(|r| r.branch == Branch::Uncond);
        uncond.map(|r| (r.records[0].reused, r.records[0].why)).collect::<Vec<_>>()
    };
    let followed =
        [(false, Warmup), (false, Followed), (true, Followed), (true, Followed), (false, Followed)];
    assert_eq!(whys(&BOTH), followed);
    let alone = [Warmup, NoLeader, NoLeader, NoLeader, NoLeader].map(|why| (false, why));
    assert_eq!(whys(&[Branch::Uncond, Branch::Cond]), alone);
    assert_eq!(whys(&[Branch::Uncond]), alone);
}
