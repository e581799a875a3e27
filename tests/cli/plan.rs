//! Targets, planned schedules and the output of `pareto`, as a user meets them.

use std::{fs, sync::LazyLock};

use magcache_core::profile::{PlannedSchedule, Profile, ScheduleSet};
use serde_json::{Value, json};

use crate::program::{Shell, list, skipped};

const SMALL: &str = "--model tiny-flux --steps 9 --size 48x32";

/// A folder with `p.toml`, calibrated once for all tests.
static MEASURED: LazyLock<Shell> = LazyLock::new(|| {
    let sh = Shell::new();
    sh.answer(format!("calibrate {SMALL} --prompt 'a red circle' --seeds 1,2 --out p.toml"));
    // The cost of a skipped step is measured time, which a test cannot depend on.
    let text = sh.text("p.toml");
    let timed = |line: &str| line.starts_with("skipped_cost = ");
    assert_eq!(text.lines().filter(|line| timed(line)).count(), 1);
    let fixed = text.lines().map(|line| if timed(line) { "skipped_cost = 0.05" } else { line });
    sh.write("p.toml", fixed.collect::<Vec<_>>().join("\n"));
    sh
});

/// A separate folder for one test, with a copy of the profile.
fn measured() -> Shell {
    let sh = Shell::new();
    for file in ["p.toml", "p.safetensors"] {
        fs::copy(MEASURED.path(file), sh.path(file)).unwrap();
    }
    sh
}

fn profile(sh: &Shell, name: &str) -> Profile {
    Profile::find(&sh.path(name).display().to_string()).unwrap()
}

fn plans(sh: &Shell) -> ScheduleSet {
    let [plans] = <[ScheduleSet; 1]>::try_from(profile(sh, "p.toml").plans).unwrap();
    plans
}

/// The answer of `schedule` with the measured profile.
fn asked(sh: &Shell, more: &str) -> Value {
    sh.answer(format!("schedule {SMALL} --profile p.toml {more}"))
}

#[test]
fn a_calibration_plans_a_schedule_for_every_number_of_steps() {
    let plans = plans(&measured());
    assert_eq!((plans.steps, plans.flow_shift, plans.boundary_ratio), (9, None, None));
    let counts: Vec<usize> = plans.schedules.iter().map(|s| s.computed).collect();
    assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8]);
    // One skip fewer is never predicted to be worse.
    assert!(plans.schedules.is_sorted_by(|a, b| a.error > b.error), "{:?}", plans.schedules);
}

#[test]
fn a_target_chooses_the_planned_schedule() {
    let sh = measured();
    let plans = plans(&sh);
    let found = asked(&sh, "--budget 5");
    let five = &plans.schedules[4];
    assert_eq!(found["skipped"]["cond"], json!(five.skip));
    assert_eq!((&found["planned"]["computed"], &found["strategy"]), (&5.0.into(), &"schedule".into()));

    let nearest = |times: f64| {
        let off = |s: &&PlannedSchedule| (plans.speedup(s.computed) / times).ln().abs();
        plans.schedules.iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap()
    };
    for times in [1.2, 1.8, 2.5] {
        let found = asked(&sh, &format!("--speedup {times}"));
        assert_eq!(found["planned"]["computed"].as_f64().unwrap(), nearest(times).computed as f64, "{times}");
        let off = (found["planned"]["speedup"].as_f64().unwrap() / times - 1.0).abs();
        assert_eq!(found["planned"]["short"].is_null(), off <= 0.05, "{found}");
    }
    let missed = asked(&sh, "--speedup 80");
    assert!(missed["planned"]["short"].as_str().unwrap().starts_with("80x cannot be had: the nearest is "));

    let wanted = five.predicted_psnr() - 1e-6;
    let found = asked(&sh, &format!("--psnr {wanted}"));
    let first = plans.schedules.iter().find(|s| s.predicted_psnr() >= wanted).unwrap();
    assert_eq!(found["skipped"]["cond"], json!(first.skip));
    assert_eq!(found["planned"]["psnr_grounds"], "predicted");
}

