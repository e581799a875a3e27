//! The rules that every strategy must keep.

use std::collections::HashMap;

use candle_core::{Result, Tensor};

use super::{
    Bench, Calls, Fault, Inexact, Ran,
    expect::{same_streams, transcript},
    run, run_pass, same_bits,
    toy::Toy,
};
use crate::{
    Branch, CachePlan, ConfigError, Expert, Level, Session, StrategyInfo, Streams, Trajectory,
    config::{CacheEntry, Residuals},
    log::Record,
    strategy::Base,
};

/// Rule 1: With a threshold that nothing is below, every output is bit-identical to a run without a session.
///
/// # Panics
///
/// If one is not.
pub fn check_never(bench: &Bench<'_>) {
    let place = bench.place("1: nothing skipped, nothing changed");
    let Some(mut session) = bench.session(bench.table(bench.info.never)) else { return };
    let plain = runs(&place, bench, None, &bench.trajectory, 1);
    for (a, b) in runs(&place, bench, Some(&mut session), &bench.trajectory, 1).iter().zip(&plain) {
        assert!(a.is_whole(bench.toy.blocks()), "{place}: step {} {} skipped blocks", a.step.index, a.branch);
        assert!(same_bits(&a.output, &b.output), "{place}: step {} {} differs", a.step.index, a.branch);
    }
}

/// Rule 2: The first step of each expert's phase and, if set, the warm-up are computed.
///
/// # Panics
///
/// If one is not.
pub fn check_guarded_steps(bench: &Bench<'_>) {
    let place = bench.place("2: first steps are computed");
    let trajectory = bench.two_experts();
    for warmup in [None, Some(3)] {
        let mut table = bench.table(bench.info.example);
        table.extend(warmup.map(|n: i64| ("warmup".to_owned(), n.into())));
        let Some(mut session) = bench.session(table) else { return };
        for ran in runs(&place, bench, Some(&mut session), &trajectory, 1) {
            let local = ran.step.index - ran.step.phase.start;
            if local < warmup.map_or(1, |n| n as usize) {
                let at = format!("step {} {}, warm-up {warmup:?}", ran.step.index, ran.branch);
                assert!(ran.is_whole(bench.toy.blocks()), "{place}: {at} skipped blocks");
            }
        }
    }
}

/// Rule 3: On reuse the replaced blocks run zero times, every other block once, and the residual of the last
/// computed step is added exactly once, to the input or to the leading branch's output. On a full-size toy
/// the example skips something.
///
/// # Panics
///
/// If not.
pub fn check_reuse(bench: &Bench<'_>) {
    let place = bench.place("3: a reuse replaces its blocks once");
    let mut table = bench.table(bench.info.example);
    let residual = toml::Table::from_iter([("type".to_owned(), "residual".into())]);
    table.insert("forecast".to_owned(), residual.into());
    let Some(mut session) = bench.session(table) else { return };
    let mut computed: HashMap<(Branch, Expert), Ran> = HashMap::new();
    let mut reuses = 0;
    let all = runs(&place, bench, Some(&mut session), &bench.trajectory, 1);
    let starts_from = |ran: &Ran| match bench.base() {
        Base::Input => Some(ran.input.clone()),
        Base::Leader => {
            let leads = |lead: &&Ran| lead.step == ran.step && lead.branch == Branch::Cond;
            all.iter().find(leads).map(|lead| lead.output.clone())
        }
    };
    for ran in all.clone() {
        let at = format!("{place}: step {} {}", ran.step.index, ran.branch);
        let key = (ran.branch, ran.step.expert);
        let [record] = ran.records.as_slice() else {
            panic!("{at}: {} decisions for one hook", ran.records.len())
        };
        if !record.reused {
            assert!(ran.is_whole(bench.toy.blocks()), "{at}: the log says computed, blocks were left out");
            computed.insert(key, ran);
            continue;
        }
        reuses += 1;
        let Some(before) = computed.get(&key) else { panic!("{at}: reused before anything was computed") };
        let ok = if bench.info.level == Level::Forward {
            let both = starts_from(before).zip(starts_from(&ran));
            let Some((then, now)) = both else { panic!("{at}: rebuilt from a branch that has not run") };
            forward_was_replaced(before, &ran, &then, &now)
        } else {
            let replaced = |i| record.blocks.contains(&i);
            for i in 0..bench.toy.blocks() {
                let n = ran.count(i);
                assert!(n == usize::from(!replaced(i)), "{at}: block {i} ran {n} times, {record:?}");
            }
            blocks_were_replaced(bench, record, before, &ran)
        };
        let ok = ok.unwrap_or_else(|e| panic!("{at}: {e}"));
        assert!(ok, "{at}: the output is not input + residual of step {}", before.step.index);
    }
    assert!(reuses > 0 || !bench.is_real(), "{place}: the example skips nothing, so nothing was checked");
}

