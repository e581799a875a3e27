//! Audited reuse: the reported error is the true one, nothing else changes, and a drift budget acts at the
//! step where it is exceeded.

use magcache_core::log::{AuditPolicy, OnDrift, Record};

use crate::prelude::*;

fn audited(fraction: f64) -> AuditPolicy {
    AuditPolicy { fraction, ..AuditPolicy::default() }
}

/// `[output L1, output L2, residual L1, residual L2]`, summed directly over the values.
fn errors(base: &Tensor, guess: &Tensor, truth: &Tensor) -> [f64; 4] {
    let (base, guess, truth) = (values(base), values(guess), values(truth));
    let relative = |of: &dyn Fn(usize) -> f64| {
        let difference = |i: usize| guess[i] - truth[i];
        let all = || 0..base.len();
        let l1 = all().map(|i| difference(i).abs()).sum::<f64>() / all().map(|i| of(i).abs()).sum::<f64>();
        let l2 =
            all().map(|i| difference(i).powi(2)).sum::<f64>() / all().map(|i| of(i).powi(2)).sum::<f64>();
        [l1, l2.sqrt()]
    };
    let ([a, b], [c, d]) = (relative(&|i| truth[i]), relative(&|i| truth[i] - base[i]));
    [a, b, c, d]
}

#[track_caller]
fn assert_errors(record: &Record, expected: [f64; 4]) {
    let audit = record.audit.unwrap_or_else(|| panic!("not audited: {record:?}"));
    let got = [audit.output_l1, audit.output_l2, audit.residual_l1, audit.residual_l2];
    for (got, want) in got.iter().zip(expected) {
        assert!((got - want).abs() < 2e-5 * want && want > 1e-4, "{got} where {expected:?}: {record:?}");
    }
}

/// The passes that reused something, each with the same pass without hooks and with the one before that.
fn reusing(toy: &Toy, session: &mut Session) -> Vec<[Ran; 3]> {
    let ran = run(toy, Some(session), &guided(12), 1).unwrap();
    let plain = run(toy, None, &guided(12), 1).unwrap();
    let reused = (1..ran.len()).filter(|i| ran[*i].records[0].reused);
    reused.map(|i| [&ran[i], &plain[i], &plain[i - 1]].map(Clone::clone)).collect()
}

#[test]
fn the_error_of_blocks_is_the_distance_to_what_they_give() {
    for toy in [Toy::image(6), dual(2, 4)] {
        let builder = rings(6, [(0..6, Script::at([3, 4, 7, 9]).window(1, 1).hook(0))]);
        let passes = reusing(&toy, &mut builder.audit(audited(1.0)).build().session());
        assert_eq!(passes.len(), 8);
        for [ran, plain, _] in passes {
            let image = |streams: &Streams| streams.image().unwrap();
            let entered = image(&ran.blocks.iter().rfind(|b| b.block == 5).unwrap().input);
            let [base, truth] = [1, 4].map(|i| &plain.blocks[i]);
            assert_errors(&ran.records[0], errors(&image(&base.input), &entered, &image(&truth.output)));
        }
    }
}

#[test]
fn the_error_of_a_forward_is_the_distance_to_its_prediction() {
    let builder = HookRegistry::builder(4).forward(Script::at([3, 5, 6]).hook(0));
    let passes = reusing(&Toy::image(4), &mut builder.audit(audited(1.0)).build().session());
    assert_eq!(passes.len(), 6);
    for [ran, plain, _] in passes {
        assert_errors(&ran.records[0], errors(&ran.input, &ran.output, &plain.output));
    }
}

#[test]
fn the_error_of_a_branch_is_the_distance_to_its_own_prediction() {
    let toy = Toy::image(4);
    let table = "[[cache]]\nstrategy = 'cfg-cache'\ninterval = 3\nstart = 1\n[audit]\nfraction = 1.0";
    let passes = reusing(&toy, &mut session(table, toy.meta(), &guided(12)));
    assert_eq!(passes.len(), 8);
    for [ran, plain, cond] in passes {
        assert_errors(&ran.records[0], errors(&cond.output, &ran.output, &plain.output));
    }
}

