//! The whole command line handles what other crates register like its own.

#[path = "../../../support/program.rs"]
mod program;
#[path = "../../model/tests/support/mod.rs"]
mod support;

use program::{Shell, list, skipped};
use serde_json::Value;

/// A shell with the checkpoint of the mini model in `DIR`.
fn with_checkpoint() -> Shell {
    let sh = Shell::new();
    support::write_checkpoint(&sh.path("DIR")).unwrap();
    sh
}

#[test]
fn a_model_and_a_strategy_of_other_crates_run() {
    let sh = with_checkpoint();
    for (cache, out) in
        [("fbcache --set threshold=0.1", "x.png"), ("interval --set every=2 --trace y.jsonl", "y.png")]
    {
        let done = sh.answer(format!("run --model DIR --cache {cache} --out {out}"));
        assert!(!skipped(&done, "cond").is_empty(), "{done}");
    }
    assert_eq!(image::image_dimensions(sh.path("x.png")).unwrap(), (64, 64));
    // The configuration next to the image reproduces it.
    sh.said("run --config y.png.toml --out z.png");
    let pixels = |file: &str| image::open(sh.path(file)).unwrap().to_rgb8();
    assert!(pixels("y.png") == pixels("z.png") && pixels("x.png") != pixels("y.png"));
}

#[test]
fn they_are_listed_inspected_and_planned() {
    let sh = with_checkpoint();
    let found = sh.answer("list");
    for (what, name) in [("models", "mini"), ("pipelines", "MiniPipeline"), ("strategies", "interval")] {
        let named = list(&found[what]).iter().any(|one| one["name"] == name || *one == name);
        assert!(named, "{name} is not in {}", found[what]);
    }
    assert_eq!(sh.answer("inspect DIR")["model"], "mini");
    assert_eq!(sh.answer("schedule --model DIR --cache interval --set every=2")["steps"], 20);
    assert!(!sh.answer("calibrate --model DIR --seeds 0 --out mini.toml").is_null());
    sh.answer("run --model DIR --cache magcache --profile mini.toml --dry-run");
}

#[test]
fn without_a_profile_only_what_needs_none_is_compared() {
    let sh = with_checkpoint();
    for command in ["compare", "demo"] {
        let [found, told] = sh.said(format!("{command} --model DIR --steps 6 --json"));
        let note = "note: magcache and teacache are left out: they need a profile, and mini has none";
        assert!(told.contains(note), "{told}");
        let found: Value = serde_json::from_str(&found).unwrap();
        let names: Vec<&Value> = list(&found["rows"]).iter().map(|row| &row["name"]).collect();
        assert_eq!(names[..2], ["dense", "fbcache"], "{command}");
    }
    // A strategy that is named is not left out.
    sh.refused("compare --model DIR magcache", ["magcache needs a curve and there is none"]);
}

#[test]
fn what_they_do_not_take_is_refused() {
    let sh = with_checkpoint();
    let run = "run --model DIR --out x.png";
    let untaken = ["true_cfg is 2, but mini does not take it", "hint: --guidance is its scale of"];
    sh.refused(format!("{run} --true-cfg 2"), untaken);
    let size = ["width 60 is not a multiple of 8", "hint: the nearest is 64"];
    sh.refused(format!("{run} --size 60x64"), size);
    let near = ["unknown strategy \"intervall\"", "did you mean \"interval\"?"];
    sh.refused(format!("{run} --cache intervall"), near);
    std::fs::remove_file(sh.path("DIR/vae/model.safetensors")).unwrap();
    sh.refused(run, ["DIR/vae"]);
}