fn forward_was_replaced(before: &Ran, ran: &Ran, then: &Tensor, now: &Tensor) -> Result<bool> {
    let expected = (now + (&before.output - then)?)?;
    Ok(ran.blocks.is_empty() && same_bits(&ran.output, &expected))
}

fn blocks_were_replaced(bench: &Bench<'_>, record: &Record, before: &Ran, ran: &Ran) -> Result<bool> {
    let (start, end) = (record.blocks.start, record.blocks.end);
    let of = |ran: &Ran, i: usize| ran.blocks.iter().find(|b| b.block == i).cloned();
    let missing = || candle_core::Error::msg("a block has no trace");
    let entered = |ran: &Ran| -> Result<Streams> {
        match start.checked_sub(1) {
            Some(i) => Ok(of(ran, i).ok_or_else(missing)?.output),
            None => bench.toy.embed(&ran.input, ran.branch),
        }
    };
    let left = of(before, end - 1).ok_or_else(missing)?.output;
    let expected = entered(ran)?.add(&left.sub(&entered(before)?)?)?;
    match of(ran, end) {
        Some(next) => same_streams(&next.input, &expected, true),
        // Nothing reads the text after the last block, so it may be missing.
        None => Ok(same_bits(&ran.output, &Toy::readout(&expected)?)),
    }
}

/// Rule 4: Swapping the order of the branches, or running another session in between, changes no output. A
/// branch that runs before the one that it follows, or is rebuilt from, is computed.
///
/// # Panics
///
/// If an output changes, or if such a branch is not computed.
pub fn check_isolation(bench: &Bench<'_>) {
    let place = bench.place("4: branches and sessions are apart");
    let new = || bench.session(bench.table(bench.info.example));
    let (Some(mut own), Some(mut swapped)) = (new(), new()) else { return };
    let (Some(mut left), Some(mut right)) = (new(), new()) else { return };
    let alone = runs(&place, bench, Some(&mut own), &bench.trajectory, 1);
    let branches = bench.trajectory.branches.iter().rev().copied().collect();
    let other = Trajectory { branches, ..bench.trajectory.clone() };
    let plain = runs(&place, bench, None, &bench.trajectory, 1);
    let meet = bench.branches_meet();
    for b in runs(&place, bench, Some(&mut swapped), &other, 1) {
        let of = if meet && b.branch != Branch::Cond { &plain } else { &alone };
        let a = of.iter().find(|a| a.step == b.step && a.branch == b.branch);
        let same = a.is_some_and(|a| same_bits(&a.output, &b.output));
        assert!(same, "{place}: step {} {} differs when branches are swapped", b.step.index, b.branch);
    }
    for a in &alone {
        let pass = |session: &mut Session, seed| {
            let ran = run_pass(&bench.toy, Some(session), &a.step, a.branch, seed);
            ran.unwrap_or_else(|e| panic!("{place}: {e}"))
        };
        let b = pass(&mut left, 1);
        pass(&mut right, 2);
        let at = format!("step {} {}", a.step.index, a.branch);
        assert!(same_bits(&a.output, &b.output), "{place}: {at} differs beside another session");
    }
}

/// Rule 5: After an error in any block, the next step of that branch computes every block.
///
/// # Panics
///
/// If it does not.
pub fn check_error_recovers(bench: &Bench<'_>) {
    let place = bench.place("5: an error leaves nothing behind");
    let (toy, decided) = (&bench.toy, bench.decided());
    for k in 0..toy.blocks() {
        let Some(mut session) = bench.session(bench.table(bench.info.example)) else { return };
        let (mut failed, mut recovered) = (None, false);
        let steps = bench.trajectory.steps();
        for (step, branch) in
            steps.flat_map(|s| bench.until_decided().into_iter().map(move |b| (s.clone(), b)))
        {
            let faulty = step.index >= 2 && failed.is_none() && branch == decided;
            toy.set_fault(faulty.then_some((k, Fault::Error)));
            let ran = run_pass(toy, Some(&mut session), &step, branch, 1);
            toy.set_fault(None);
            match (ran, failed) {
                (Err(_), None) => failed = Some(step.index),
                (Err(e), Some(_)) => panic!("{place}: the pass after: {e}"),
                (Ok(next), Some(at)) if branch == decided && !recovered => {
                    let why: Vec<_> = next.records.iter().map(|r| (r.reused, r.why)).collect();
                    let at = format!("block {k} failed at step {at}");
                    assert!(next.is_whole(toy.blocks()), "{place}: {at}, the next step skipped: {why:?}");
                    recovered = true;
                }
                (Ok(ran), _) => assert!(!faulty || ran.count(k) == 0, "{place}: an error was lost"),
            }
        }
    }
}

