//! `compare` as a user meets it: its numbers and what they are checked against, its files, and what it
//! refuses.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use magcache_cli::quality::{Frames, compare};
use serde_json::{Value, json};

use program::{answer, refused};

/// Twelve steps of the small image model, which has no guidance: twelve passes.
const IMAGE: [&str; 5] = ["compare", "--model", "tiny-flux", "--steps", "12"];

fn image<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&IMAGE[..], more].concat()
}

fn row<'a>(found: &'a Value, name: &str) -> &'a Value {
    let rows = found["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {found}"))
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A strategy that decides from the states and skips even in so short a run.
const LOOSE: &str = "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\n";

#[test]
fn every_lane_is_what_run_makes_and_is_measured_against_dense() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("loose.toml"), LOOSE).unwrap();
    let arguments = ["loose.toml", "magcache", "--seeds", "3,4", "--out", "out", "--plot", "drift.svg"];
    let found = answer(&image(&arguments), d);
    assert!(found["outputs"].as_array().unwrap().contains(&Value::from("drift.svg")));
    let drawn = fs::read_to_string(d.join("drift.svg")).unwrap();
    assert!(drawn.contains("tiny-flux: divergence from dense"), "{drawn}");
    // One line with its label per lane.
    let lanes = ["loose", "magcache"].map(|name| drawn.matches(&format!("\n{name}\n")).count());
    assert_eq!((lanes, drawn.matches("<polyline").count() >= 2), ([1, 1], true), "{drawn}");
    let names: Vec<&str> =
        found["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["dense", "loose", "magcache"]);
    for row in found["rows"].as_array().unwrap() {
        for key in ["ceiling", "speedup", "transformer_speedup", "seconds", "cache_bytes"] {
            assert!(row[key].is_number(), "{key} of {row}");
        }
        let steps = row["steps"].as_u64().unwrap();
        assert_eq!(row["computed"].as_u64().unwrap() + row["skipped"].as_u64().unwrap(), steps, "{row}");
    }
    let dense = &found["rows"][0];
    assert_eq!(
        (&dense["psnr"], &dense["ssim"], &dense["baseline"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );

    for name in ["loose", "magcache"] {
        let found = row(&found, name);
        assert_eq!(found["divergence"].as_array().unwrap().len(), 12);
        assert_eq!(found["divergence"][0], 0.0, "the first step is computed");
        assert!(found["divergence"][11].as_f64() > Some(0.0));
        // The images are those of the first seed; rounding to 8 bits moves a PSNR of about 35 dB by less than
        // 0.1 dB.
        let pixels = |lane: &str| image::open(d.join(format!("out/{lane}.png"))).unwrap().into_rgb8();
        let (a, b) = (pixels(name), pixels("dense"));
        let shape = [1, a.height() as usize, a.width() as usize, 3];
        let quality =
            compare(Frames::new(&a, shape).unwrap(), Frames::new(&b, shape).unwrap(), 255.0).unwrap();
        let said = &found["seeds"][0];
        assert!((said["psnr"].as_f64().unwrap() - quality.psnr()).abs() < 0.1, "{said} {}", quality.psnr());
        assert!((said["ssim"].as_f64().unwrap() - quality.ssim()).abs() < 0.003, "{said}");
        let psnr: Vec<f64> = (0..2).map(|i| found["seeds"][i]["psnr"].as_f64().unwrap()).collect();
        assert_ne!(psnr[0], psnr[1], "another seed is another picture");
        assert!((found["psnr"].as_f64().unwrap() - f64::midpoint(psnr[0], psnr[1])).abs() < 1e-9);
        let error = (psnr[0] - psnr[1]).abs() / 2.0;
        assert!((found["psnr_standard_error"].as_f64().unwrap() - error).abs() < 1e-9);
        // The configuration stored with an image reproduces it.
        let config = format!("out/{name}.png.toml");
        answer(&["run", "--config", &config, "--out", "again.png", "--overwrite"], d);
        assert_eq!(bytes(&d.join("again.png")), bytes(&d.join(format!("out/{name}.png"))), "{name}");
    }
}

#[test]
fn every_configuration_has_the_baseline_of_as_many_computed_steps() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let half = "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 4, 6, 8, 10]\n";
    fs::write(d.join("half.toml"), half).unwrap();
    fs::write(d.join("none.toml"), half.replace("2, 4, 6, 8, 10", "")).unwrap();
    let found = answer(&image(&["half.toml", "twin=half.toml", "none.toml", "--out", "out"]), d);
    let names: Vec<&Value> = found["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["dense", "half", "twin", "none", "7 steps"], "one lane for both");
    let (half, baseline) = (row(&found, "half"), row(&found, "7 steps"));
    assert_eq!((half["computed"].as_u64(), half["ceiling"].as_f64()), (Some(7), Some(12.0 / 7.0)));
    assert_eq!(baseline["baseline_of"], json!(["half", "twin"]));
    assert_eq!(
        (&baseline["computed"], &baseline["skipped"], &baseline["role"]),
        (&json!(7), &json!(0), &json!("baseline"))
    );
    assert_eq!((&baseline["cache_bytes"], &baseline["divergence"]), (&json!(0), &json!([])));
    let gain = half["psnr"].as_f64().unwrap() - baseline["psnr"].as_f64().unwrap();
    assert!((half["baseline"]["psnr_gain"].as_f64().unwrap() - gain).abs() < 1e-9);
    assert_eq!(half["psnr"], row(&found, "twin")["psnr"]);
    // The baseline is exactly a plain run of that many steps.
    answer(&["run", "--model", "tiny-flux", "--steps", "7", "--out", "seven.png"], d);
    assert_eq!(bytes(&d.join("seven.png")), bytes(&d.join("out/7-steps.png")));
    // Nothing was skipped: the bytes are those of the dense run, and there is no finite PSNR.
    let none = row(&found, "none");
    assert_eq!((&none["psnr"], &none["ssim"], &none["baseline"]), (&Value::Null, &json!(1.0), &Value::Null));
    assert_eq!(bytes(&d.join("out/none.png")), bytes(&d.join("out/dense.png")));
}

#[test]
fn the_text_says_where_a_cache_loses() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // Only the first step is computed and then repeated, which is worse than running two steps.
    let bad = "[[cache]]\nstrategy = \"schedule\"\nskip = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n";
    fs::write(d.join("bad.toml"), bad).unwrap();
    let args = image(&["bad.toml", "good=magcache", "--repeat", "2", "--out", "out"]);
    let out = program::magcache(&args, d);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("bad: ") && text.contains(" dB below 1 step without a cache: it loses"), "{text}");
    assert!(text.contains("good: ") && text.contains("steps without a cache"), "{text}");
    assert!(text.contains("in 2 rounds") && text.contains(" cond #..........."), "{text}");
    assert!(text.contains("wrote out/report.html"), "{text}");
}

