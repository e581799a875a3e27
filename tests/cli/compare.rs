//! `compare` as a user meets it: its numbers and what they are checked against, its files, and what it
//! refuses.

use magcache_cli::quality::{Frames, compare};
use serde_json::{Value, json};

use crate::program::{Shell, list, skipped};

/// Twelve steps of the small image model, which has no guidance: twelve passes.
const IMAGE: &str = "compare --model tiny-flux --steps 12";

fn row<'a>(found: &'a Value, name: &str) -> &'a Value {
    let rows = list(&found["rows"]);
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {found}"))
}

fn names(found: &Value) -> Vec<&str> {
    list(&found["rows"]).iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn every_lane_is_what_run_makes_and_is_measured_against_dense() {
    let sh = Shell::new();
    // A strategy that decides from the states and skips even in so short a run.
    sh.write("loose.toml", "[[cache]]\nstrategy = 'fbcache'\nthreshold = 0.3\n");
    let found = sh.answer(format!("{IMAGE} loose.toml magcache --seeds 3,4 --out out --plot drift.svg"));
    assert!(list(&found["outputs"]).contains(&"drift.svg".into()));
    let drawn = sh.text("drift.svg");
    assert!(drawn.contains("tiny-flux: divergence from dense"), "{drawn}");
    // One line with its label per lane.
    let lanes = ["loose", "magcache"].map(|name| drawn.matches(&format!("\n{name}\n")).count());
    assert_eq!((lanes, drawn.matches("<polyline").count() >= 2), ([1, 1], true), "{drawn}");
    assert_eq!(names(&found)[..3], ["dense", "loose", "magcache"]);
    for row in list(&found["rows"]) {
        for key in ["ceiling", "speedup", "transformer_speedup", "seconds", "cache_bytes"] {
            assert!(row[key].is_number(), "{key} of {row}");
        }
        let [steps, computed, skipped] =
            ["steps", "computed", "skipped"].map(|key| row[key].as_u64().unwrap());
        assert_eq!(computed + skipped, steps, "{row}");
    }
    let dense = row(&found, "dense");
    assert_eq!(["psnr", "ssim", "baseline"].map(|key| &dense[key]), [&Value::Null; 3]);

    for name in ["loose", "magcache"] {
        let found = row(&found, name);
        assert_eq!(list(&found["divergence"]).len(), 12);
        assert_eq!(found["divergence"][0], 0.0, "the first step is computed");
        assert!(found["divergence"][11].as_f64() > Some(0.0));
        // The images are those of the first seed; rounding to 8 bits moves a PSNR of about 35 dB by less than
        // 0.1 dB.
        let pixels = |lane: &str| image::open(sh.path(&format!("out/{lane}.png"))).unwrap().into_rgb8();
        let (a, b) = (pixels(name), pixels("dense"));
        let shape = [1, a.height() as usize, a.width() as usize, 3];
        let quality =
            compare(Frames::new(&a, shape).unwrap(), Frames::new(&b, shape).unwrap(), 255.0).unwrap();
        let said = &found["seeds"][0];
        assert!((said["psnr"].as_f64().unwrap() - quality.psnr()).abs() < 0.1, "{said} {}", quality.psnr());
        assert!((said["ssim"].as_f64().unwrap() - quality.ssim()).abs() < 0.003, "{said}");
        let [first, second] = [0, 1].map(|i| found["seeds"][i]["psnr"].as_f64().unwrap());
        assert_ne!(first, second, "another seed is another picture");
        assert!((found["psnr"].as_f64().unwrap() - f64::midpoint(first, second)).abs() < 1e-9);
        let error = (first - second).abs() / 2.0;
        assert!((found["psnr_standard_error"].as_f64().unwrap() - error).abs() < 1e-9);
        // The configuration stored with an image reproduces it.
        sh.answer(format!("run --config out/{name}.png.toml --out again.png --overwrite"));
        assert!(sh.same("again.png", &format!("out/{name}.png")), "{name}");
    }
}

#[test]
fn every_configuration_has_the_baseline_of_as_many_computed_steps() {
    let sh = Shell::new();
    sh.write("half.toml", "[[cache]]\nstrategy = 'schedule'\nskip = [2, 4, 6, 8, 10]\n");
    sh.write("none.toml", "[[cache]]\nstrategy = 'schedule'\nskip = []\n");
    let found = sh.answer(format!("{IMAGE} half.toml twin=half.toml none.toml --out out"));
    assert_eq!(names(&found), ["dense", "half", "twin", "none", "7 steps"], "one lane for both");
    let (half, baseline) = (row(&found, "half"), row(&found, "7 steps"));
    assert_eq!((half["computed"].as_u64(), half["ceiling"].as_f64()), (Some(7), Some(12.0 / 7.0)));
    for (key, value) in [
        ("baseline_of", json!(["half", "twin"])),
        ("computed", json!(7)),
        ("skipped", json!(0)),
        ("role", json!("baseline")),
        ("cache_bytes", json!(0)),
        ("divergence", json!([])),
    ] {
        assert_eq!(baseline[key], value, "{key}");
    }
    let gain = half["psnr"].as_f64().unwrap() - baseline["psnr"].as_f64().unwrap();
    assert!((half["baseline"]["psnr_gain"].as_f64().unwrap() - gain).abs() < 1e-9);
    assert_eq!(half["psnr"], row(&found, "twin")["psnr"]);
    // The baseline is exactly a plain run of that many steps.
    sh.answer("run --model tiny-flux --steps 7 --out seven.png");
    assert!(sh.same("seven.png", "out/7-steps.png"));
    // Nothing was skipped: the bytes are those of the dense run, and there is no finite PSNR.
    let none = row(&found, "none");
    assert_eq!((&none["psnr"], &none["ssim"], &none["baseline"]), (&Value::Null, &json!(1.0), &Value::Null));
    assert!(sh.same("out/none.png", "out/dense.png"));
}

#[test]
fn the_text_says_where_a_cache_loses() {
    let sh = Shell::new();
    // Only the first step is computed and then repeated, which is worse than running two steps.
    sh.write("bad.toml", "[[cache]]\nstrategy = 'schedule'\nskip = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n");
    let [text, _] = sh.said(format!("{IMAGE} bad.toml good=magcache --repeat 2 --out out"));
    for part in [
        "bad: ",
        " dB below 1 step without a cache: it loses",
        "good: ",
        "steps without a cache",
        "in 2 rounds",
        " cond #...........",
        "wrote out/report.html",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn traces_and_the_caches_of_a_configuration_are_lanes_too() {
    let sh = Shell::new();
    let run = "run --model tiny-flux --steps 12 --cache fbcache --set threshold=0.3";
    let ran = sh.answer(format!("{run} --trace t.jsonl --out a.png"));
    let found = sh.answer("compare --config a.png.toml replay:t.jsonl --out out");
    assert_eq!(names(&found)[..3], ["dense", "a", "t"]);
    for lane in ["a", "t"] {
        assert_eq!(row(&found, lane)["skipped"], skipped(&ran, "cond").len(), "{lane}");
    }
    // Targets are planned, also those in a file.
    sh.write("half.toml", "[[cache]]\nstrategy = 'magcache'\n[target]\nbudget = 18\n");
    let found = sh.answer("compare --model tiny-flux --cache magcache --budget 20 half.toml --out planned");
    assert_eq!(names(&found), ["dense", "magcache", "half", "18 steps", "20 steps"]);
    assert_eq!(["magcache", "half"].map(|lane| row(&found, lane)["computed"].as_u64()), [Some(20), Some(18)]);

    // Only the caches of a file are used, and the ignored parts are reported.
    let [_, notes] = sh.said(format!("{IMAGE} a.png.toml --seeds 1 --guidance 2 --out more"));
    for part in ["of a.png.toml only the caches are compared", "`guidance`", "`seed`"] {
        assert!(notes.contains(part), "no {part:?} in {notes}");
    }
    assert!(!notes.contains("`steps`"), "{notes}");
}

#[test]
fn everything_wrong_is_said_before_anything_runs() {
    let sh = Shell::new();
    sh.write("dense.toml", "[sampling]\nsteps = 4\n");
    sh.write("typo.toml", "[[cache]]\nstrategy = 'fbcache'\ntreshold = 0.1\n");
    sh.write("file", "mine");
    let cases: [(&str, &[&str]); 13] = [
        ("magcash", &["unknown strategy \"magcash\"", "did you mean \"magcache\"?"]),
        ("dense.toml", &["dense.toml has neither a [[cache]] table nor a target"]),
        ("absent.toml", &["absent.toml"]),
        ("replay:absent.jsonl", &["absent.jsonl"]),
        ("fbcache fbcache", &["two lanes would be called \"fbcache\"", "other=fbcache"]),
        ("dense=fbcache", &["the name of a lane that is always there"]),
        (
            "magcash typo.toml '9 steps=fbcache'",
            &[
                "3 faults",
                "magcash: cache[0] (strategy \"magcash\"): unknown strategy",
                "typo.toml: ",
                "unknown key `treshold`",
                "9 steps: ",
            ],
        ),
        ("--seeds 1,2,1", &["seed 1 is given twice"]),
        ("--repeat 0", &["0 repetitions"]),
        ("--steps 0", &["steps"]),
        ("--device tpu", &["unknown device"]),
        ("--out file", &["file"]),
        ("--plot drift.pdf", &["drift.pdf", ".svg or .png"]),
    ];
    for (args, expected) in cases {
        sh.refused(format!("compare {args}"), expected.iter().copied());
    }
}