/// One block that multiplies a stream of ones by the step number plus one, inside a module.
fn times(session: &mut Session, index: usize, branch: Branch) -> f64 {
    let ones = Tensor::ones((1, 2, 4), DType::F32, &Device::Cpu).unwrap();
    let by = 1.0 + index as f64;
    let block = |_, x: Streams, modules: &mut Modules<'_>| modules.module("mixer", x, |x| x.map(|x| x * by));
    let mut pass = session.pass(&Step::plain(index, 20), branch);
    let y = pass.run_modules(1, &no_signals, Streams::Image(ones), block).unwrap();
    values(&y.into_image().unwrap())[0]
}

fn times_session(text: &str) -> Session {
    let model = ModelMeta { modules: (&["mixer"]).into(), ..simple("times", 1) };
    let run = guided(20);
    session(text, &model, &run)
}

#[test]
fn the_error_of_a_module_is_the_distance_to_its_output() {
    let mut session = times_session(
        "[[cache]]\nstrategy = \"schedule\"\nat = \"mixer\"\nskip = [2]\n[audit]\nfraction = 1.0",
    );
    for step in 0..3 {
        times(&mut session, step, Branch::Cond);
    }
    // The output of step 1 (2) replaces the true 3, so the residual is 1 instead of 2.
    let audit = session.log().records()[2].audit.unwrap();
    assert!((audit.output_l1 - 1.0 / 3.0).abs() < 1e-12 && (audit.output_l2 - 1.0 / 3.0).abs() < 1e-12);
    assert!((audit.residual_l1 - 0.5).abs() < 1e-12 && (audit.residual_l2 - 0.5).abs() < 1e-12);
}

#[test]
fn reuse_that_is_exact_has_no_error() {
    // An integer residual that is the same at every step, and an all-zero one.
    for added in [3.0, 0.0] {
        let builder = rings(2, [(0..2, Script::at([2, 3, 5]).hook(0))]);
        let mut session = builder.audit(audited(1.0)).build().session();
        for index in 0..7 {
            let x = Tensor::full(index as f32, (1, 2, 4), &Device::Cpu).unwrap();
            let mut pass = session.pass(&Step::plain(index, 7), Branch::Cond);
            pass.run(2, &no_signals, Streams::Image(x), |_, x| x.map(|x| x + added)).unwrap();
        }
        let audits: Vec<_> = session.log().records().iter().filter_map(|r| r.audit).collect();
        assert_eq!(audits.len(), 3);
        assert!(audits.iter().all(|a| [a.output_l1, a.output_l2, a.residual_l1, a.residual_l2] == [0.0; 4]));
    }
}