/// Rule 6: The same trajectory in two sessions gives the same decisions.
///
/// # Panics
///
/// If it does not.
pub fn check_repeatable(bench: &Bench<'_>) {
    let place = bench.place("6: decisions repeat");
    let log = || {
        let mut session = bench.session(bench.table(bench.info.example))?;
        runs(&place, bench, Some(&mut session), &bench.trajectory, 3);
        Some(session.log().clone())
    };
    if let (Some(a), Some(b)) = (log(), log()) {
        let both = (transcript(&a).join("\n"), transcript(&b).join("\n"));
        assert!(a == b, "{place}: two logs:\n{}\n\n{}", both.0, both.1);
    }
}

/// Rule 7: A skipped pass calls neither `tail` nor `observe`; nor does a pass in which an inner cache
/// guessed.
///
/// # Panics
///
/// If it does.
pub fn check_learning(bench: &Bench<'_>) {
    let place = bench.place("7: only facts are learned");
    let decided = bench.decided();
    for guessed in [vec![], vec![0, 3, 4, 7], (0..12).collect()] {
        let calls = Calls::default();
        let Some(mut session) = bench.spied(&calls, Inexact { at: guessed.clone() }) else { return };
        let steps = bench.trajectory.steps();
        for (step, branch) in
            steps.flat_map(|s| bench.until_decided().into_iter().map(move |b| (s.clone(), b)))
        {
            let ran = run_pass(&bench.toy, Some(&mut session), &step, branch, 1);
            let ran = ran.unwrap_or_else(|e| panic!("{place}: {e}"));
            if branch != decided {
                assert!(
                    calls.take().is_empty(),
                    "{place}: step {} {branch} leads, nothing is asked",
                    step.index
                );
                continue;
            }
            let record = ran.records.first();
            let calls: Vec<_> = calls.take().into_iter().map(|(what, _)| what).collect();
            let count = |what: &str| calls.iter().filter(|c| **c == what).count();
            let at = format!("{place}: step {}, {record:?}, calls {calls:?}", step.index);
            let (reused, forced) = record.map_or((false, false), |r| (r.reused, r.why.is_imposed()));
            let learns = usize::from(!reused && !forced && !guessed.contains(&step.index));
            assert!(count("head") == usize::from(!forced), "{at}: `head` is called once per pass");
            assert!(count("tail") == learns && count("observe") == learns, "{at}: learned the wrong pass");
            assert!(!reused || count("predict") == 1, "{at}: a reuse predicts once");
        }
    }
}

/// Rule 8: The example and `never` parse, validate, and are written as tables that read back equal; an
/// unknown key is an error that names it.
///
/// # Panics
///
/// If not.
pub fn check_config(info: &StrategyInfo) {
    let bench = Bench::new(info, Toy::image(12));
    let place = bench.place("8: the configuration is strict and reads back");
    for text in [info.example, info.never] {
        let table = bench.table(text);
        let entry =
            |table| CacheEntry::from_table("example", table).unwrap_or_else(|e| panic!("{place}: {e}"));
        let write = |e: &CacheEntry| e.to_table().unwrap_or_else(|e| panic!("{place}: {e}"));
        let once = write(&entry(table.clone()));
        let twice = write(&entry(once.clone()));
        assert!(once == twice, "{place}: written as\n{once}\nit reads back as\n{twice}");
        let kept = keeps(&once.clone().into(), &table.clone().into());
        assert!(kept, "{place}: the table\n{table}\nis written as\n{once}");
        let plan = CachePlan::from_tables(vec![table.clone()], Residuals::default());
        let built = plan.and_then(|p| p.build(bench.toy.meta(), Some(&bench.trajectory)));
        if let Err(e) = built {
            panic!("{place}: {e}");
        }
        let mut wrong = table;
        wrong.insert("no_such_key".to_owned(), 1.into());
        match CacheEntry::from_table("example", wrong) {
            Err(ConfigError::UnknownKey { key, .. }) if key == "no_such_key" => {}
            Err(other) => panic!("{place}: an unknown key is reported as {other}"),
            Ok(_) => panic!("{place}: an unknown key is ignored"),
        }
    }
}

/// Whether `written` has every value of `read`; keys with their default may have been added.
fn keeps(written: &toml::Value, read: &toml::Value) -> bool {
    match (written, read) {
        (toml::Value::Table(written), toml::Value::Table(read)) => {
            read.iter().all(|(key, value)| written.get(key).is_some_and(|w| keeps(w, value)))
        }
        (toml::Value::Array(written), toml::Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(w, r)| keeps(w, r))
        }
        _ => written == read,
    }
}

fn runs(
    place: &str,
    bench: &Bench<'_>,
    session: Option<&mut Session>,
    trajectory: &Trajectory,
    seed: u64,
) -> Vec<Ran> {
    run(&bench.toy, session, trajectory, seed).unwrap_or_else(|e| panic!("{place}: {e}"))
}
