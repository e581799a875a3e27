//! Targets, planned schedules and the output of `pareto`, as a user meets them.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path, sync::LazyLock};

use magcache_core::profile::{PlannedSchedule, Plans, Profile};
use serde_json::Value;
use tempfile::TempDir;

use program::{answer, magcache, refused};

const SMALL: [&str; 6] = ["--model", "tiny-flux", "--steps", "9", "--size", "48x40"];

/// A folder with `p.toml`, calibrated once for all tests.
static MEASURED: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let calibrate = ["calibrate", "--prompt", "a red circle", "--seeds", "1,2", "--out", "p.toml"];
    answer(&[&calibrate[..], &SMALL].concat(), dir.path());
    // The cost of a skipped step is measured time, which a test cannot depend on.
    let path = dir.path().join("p.toml");
    let text = fs::read_to_string(&path).unwrap();
    let timed = |line: &str| line.starts_with("skipped_cost = ");
    assert_eq!(text.lines().filter(|line| timed(line)).count(), 1);
    let fixed = text.lines().map(|line| if timed(line) { "skipped_cost = 0.05" } else { line });
    fs::write(path, fixed.collect::<Vec<_>>().join("\n")).unwrap();
    dir
});

/// A separate folder for one test, with a copy of the profile.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["p.toml", "p.safetensors"] {
        fs::copy(MEASURED.path().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn plans(folder: &Path) -> Plans {
    let profile = Profile::find(&folder.join("p.toml").display().to_string()).unwrap();
    <[Plans; 1]>::try_from(profile.plans).unwrap().into_iter().next().unwrap()
}

fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&more[..1], &SMALL, &more[1..]].concat()
}

fn steps(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|step| step.as_u64().unwrap() as usize).collect()
}

#[test]
fn a_calibration_plans_a_schedule_for_every_number_of_steps() {
    let dir = folder();
    let plans = plans(dir.path());
    assert_eq!((plans.steps, plans.flow_shift, plans.boundary_ratio), (9, None, None));
    let counts: Vec<usize> = plans.schedules.iter().map(|s| s.computed).collect();
    assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8]);
    // One skip fewer is never predicted to be worse.
    assert!(plans.schedules.is_sorted_by(|a, b| a.error > b.error), "{:?}", plans.schedules);
}

#[test]
fn a_target_chooses_the_planned_schedule() {
    let dir = folder();
    let d = dir.path();
    let plans = plans(d);
    let asked = |more: &[&str]| answer(&small(&[&["schedule", "--profile", "p.toml"], more].concat()), d);
    let found = asked(&["--budget", "5"]);
    let five = &plans.schedules[4];
    assert_eq!(steps(&found["skipped"]["cond"]), five.skip);
    assert_eq!((&found["planned"]["computed"], &found["strategy"]), (&5.0.into(), &"schedule".into()));

    let nearest = |times: f64| {
        let off = |s: &&PlannedSchedule| (plans.speedup(s.computed) / times).ln().abs();
        plans.schedules.iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap()
    };
    for times in [1.2, 1.8, 2.5] {
        let found = asked(&["--speedup", &times.to_string()]);
        assert_eq!(found["planned"]["computed"].as_f64().unwrap(), nearest(times).computed as f64, "{times}");
        let off = (found["planned"]["speedup"].as_f64().unwrap() / times - 1.0).abs();
        assert_eq!(found["planned"]["short"].is_null(), off <= 0.05, "{found}");
    }
    let missed = asked(&["--speedup", "80"]);
    assert!(missed["planned"]["short"].as_str().unwrap().starts_with("80x cannot be had: the nearest is "));

    let wanted = five.predicted_psnr() - 1e-6;
    let found = asked(&["--psnr", &wanted.to_string()]);
    let first = plans.schedules.iter().find(|s| s.predicted_psnr() >= wanted).unwrap();
    assert_eq!(steps(&found["skipped"]["cond"]), first.skip);
    assert_eq!(found["planned"]["psnr_grounds"], "predicted");
}