/// Nested tables that skip, at every level.
const NESTED: [&str; 4] = [
    "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 3\nstart = 1\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nema = 0.5",
    "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.3\n[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nthreshold = 0.5\nwarmup = 2",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [4, 5, 8]\nforecast = { type = \"taylor\" }\nat = \"0..3\"\n[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nthreshold = 0.3\nat = \"0..2\"\nsignal = \"modulated-input\"\n[residuals]\ndtype = \"bf16\"",
    "[[cache]]\nstrategy = \"schedule\"\nat = \"forward\"\nskip = [3, 6, 7]\n[[cache]]\nstrategy = \"magcache\"\nthreshold = 0.3\nratios = [1.0, 0.99, 0.98, 0.97]\nbranches = \"cond-decides\"",
];

#[test]
fn an_audit_changes_no_output_and_no_decision() {
    let tables: Vec<String> = strategies().iter().map(|s| format!("[[cache]]\n{}", s.example)).collect();
    for toy in [Toy::image(12), dual(4, 8)] {
        for table in tables.iter().map(String::as_str).chain(NESTED) {
            let mut plain = session(table, toy.meta(), &guided(12));
            let expected = run(&toy, Some(&mut plain), &guided(12), 1).unwrap();
            for fraction in [0.3, 1.0] {
                let table = format!("{table}\n[audit]\nfraction = {fraction:?}");
                let mut session = session(&table, toy.meta(), &guided(12));
                assert_same(&run(&toy, Some(&mut session), &guided(12), 1).unwrap(), &expected, &table);
                let without = |r: &Record| Record { audit: None, ..r.clone() };
                let decided: Vec<Record> = session.log().records().iter().map(without).collect();
                assert_eq!(decided, plain.log().records(), "{table}");
                let counts = |s: &Session| (s.slots().bytes(), s.slots().peak_bytes(), s.slots().evicted());
                assert_eq!(counts(&session), counts(&plain), "{table}");
                let own = |r: &&Record| r.reused && r.why != Why::OuterCache;
                let reused = session.log().records().iter().filter(own).count();
                let audits = session.log().records().iter().filter(|r| r.audit.is_some()).count();
                assert!(reused > 0 && audits <= reused && (fraction < 1.0 || audits == reused), "{table}");
            }
        }
    }
}

#[test]
fn hooks_inside_see_a_skip_and_nothing_else() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let toy = Toy::image(4);
    let witness = Arc::new(Witness("inner", Arc::clone(&notes)));
    let builder = rings(4, [(0..4, Script::at([1, 2]).window(1, 0).hook(0)), (0..4, witness)]);
    let mut session = builder.audit(audited(1.0)).build().session();
    for index in 0..3 {
        said(&notes);
        let ran = run_pass(&toy, Some(&mut session), &guided(12).step(index), Branch::Cond, 1).unwrap();
        assert_eq!(ran.blocks.len(), 4, "the blocks of step {index} really ran");
    }
    assert_eq!(said(&notes), ["inner in 0..1 forced", "inner out 0..1", "inner skipped 1..4"]);
}

/// Every step but the first, for the block of `times`.
fn schedule(keys: &str) -> Session {
    let skip: Vec<usize> = (1..20).collect();
    times_session(&format!("[[cache]]\nstrategy = 'schedule'\nskip = {skip:?}\n{keys}"))
}

/// The outputs of the first passes, and how each was decided: `s` skipped, `d` computed because of the drift,
/// `w` in the warm-up.
fn outcome(session: &mut Session, passes: usize) -> (Vec<f64>, String) {
    let outputs = (0..passes).map(|index| times(session, index, Branch::Cond)).collect();
    let letter = |r: &Record| match (r.reused, r.why) {
        (true, Why::Scheduled) => 's',
        (false, Why::DriftBudget) => 'd',
        (false, Why::Warmup) => 'w',
        other => panic!("{other:?}"),
    };
    (outputs, session.log().records().iter().map(letter).collect())
}

#[test]
fn a_budget_disables_at_the_step_that_passes_it() {
    // The output of step 0 is reused: errors of 1/2 at step 1 and 2/3 at step 2 add up to more than 1.
    let policy = "[audit]\nfraction = 1.0\ndrift_budget = 1.0\non_drift = 'disable'";
    let (outputs, decided) = outcome(&mut schedule(policy), 6);
    assert_eq!((outputs, decided.as_str()), (vec![1.0, 1.0, 3.0, 4.0, 5.0, 6.0], "wsdddd"));
    let half = policy.replace("fraction = 1.0", "fraction = 0.5");
    for (audit, decided) in [
        // With 3/4 at step 3 the sum is 1.92.
        (policy.replace("budget = 1.0", "budget = 1.16"), "wsddd"),
        (policy.replace("budget = 1.0", "budget = 1.17"), "wssdd"),
        // Every second reuse is audited (the first and the third) and counts twice: 1, then 1 + 1.5.
        (half.clone(), "wssdd"),
        (half.replace("budget = 1.0", "budget = 2.4"), "wssdd"),
        (policy.replace("disable", "report"), "wssss"),
    ] {
        assert_eq!(outcome(&mut schedule(&audit), 5).1, decided, "{audit}");
    }
}

