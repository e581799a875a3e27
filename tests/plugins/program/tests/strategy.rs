//! A strategy of another crate: its profile is judged, its key is tuned, and its schedule is exported and
//! replayed.

#[path = "../../../support/program.rs"]
mod program;

use program::{Shell, skipped};

/// A profile measured on runs of 12 steps; each test file names its model in front of it.
const PROFILE: &str = r#"
name = "own"
[[part.interval]]
every = 3
[part.interval.source.measured]
steps = 12
[[part.interval]]
variant = "fast"
every = 6
"#;

/// A shell with a profile of the right model and one of another model.
fn with_profiles() -> Shell {
    let sh = Shell::new();
    for (name, model) in [("own.toml", "wan2.1-t2v-tiny"), ("other.toml", "tiny-flux")] {
        sh.write(name, format!("model = {model:?}\n{PROFILE}"));
    }
    sh
}

/// The schedule of the small video model.
const PLAN: &str = "schedule --model wan2.1-t2v-tiny --cache interval --steps";

#[test]
fn its_profile_is_judged() {
    let sh = with_profiles();
    let verdict = |more: &str| sh.answer(format!("{PLAN} {more}"))["profile_verdict"]["caches"][0].clone();
    let right = verdict("12 --profile own.toml");
    assert_eq!([&right["strategy"], &right["verdict"]], ["interval", "usable"]);
    assert!(!right["reasons"].to_string().contains("steps"), "{right}");
    let other = verdict("9 --profile own.toml");
    assert!(other["reasons"].to_string().contains("steps 12, the run has 9"), "{other}");
    let wrong = ["it is of tiny-flux, the run's model is wan2.1-t2v-tiny"];
    sh.refused(format!("{PLAN} 12 --profile other.toml"), wrong);

    // A table that sets its own number reads nothing from the profile, nor does one whose profile has no part
    // for it.
    for none in ["--profile own.toml --set every=2", ""] {
        let plan = sh.answer(format!("{PLAN} 12 {none}"));
        assert!(plan["profile_verdict"].is_null(), "{plan}");
    }

    let variant = format!("{PLAN} 12 --profile own.toml --set variant");
    assert_eq!(skipped(&sh.answer(format!("{variant}=fast")), "cond"), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
    sh.refused(format!("{variant}=fest"), ["unknown part variant", "fest"]);
}

#[test]
fn a_target_sets_its_key() {
    let sh = with_profiles();
    for (target, computed) in [("--budget 4", 4.0), ("--budget 2", 2.0), ("--speedup 3", 4.0)] {
        let planned = sh.answer(format!("{PLAN} 12 {target}"));
        assert_eq!(planned["planned"]["computed"].as_f64(), Some(computed), "{target}");
        assert_eq!(skipped(&planned, "cond").len() as f64, 12.0 - computed, "{target}");
    }
    sh.refused(format!("{PLAN} 12 --set every=2 --budget 4"), ["`every` of", "a target would set it"]);
}

#[test]
fn its_schedule_is_exported_and_run_again() {
    let sh = with_profiles();
    let replayed = |steps: usize, file: &str| {
        let plan = format!("schedule --model wan2.1-t2v-tiny --steps {steps} --cache replay:{file}");
        skipped(&sh.answer(plan), "cond")
    };
    let expected = [1, 2, 4, 5, 7, 8, 10, 11];
    for file in ["out.toml", "out.json"] {
        let written = sh.answer(format!("{PLAN} 12 --profile own.toml --export {file}"));
        assert_eq!(skipped(&written, "cond"), expected);
        assert_eq!(replayed(12, file), expected, "{file}");
    }
    let run = "run --model wan2.1-t2v-tiny --steps 4 --size 32x32 --frames 1 --out out.png";
    sh.answer(format!("{run} --cache interval --set every=2 --trace t.jsonl"));
    assert_eq!(replayed(4, "t.jsonl"), [1, 3]);
}
