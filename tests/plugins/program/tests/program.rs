//! The whole command line handles what other crates register like its own.

#[path = "../../model/tests/support/mod.rs"]
mod support;

use std::{path::Path, process::Command};

use serde_json::Value;

/// Standard output, or the error output of a failed command.
fn own(args: &[&str], folder: &Path) -> Result<String, String> {
    let out =
        Command::new(env!("CARGO_BIN_EXE_magcache-own")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr) + &text(out.stdout)) }
}

#[track_caller]
fn answer(args: &[&str], folder: &Path) -> Value {
    serde_json::from_str(&own(&[args, &["--json"]].concat(), folder).unwrap()).unwrap()
}

#[test]
fn a_model_and_a_strategy_of_other_crates_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    support::write_checkpoint(&d.join("DIR")).unwrap();
    let run = ["run", "--model", "DIR"];
    let done =
        answer(&[&run[..], &["--cache", "fbcache", "--set", "threshold=0.1", "--out", "x.png"]].concat(), d);
    assert_eq!(image::image_dimensions(d.join("x.png")).unwrap(), (64, 64));
    assert!(!done["skipped"]["cond"].as_array().unwrap().is_empty(), "{done}");
    let done = answer(
        &[&run[..], &["--cache", "interval", "--set", "every=2", "--trace", "y.jsonl", "--out", "y.png"]]
            .concat(),
        d,
    );
    assert!(!done["skipped"]["cond"].as_array().unwrap().is_empty(), "{done}");
    // The configuration next to the image reproduces it.
    own(&["run", "--config", "y.png.toml", "--out", "z.png"], d).unwrap();
    let pixels = |file: &str| image::open(d.join(file)).unwrap().to_rgb8();
    assert!(pixels("y.png") == pixels("z.png") && pixels("x.png") != pixels("y.png"));
}

#[test]
fn they_are_listed_inspected_and_planned() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    support::write_checkpoint(&d.join("DIR")).unwrap();
    let list = answer(&["list"], d);
    let names = |what: &str| -> Vec<String> {
        let all = list[what].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().or(one.as_str()).unwrap().to_owned()).collect()
    };
    assert!(names("models").contains(&"mini".to_owned()));
    assert!(names("pipelines").contains(&"MiniPipeline".to_owned()));
    assert!(names("strategies").contains(&"interval".to_owned()));
    assert_eq!(answer(&["inspect", "DIR"], d)["model"], "mini");
    let planned = answer(&["schedule", "--model", "DIR", "--cache", "interval", "--set", "every=2"], d);
    assert_eq!(planned["steps"], 20);
    let profile = answer(&["calibrate", "--model", "DIR", "--seeds", "0", "--out", "mini.toml"], d);
    assert!(!profile.is_null());
    let again =
        ["run", "--model", "DIR", "--cache", "magcache", "--profile", "mini.toml", "--dry-run", "--json"];
    own(&again, d).unwrap();
}

#[test]
fn what_they_do_not_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    support::write_checkpoint(&d.join("DIR")).unwrap();
    let refused = |more: &[&str], expected: &[&str]| {
        let said = own(&[&["run", "--model", "DIR", "--out", "x.png"], more].concat(), d).unwrap_err();
        assert!(expected.iter().all(|part| said.contains(part)), "{more:?}: {said}");
    };
    refused(&["--true-cfg", "2"], &["true_cfg is 2, but mini does not take it", "hint: --guidance"]);
    refused(&["--size", "60x64"], &["width 60 is not a multiple of 8", "hint: the nearest is 64"]);
    refused(&["--cache", "intervall"], &["unknown strategy \"intervall\"", "did you mean \"interval\"?"]);
    std::fs::remove_file(d.join("DIR/vae/model.safetensors")).unwrap();
    refused(&[], &["DIR/vae"]);
}
