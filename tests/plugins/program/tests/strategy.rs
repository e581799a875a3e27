//! A strategy of another crate: its profile is judged, its key is tuned, and its schedule is exported and
//! replayed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

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

/// A folder with a profile of the right model and one of another model.
fn profiles() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, model) in [("own.toml", "wan2.1-t2v-tiny"), ("other.toml", "tiny-flux")] {
        fs::write(folder.path().join(name), format!("model = {model:?}\n{PROFILE}")).unwrap();
    }
    folder
}

/// The output of `schedule` for 12 steps of the small video model.
fn schedule(at: &Path, more: &[&str]) -> Output {
    schedule_of("12", at, more)
}

fn schedule_of(steps: &str, at: &Path, more: &[&str]) -> Output {
    let model = ["schedule", "--json", "--model", "wan2.1-t2v-tiny", "--steps", steps];
    program(at, &[&model, more].concat())
}

fn program(at: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_magcache-own")).args(words).current_dir(at).output().unwrap()
}

#[track_caller]
fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The steps that the conditional branch skips.
fn skipped(answer: &Value) -> Vec<u64> {
    answer["skipped"]["cond"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).collect()
}

#[test]
fn its_profile_is_judged() {
    let folder = profiles();
    let at = folder.path();
    let own = ["--cache", "interval", "--profile", "own.toml"];
    let verdict = |output: &Output| answer(output)["profile_verdict"]["caches"][0].clone();
    let right = verdict(&schedule(at, &own));
    assert_eq!((right["strategy"].as_str(), right["verdict"].as_str()), (Some("interval"), Some("usable")));
    assert!(!right["reasons"].to_string().contains("steps"), "{right}");

    let other = verdict(&schedule_of("9", at, &own));
    assert!(other["reasons"].to_string().contains("steps 12, the run has 9"), "{other}");

    let wrong = error(&schedule(at, &["--cache", "interval", "--profile", "other.toml"]));
    assert!(wrong.contains("it is of tiny-flux, the run's model is wan2.1-t2v-tiny"), "{wrong}");

    // A table that sets its own number reads nothing from the profile.
    let set = answer(&schedule(at, &[&own[..], &["--set", "every=2"]].concat()));
    assert!(set["profile_verdict"].is_null(), "{set}");

    // Nor does one whose profile has no part for it.
    let plain = answer(&schedule(at, &["--cache", "interval"]));
    assert!(plain["profile_verdict"].is_null(), "{plain}");

    let fast = answer(&schedule(at, &[&own[..], &["--set", "variant=fast"]].concat()));
    assert_eq!(skipped(&fast), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
    let unknown = error(&schedule(at, &[&own[..], &["--set", "variant=fest"]].concat()));
    assert!(unknown.contains("unknown part variant") && unknown.contains("fest"), "{unknown}");
}

#[test]
fn a_target_sets_its_key() {
    let folder = profiles();
    let at = folder.path();
    for (target, computed) in [(["--budget", "4"], 4.0), (["--budget", "2"], 2.0), (["--speedup", "3"], 4.0)]
    {
        let planned = answer(&schedule(at, &[&["--cache", "interval"], &target[..]].concat()));
        assert_eq!(planned["planned"]["computed"].as_f64(), Some(computed), "{target:?}");
        assert_eq!(skipped(&planned).len() as f64, 12.0 - computed, "{target:?}");
    }
    let set = ["--cache", "interval", "--set", "every=2", "--budget", "4"];
    let typed = error(&schedule(at, &set));
    assert!(typed.contains("`every` of") && typed.contains("a target would set it"), "{typed}");
}

#[test]
fn its_schedule_is_exported_and_run_again() {
    let folder = profiles();
    let at = folder.path();
    let own = ["--cache", "interval", "--profile", "own.toml"];
    let expected = [1, 2, 4, 5, 7, 8, 10, 11];
    for file in ["out.toml", "out.json"] {
        let written = answer(&schedule(at, &[&own[..], &["--export", file]].concat()));
        assert_eq!(skipped(&written), expected);
        let replay = format!("replay:{file}");
        assert_eq!(skipped(&answer(&schedule(at, &["--cache", &replay]))), expected, "{file}");
    }
    let run =
        ["run", "--json", "--model", "wan2.1-t2v-tiny", "--steps", "4", "--size", "32x32", "--frames", "1"];
    let traced = ["--cache", "interval", "--set", "every=2", "--trace", "t.jsonl", "--out", "out.png"];
    answer(&program(at, &[&run[..], &traced].concat()));
    let again = answer(&schedule_of("4", at, &["--cache", "replay:t.jsonl"]));
    assert_eq!(skipped(&again), [1, 3]);
}