#[test]
fn targets_agree_where_only_some_schedules_were_measured() {
    let dir = folder();
    let d = dir.path();
    let path = d.join("p.toml");
    let mut profile = Profile::find(&path.display().to_string()).unwrap();
    let five = &mut profile.plans[0].schedules[4];
    // Far above every prediction, as measured values usually are.
    (five.psnr, five.psnr_error) = (Some(five.predicted_psnr() + 20.0), Some(0.5));
    fs::write(&path, toml::to_string(&profile).unwrap()).unwrap();
    let plans = plans(d);
    let asked = |flag: &str, value: f64| {
        let found = answer(&small(&["schedule", "--profile", "p.toml", flag, &value.to_string()]), d);
        let planned = &found["planned"];
        (planned["computed"].as_f64().unwrap(), planned["psnr"].as_f64().unwrap(), planned.clone())
    };
    let mut before = 0.0;
    for schedule in &plans.schedules {
        let computed = schedule.computed as f64;
        let (_, psnr, planned) = asked("--budget", computed);
        assert!(
            psnr >= before,
            "{computed} computed steps are expected to be worse: {psnr} below {before} dB"
        );
        before = psnr;
        assert_eq!(asked("--speedup", plans.speedup(schedule.computed)).1, psnr, "{computed}");
        let (fewest, reached, _) = asked("--psnr", psnr);
        assert!(fewest <= computed && reached >= psnr, "{fewest} of {computed}, {reached} of {psnr} dB");
        let measured = schedule.computed == 5;
        assert_eq!(planned["psnr_grounds"], if measured { "measured" } else { "calibrated" });
        assert_eq!(planned["psnr_within"].as_f64(), measured.then_some(0.5));
    }
}

#[test]
fn a_target_sets_the_threshold_of_a_strategy_that_is_named() {
    let dir = folder();
    for budget in ["5", "6", "7"] {
        let found = answer(
            &small(&["schedule", "--profile", "p.toml", "--cache", "magcache", "--budget", budget]),
            dir.path(),
        );
        assert_eq!(9 - steps(&found["skipped"]["cond"]).len(), budget.parse::<usize>().unwrap());
        assert_eq!(found["strategy"], "magcache");
    }
}

#[test]
fn an_exported_schedule_replays_to_the_same_bytes() {
    let dir = folder();
    let d = dir.path();
    let plan = ["schedule", "--profile", "p.toml", "--budget", "5", "--export"];
    for file in ["five.toml", "five.json"] {
        answer(&small(&[&plan[..], &[file]].concat()), d);
    }
    let skip = plans(d).schedules[4].skip.clone();
    let mask: Vec<u8> = serde_json::from_str(&fs::read_to_string(d.join("five.json")).unwrap()).unwrap();
    assert_eq!(mask, (0..9).map(|step| u8::from(!skip.contains(&step))).collect::<Vec<_>>());

    let target = answer(&small(&["run", "--profile", "p.toml", "--budget", "5", "--out", "a.png"]), d);
    assert_eq!(steps(&target["skipped"]["cond"]), skip);
    assert!(target["config"].get("target").is_none(), "{}", target["config"]);
    answer(&small(&["run", "--cache", "replay:five.toml", "--out", "b.png"]), d);
    // The file next to the output is all that a rerun needs.
    answer(&["run", "--config", "a.png.toml", "--out", "c.png"], d);
    let masked = answer(&small(&["run", "--cache", "replay:five.json", "--out", "m.png"]), d);
    assert_eq!(masked["skipped"], target["skipped"]);
    let bytes = |file: &str| fs::read(d.join(file)).unwrap();
    assert!(bytes("a.png") == bytes("b.png") && bytes("a.png") == bytes("c.png"));

    fs::write(d.join("wanted.toml"), "[target]\nbudget = 5\nprofile = \"p.toml\"\n").unwrap();
    let filed = answer(&small(&["run", "--config", "wanted.toml", "--out", "f.png"]), d);
    assert_eq!(filed["skipped"], target["skipped"]);
    assert!(bytes("a.png") == bytes("f.png"));
}