#[test]
fn traces_and_the_caches_of_a_configuration_are_lanes_too() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = [
        "run",
        "--model",
        "tiny-flux",
        "--steps",
        "12",
        "--cache",
        "fbcache",
        "--set",
        "threshold=0.3",
        "--trace",
        "t.jsonl",
    ];
    let ran = answer(&[&run[..], &["--out", "a.png"]].concat(), d);
    let found = answer(&["compare", "--config", "a.png.toml", "replay:t.jsonl", "--out", "out"], d);
    let names: Vec<&Value> = found["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names[..3], ["dense", "a", "t"]);
    let skipped = ran["skipped"]["cond"].as_array().unwrap().len();
    for lane in ["a", "t"] {
        assert_eq!(row(&found, lane)["skipped"], skipped, "{lane}");
    }
    // Targets are planned, also those in a file.
    fs::write(d.join("half.toml"), "[[cache]]\nstrategy = \"magcache\"\n[target]\nbudget = 18\n").unwrap();
    let planned = ["compare", "--model", "tiny-flux", "--cache", "magcache", "--budget", "20", "half.toml"];
    let found = answer(&[&planned[..], &["--out", "planned"]].concat(), d);
    let names: Vec<&Value> = found["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["dense", "magcache", "half", "18 steps", "20 steps"]);
    assert_eq!(
        (&row(&found, "magcache")["computed"], &row(&found, "half")["computed"]),
        (&json!(20), &json!(18))
    );

    // Only the caches of a file are used, and the ignored parts are reported.
    let args = image(&["a.png.toml", "--seeds", "1", "--guidance", "2", "--out", "more"]);
    let out = program::magcache(&args, d);
    let notes = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && notes.contains("of a.png.toml only the caches are compared"), "{notes}");
    assert!(
        notes.contains("`guidance`") && notes.contains("`seed`") && !notes.contains("`steps`"),
        "{notes}"
    );
}

#[test]
fn everything_wrong_is_said_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("dense.toml"), "[sampling]\nsteps = 4\n").unwrap();
    fs::write(d.join("typo.toml"), "[[cache]]\nstrategy = \"fbcache\"\ntreshold = 0.1\n").unwrap();
    fs::write(d.join("file"), "mine").unwrap();
    refused(&["compare", "magcash"], d, &["unknown strategy \"magcash\"", "did you mean \"magcache\"?"]);
    refused(&["compare", "dense.toml"], d, &["dense.toml has neither a [[cache]] table nor a target"]);
    refused(&["compare", "absent.toml"], d, &["absent.toml"]);
    refused(&["compare", "replay:absent.jsonl"], d, &["absent.jsonl"]);
    refused(
        &["compare", "fbcache", "fbcache"],
        d,
        &["two lanes would be called \"fbcache\"", "other=fbcache"],
    );
    refused(&["compare", "dense=fbcache"], d, &["the name of a lane that is always there"]);
    refused(
        &["compare", "magcash", "typo.toml", "9 steps=fbcache"],
        d,
        &[
            "3 faults",
            "magcash: cache[0] (strategy \"magcash\"): unknown strategy",
            "typo.toml: ",
            "unknown key `treshold`",
            "9 steps: ",
        ],
    );
    refused(&["compare", "--seeds", "1,2,1"], d, &["seed 1 is given twice"]);
    refused(&["compare", "--repeat", "0"], d, &["0 repetitions"]);
    refused(&["compare", "--steps", "0"], d, &["steps"]);
    refused(&["compare", "--device", "tpu"], d, &["unknown device"]);
    refused(&["compare", "--out", "file"], d, &["file"]);
    refused(&["compare", "--plot", "drift.pdf"], d, &["drift.pdf", ".svg or .png"]);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_magcache"))
        .args(["compare", "--steps", "900", "--out", "new/out", "--quiet"])
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    // The run has started once its temporary output folder exists.
    let begun = Instant::now();
    while !dir.path().join("new").exists() && begun.elapsed() < Duration::from_mins(1) {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "900 steps took no time");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