#[test]
fn a_budget_tightens_at_the_step_that_passes_it() {
    let policy = "[audit]\nfraction = 1.0\ndrift_budget = 1.0\non_drift = 'tighten'";
    let mut session = schedule(policy);
    let (outputs, decided) = outcome(&mut session, 8);
    // Two skips in a row so far; from here on only one, which reuses the output of step 2, and so on.
    assert_eq!((outputs, decided.as_str()), (vec![1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 7.0, 7.0], "wsdsdsds"));
    let audited: Vec<bool> = session.log().records().iter().map(|r| r.audit.is_some()).take(5).collect();
    assert_eq!(audited, [false, true, true, true, false], "a pass that is forbidden is not audited");
    // If the first skip already exceeds the budget, there are no more skips.
    let strict = policy.replace("budget = 1.0", "budget = 0.4");
    assert_eq!(outcome(&mut schedule(&strict), 5).1, "wdddd");
    // If the table sets `max_skips`, that is what is halved.
    assert_eq!(outcome(&mut schedule(&format!("max_skips = 5\n{strict}")), 5).1, "wdsds");
}

#[test]
fn neither_an_error_nor_an_eviction_forgets_a_drift() {
    let toy = Toy::image(4);
    let one = alone(12);
    for (residuals, fault) in [("", true), ("[residuals]\nbudget = \"300\"", false)] {
        let table = format!(
            "[[cache]]\nstrategy = \"schedule\"\nskip = [1, 3, 5, 7, 9]\nforecast = {{ type = \"taylor\" }}\n[audit]\nfraction = 1.0\ndrift_budget = 0.0\n\
             on_drift = \"disable\"\n{residuals}"
        );
        let mut session = session(&table, toy.meta(), &one);
        for step in one.steps() {
            toy.set_fault((fault && step.index == 5).then_some((1, Fault::Error)));
            assert_eq!(
                run_pass(&toy, Some(&mut session), &step, Branch::Cond, 1).is_err(),
                fault && step.index == 5
            );
        }
        toy.set_fault(None);
        assert_eq!(session.slots().evicted() > 0, !fault);
        let decided = session.log().records();
        assert!(decided.iter().all(|r| !r.reused), "{:#?}", transcript(session.log()));
        assert!(
            decided.iter().filter(|r| r.why == Why::DriftBudget).count() > 2,
            "{:#?}",
            transcript(session.log())
        );
    }
}

#[test]
fn a_branch_that_follows_is_audited_with_its_leader_and_has_a_drift_of_its_own() {
    let mut session = schedule("branches = 'cond-decides'\n[audit]\nfraction = 0.4");
    for index in 0..12 {
        for branch in BOTH {
            times(&mut session, index, branch);
        }
    }
    let of = |branch| {
        let own = session.log().records().iter().filter(move |r| r.branch == branch && r.audit.is_some());
        own.map(|r| r.step).collect::<Vec<_>>()
    };
    assert_eq!(of(Branch::Cond), [2, 4, 7, 9]);
    assert_eq!(of(Branch::Uncond), of(Branch::Cond));
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    for (text, expected) in [
        ("fraction = 1.5", "`fraction` is 1.5, it must be between 0 and 1"),
        ("fraction = nan", "`fraction` is NaN"),
        ("fraction = 0.1\ndrift_budget = -1.0", "`drift_budget` is -1"),
        ("drift_budget = 1.0", "`fraction` is 0: nothing is measured"),
        ("fraction = 0.1\non_drift = \"disable\"", "`on_drift` acts on a drift budget and there is none"),
        ("fraction = 0.1\nbudget = 1.0", "unknown key `budget`"),
    ] {
        let built = build(&format!("[audit]\n{text}"), &simple("toy", 2), ANY);
        let error = built.unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert_eq!(OnDrift::default(), OnDrift::Report);
}