#[test]
fn targets_that_cannot_be_met_say_what_can() {
    let dir = folder();
    let d = dir.path();
    fs::write(d.join("mask.json"), "[1, 2]").unwrap();
    fs::write(d.join("two.toml"), "[[cache]]\nstrategy = \"fbcache\"\n").unwrap();
    fs::write(d.join("both.toml"), "[target]\nbudget = 5\npsnr = 30.0\n").unwrap();
    let cases: [(&[&str], &[&str]); 15] = [
        (&["--budget", "9"], &["no schedule computes 9 of 9 steps", "--budget 8"]),
        (&["--psnr", "500"], &["500 dB cannot be had", "hint"]),
        (&["--speedup", "0.5"], &["`speedup` is 0.5"]),
        (&["--psnr=-3"], &["`psnr` is -3"]),
        (&["--budget", "5", "--speedup", "2"], &["cannot be used with"]),
        (&["--config", "both.toml"], &["a target is one of"]),
        (
            &["--budget", "5", "--flow-shift", "7"],
            &["no schedules for 9 steps at flow_shift 7", "it has those for 9 steps"],
        ),
        (
            &["--budget", "5", "--cache", "fbcache"],
            &["\"fbcache\" decides from what it sees", "leave out --cache"],
        ),
        (
            &["--budget", "5", "--cache", "schedule", "--set", "skip=[2]"],
            &["\"schedule\" has no key that a target could set", "leave out --cache"],
        ),
        (
            &["--budget", "5", "--cache", "cfg-cache", "--true-cfg", "3"],
            &["\"cfg-cache\" has no key that a target could set"],
        ),
        (
            &["--budget", "5", "--cache", "magcache", "--set", "threshold=0.2"],
            &["`threshold` of \"magcache\" is 0.2, and a target would set it", "leave out one of them"],
        ),
        (&["--psnr", "30", "--cache", "magcache"], &["known only after a run", "leave out --cache"]),
        (&["--cache", "replay:mask.json"], &["a compute mask holds 0 and 1, not 2"]),
        (&["--cache", "replay:two.toml"], &["strategy = \"schedule\"", "--export"]),
        (&["--cache", "magcache", "--export", "x.txt"], &["x.txt", ".toml or .json"]),
    ];
    for (more, expected) in cases {
        let export = more.contains(&"--export") || more.contains(&"--flow-shift");
        let command = if export { "schedule" } else { "run" };
        refused(&small(&[&[command, "--profile", "p.toml"], more].concat()), d, expected);
    }
    refused(&small(&["calibrate", "--budget", "5"]), d, &["a target is given"]);
    refused(
        &small(&["schedule", "--cache", "fbcache", "--export", "x.toml"]),
        d,
        &["decides from what it sees"],
    );
}

#[test]
fn a_pareto_table_has_everyone_on_the_same_axes() {
    let dir = folder();
    let d = dir.path();
    let pareto =
        ["pareto", "--profile", "p.toml", "--prompt", "a blue square", "--seeds", "3,4", "--budgets", "5,7"];
    let more = ["--search", "1", "--plot", "curves.svg", "--save", "measured.toml"];
    let found = answer(&small(&[&pareto[..], &more].concat()), d);
    let rows = found["rows"].as_array().unwrap();
    let row = |name: &str, budget: u64| {
        rows.iter()
            .find(|row| row["name"] == name && row["budget"] == budget)
            .unwrap_or_else(|| panic!("{name} {budget}"))
    };
    for budget in [5, 7] {
        for name in ["planner", "planner, reuse", "fewer steps"] {
            let row = row(name, budget);
            assert_eq!(
                (row["runs"].as_u64(), row["computed"].as_f64()),
                (Some(2), Some(budget as f64)),
                "{row}"
            );
            assert!(row["psnr"].as_f64().unwrap() > 10.0 && row["ssim"].as_f64().unwrap() <= 1.0, "{row}");
        }
        let above = row("planner", budget)["psnr"].as_f64().unwrap()
            - row("fewer steps", budget)["psnr"].as_f64().unwrap();
        assert!((row("planner", budget)["above_fewer_steps"].as_f64().unwrap() - above).abs() < 1e-9);
        assert_eq!(row("fewer steps", budget)["above_fewer_steps"], 0.0);
    }
    // Fewer computed steps end farther from the dense run.
    assert!(row("planner", 5)["psnr"].as_f64() < row("planner", 7)["psnr"].as_f64());
    let text = fs::read_to_string(d.join("curves.svg")).unwrap();
    assert!(text.contains("fewer steps") && text.contains("planner, reuse"));

    let saved = Profile::find(&d.join("measured.toml").display().to_string()).unwrap();
    let five = &saved.plans[0].schedules[4];
    assert!((five.psnr.unwrap() - row("planner", 5)["psnr"].as_f64().unwrap()).abs() < 1e-9);
    assert!(saved.plans[0].schedules[3].psnr.is_none());

    // A measured PSNR can be the target of a run.
    let run = |more: &[&str], out: &str| {
        let args = ["run", "--prompt", "a blue square", "--seed", "3", "--out", out];
        let done = magcache(&small(&[&args, more].concat()), d);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["--profile", "measured.toml", "--psnr", &five.psnr.unwrap().to_string()], "x.png");
    assert!(d.join("x.png").exists());

    refused(&small(&["pareto", "--budgets", "9"]), d, &["a budget of 9", "1 to 8"]);
    refused(&small(&["pareto", "--cache", "magcache"]), d, &["every contender has its own"]);
    refused(&small(&["pareto", "--save", "y.toml", "--budgets", "5"]), d, &["--profile FILE.toml"]);
    refused(
        &small(&["pareto", "--profile", "p.toml", "--strategies", "magcach"]),
        d,
        &["magcach", "magcache"],
    );
}
