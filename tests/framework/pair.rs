//! Two experts: what is kept apart, what is freed, and caches that act in only one of them.

use magcache_core::log::DecisionLog;

use crate::prelude::*;

/// Twelve steps, the first five of them by the high-noise expert.
fn steps() -> Trajectory {
    let phases = phases(&[5, 7]);
    Trajectory { boundary_ratio: Some(0.6), ..guided(12).with_phases(phases) }
}

fn pair() -> ModelMeta {
    ModelMeta { experts: (&["high-noise", "low-noise"]).into(), ..simple("pair", 4) }
}

fn plan(text: &str) -> Result<DecisionLog, ConfigError> {
    let built = build(text, &pair(), &steps())?;
    Ok(simulate(&built.registry, &pair(), &steps()).expect("is static"))
}

fn skipped(log: &DecisionLog) -> Vec<usize> {
    let cond = log.records().iter().filter(|r| r.reused && r.branch == Branch::Cond);
    cond.map(|r| r.step).collect()
}

const SCHEDULE: &str = "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 5, 6, 8, 9]\n";

#[test]
fn a_cache_acts_in_the_experts_that_it_names() {
    let of = |experts: &str| skipped(&plan(&format!("{SCHEDULE}{experts}")).unwrap());
    assert_eq!(of(""), [2, 3, 6, 8, 9], "step 5 is the first of its phase");
    assert_eq!(of("experts = [\"high-noise\", \"low-noise\"]"), [2, 3, 6, 8, 9]);
    assert_eq!(of("experts = [\"high-noise\"]"), [2, 3]);
    assert_eq!(of("experts = [\"low-noise\"]"), [6, 8, 9]);
}

#[test]
fn each_expert_may_have_a_cache_of_its_own_on_the_same_blocks() {
    let table = |expert: &str, skip: &str| {
        format!("[[cache]]\nstrategy = \"schedule\"\nskip = [{skip}]\nexperts = [\"{expert}\"]\n")
    };
    let log = plan(&(table("high-noise", "1, 2, 9") + &table("low-noise", "3, 7"))).unwrap();
    assert_eq!(skipped(&log), [1, 2, 7]);
    let hook = |step| log.records().iter().find(|r| r.step == step).map(|r| r.hook);
    assert_eq!((hook(4), hook(5)), (Some(HookId(0)), Some(HookId(1))));
    let shared = plan(&(table("high-noise", "1") + &table("high-noise", "2"))).unwrap_err().to_string();
    assert!(shared.contains("both surround the whole stack"), "{shared}");
    let error = plan(&format!("{SCHEDULE}experts = [\"low-nois\"]")).unwrap_err();
    assert!(error.to_string().contains("unknown expert \"low-nois\""), "{error}");
    assert_eq!(error.hint().as_deref(), Some("did you mean \"low-noise\"?"));
    let error = plan(&format!("{SCHEDULE}experts = []")).unwrap_err().to_string();
    assert!(error.contains("`experts` is empty"), "{error}");
}

#[test]
fn a_curve_of_one_expert_runs_over_its_phase() {
    // After the first value only the third is within the threshold: step 2 of the phase, because there are 7
    // values for 7 steps. That is step 7 of the run.
    let ratios =
        "ratios = [1.0, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5]\nthreshold = 0.01\nmax_skips = 1\nwarmup = 1\n";
    let table = format!("[[cache]]\nstrategy = \"magcache\"\n{ratios}experts = [\"low-noise\"]\n");
    assert_eq!(skipped(&plan(&table).unwrap()), [7]);
}

/// Decisions of TeaCache over a run of a pair with two fits: one whose signal never accumulates, and one
/// whose signal always does.
fn with_fits(experts: [&str; 2], more: &str) -> Result<Vec<usize>, ConfigError> {
    let fit = |expert: &str, value: f64| {
        format!(
            "[[fit]]\n{expert}\nsignal = \"modulated-input\"\ncoefficients = [0.0, {value:?}]\nwarmup = 1\n\
             last_steps = 0\nthresholds = [0.5]\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fits.toml");
    let profile = format!("name = \"fits\"\n{}{}", fit(experts[0], 0.0), fit(experts[1], 1.0));
    std::fs::write(&path, profile).unwrap();
    let text = format!("[[cache]]\nstrategy = \"teacache\"\nprofile = '{}'\n{more}", path.display());
    let mut session = build(&text, &pair(), &steps())?.registry.session();
    run(&Toy::image(4), Some(&mut session), &steps(), 1).unwrap();
    Ok(skipped(session.log()))
}

#[test]
fn each_expert_has_a_fit_of_its_own() {
    let (high, low) = (vec![1, 2, 3, 4], vec![6, 7, 8, 9, 10, 11]);
    let of = |experts: [&str; 2], more: &str| with_fits(experts, more).unwrap();
    assert_eq!(of(["expert = 0", "expert = 1"], ""), high);
    assert_eq!(of(["expert = 1", "expert = 0"], ""), low);
    assert_eq!(of(["", "expert = 0"], ""), low, "a fit without an expert serves the others");
    assert_eq!(of(["", "expert = 1"], ""), high);
    let error = with_fits(["expert = 1", "expert = 2"], "").unwrap_err();
    assert!(error.to_string().contains("no fit for the experts [\"high-noise\"]"), "{error}");
    assert_eq!(of(["expert = 1", "expert = 2"], "experts = [\"low-noise\"]\n"), low);
}

#[test]
fn an_expert_without_guidance_runs_one_branch() {
    let run = Trajectory { unguided: vec![Expert(1)], ..steps() };
    let built = build(SCHEDULE, &pair(), &run).unwrap();
    let log = simulate(&built.registry, &pair(), &run).unwrap();
    let uncond: Vec<usize> =
        log.records().iter().filter(|r| r.branch == Branch::Uncond).map(|r| r.step).collect();
    assert_eq!(uncond, [0, 1, 2, 3, 4]);
    assert_eq!(run.passes(), 17);
}

#[test]
fn a_finished_expert_leaves_no_bytes() {
    let toy = Toy::image(4);
    let mut session = around(4, Script::at([2, 3, 7, 8]).hook(0));
    let mut held = Vec::new();
    for step in steps().steps() {
        for branch in BOTH {
            run_pass(&toy, Some(&mut session), &step, branch, 1).unwrap();
        }
        held.push((session.slots().bytes(), session.slots().keys().all(|k| k.expert == step.expert)));
    }
    let (bytes, _) = held[0];
    assert!(bytes > 0);
    assert!(held.iter().all(|h| *h == (bytes, true)), "{held:?}");
    assert_eq!(session.slots().peak_bytes(), bytes);
}