#[test]
fn targets_agree_where_only_some_schedules_were_measured() {
    let sh = measured();
    let mut profile = profile(&sh, "p.toml");
    let five = &mut profile.plans[0].schedules[4];
    // Far above every prediction, as measured values usually are.
    (five.psnr, five.psnr_error) = (Some(five.predicted_psnr() + 20.0), Some(0.5));
    sh.write("p.toml", profile.to_toml().unwrap());
    let plans = plans(&sh);
    let target = |flag: &str, value: f64| {
        let planned = asked(&sh, &format!("{flag} {value}"))["planned"].clone();
        (planned["computed"].as_f64().unwrap(), planned["psnr"].as_f64().unwrap(), planned)
    };
    let mut before = 0.0;
    for schedule in &plans.schedules {
        let computed = schedule.computed as f64;
        let (_, psnr, planned) = target("--budget", computed);
        assert!(
            psnr >= before,
            "{computed} computed steps are expected to be worse: {psnr} below {before} dB"
        );
        before = psnr;
        assert_eq!(target("--speedup", plans.speedup(schedule.computed)).1, psnr, "{computed}");
        // What is read from JSON may be off by the last bit.
        let wanted = psnr - 1e-9;
        let (fewest, reached, _) = target("--psnr", wanted);
        assert!(fewest <= computed && reached >= wanted, "{fewest} of {computed}, {reached} of {psnr} dB");
        let measured = schedule.computed == 5;
        assert_eq!(planned["psnr_grounds"], if measured { "measured" } else { "calibrated" });
        assert_eq!(planned["psnr_within"].as_f64(), measured.then_some(0.5));
    }
}

#[test]
fn a_target_sets_the_threshold_of_a_strategy_that_is_named() {
    let sh = measured();
    for budget in [5, 6, 7] {
        let found = asked(&sh, &format!("--cache magcache --budget {budget}"));
        assert_eq!(9 - skipped(&found, "cond").len(), budget);
        assert_eq!(found["strategy"], "magcache");
    }
}

#[test]
fn an_exported_schedule_replays_to_the_same_bytes() {
    let sh = measured();
    for file in ["five.toml", "five.json"] {
        asked(&sh, &format!("--budget 5 --export {file}"));
    }
    let skip = plans(&sh).schedules[4].skip.clone();
    let mask: Vec<u8> = serde_json::from_str(&sh.text("five.json")).unwrap();
    assert_eq!(mask, (0..9).map(|step| u8::from(!skip.contains(&step))).collect::<Vec<_>>());

    let run = |more: &str| sh.answer(format!("run {SMALL} {more}"));
    let target = run("--profile p.toml --budget 5 --out a.png");
    assert_eq!(target["skipped"]["cond"], json!(skip));
    assert!(target["config"].get("target").is_none(), "{}", target["config"]);
    run("--cache replay:five.toml --out b.png");
    // The file next to the output is all that a rerun needs.
    sh.answer("run --config a.png.toml --out c.png");
    let masked = run("--cache replay:five.json --out m.png");
    assert_eq!(masked["skipped"], target["skipped"]);
    sh.write("wanted.toml", "[target]\nbudget = 5\nprofile = 'p.toml'\n");
    let filed = run("--config wanted.toml --out f.png");
    assert_eq!(filed["skipped"], target["skipped"]);
    for again in ["b.png", "c.png", "f.png"] {
        assert!(sh.same("a.png", again), "{again}");
    }
}

#[test]
fn targets_that_cannot_be_met_say_what_can() {
    let sh = measured();
    sh.write("mask.json", "[1, 2]");
    sh.write("two.toml", "[[cache]]\nstrategy = 'fbcache'\n");
    sh.write("both.toml", "[target]\nbudget = 5\npsnr = 30.0\n");
    let cases: [(&str, &[&str]); 17] = [
        ("run P --budget 9", &["no schedule computes 9 of 9 steps", "--budget 8"]),
        ("run P --psnr 500", &["500 dB cannot be had", "hint"]),
        ("run P --speedup 0.5", &["`speedup` is 0.5"]),
        ("run P --psnr=-3", &["`psnr` is -3"]),
        ("run P --budget 5 --speedup 2", &["cannot be used with"]),
        ("run P --config both.toml", &["a target is one of"]),
        (
            "schedule P --budget 5 --flow-shift 7",
            &["no schedules for 9 steps at flow_shift 7", "it has those for 9 steps"],
        ),
        ("run P --budget 5 --cache fbcache", &["\"fbcache\" decides from what it sees", "leave out --cache"]),
        (
            "run P --budget 5 --cache schedule --set skip=[2]",
            &["\"schedule\" has no key that a target could set", "leave out --cache"],
        ),
        (
            "run P --budget 5 --cache cfg-cache --true-cfg 3",
            &["\"cfg-cache\" has no key that a target could set"],
        ),
        (
            "run P --budget 5 --cache magcache --set threshold=0.2",
            &["`threshold` of \"magcache\" is 0.2, and a target would set it", "leave out one of them"],
        ),
        ("run P --psnr 30 --cache magcache", &["known only after a run", "leave out --cache"]),
        ("run P --cache replay:mask.json", &["a compute mask holds 0 and 1, not 2"]),
        ("run P --cache replay:two.toml", &["strategy = \"schedule\"", "--export"]),
        ("schedule P --cache magcache --export x.txt", &["x.txt", ".toml or .json"]),
        ("schedule --cache fbcache --export x.toml", &["decides from what it sees"]),
        ("calibrate --budget 5", &["a target is given"]),
    ];
    for (line, expected) in cases {
        let line = line.replace(" P ", " --profile p.toml ");
        sh.refused(format!("{line} {SMALL}"), expected.iter().copied());
    }
}

#[test]
fn a_pareto_table_has_everyone_on_the_same_axes() {
    let sh = measured();
    let pareto = "--profile p.toml --prompt 'a blue square' --seeds 3,4 --budgets 5,7 --search 1";
    let found = sh.answer(format!("pareto {SMALL} {pareto} --plot curves.svg --save measured.toml"));
    let row = |name: &str, budget: u64| {
        let own = |row: &&Value| row["name"] == name && row["budget"] == budget;
        list(&found["rows"]).iter().find(own).unwrap_or_else(|| panic!("{name} {budget}"))
    };
    let psnr = |name: &str, budget: u64| row(name, budget)["psnr"].as_f64().unwrap();
    for budget in [5, 7] {
        for name in ["planner", "planner, reuse", "fewer steps"] {
            let row = row(name, budget);
            let ran = (row["runs"].as_u64(), row["computed"].as_f64());
            assert_eq!(ran, (Some(2), Some(budget as f64)), "{row}");
            assert!(psnr(name, budget) > 10.0 && row["ssim"].as_f64().unwrap() <= 1.0, "{row}");
        }
        let above = psnr("planner", budget) - psnr("fewer steps", budget);
        assert!((row("planner", budget)["above_fewer_steps"].as_f64().unwrap() - above).abs() < 1e-9);
        assert_eq!(row("fewer steps", budget)["above_fewer_steps"], 0.0);
    }
    // Fewer computed steps end farther from the dense run.
    assert!(psnr("planner", 5) < psnr("planner", 7));
    let text = sh.text("curves.svg");
    assert!(text.contains("fewer steps") && text.contains("planner, reuse"));

    let saved = profile(&sh, "measured.toml");
    let five = &saved.plans[0].schedules[4];
    let reached = five.psnr.unwrap();
    assert!((reached - psnr("planner", 5)).abs() < 1e-9);
    assert!(saved.plans[0].schedules[3].psnr.is_none());

    // A measured PSNR can be the target of a run, which then is the schedule that was measured.
    let run = format!("run {SMALL} --prompt 'a blue square' --seed 3 --profile measured.toml");
    let done = sh.answer(format!("{run} --psnr {reached} --out x.png"));
    assert_eq!(done["skipped"]["cond"], json!(five.skip));
    assert_eq!(done["planned"]["psnr_grounds"], "measured");

    sh.refused(format!("pareto {SMALL} --budgets 9"), ["a budget of 9", "1 to 8"]);
    sh.refused(format!("pareto {SMALL} --cache magcache"), ["every contender has its own"]);
    sh.refused(format!("pareto {SMALL} --save y.toml --budgets 5"), ["--profile FILE.toml"]);
    let near = ["unknown strategy \"magcach\"", "did you mean \"magcache\"?"];
    sh.refused(format!("pareto {SMALL} --profile p.toml --strategies magcach"), near);
}
