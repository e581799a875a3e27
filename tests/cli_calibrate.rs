//! Measuring a model, as a user meets it.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use magcache_core::profile::{Fit, Profile};
// Links the built-in profiles into this test binary.
use magcache_models as _;
use serde_json::Value;

use program::answer;

/// Refused, with a hint.
#[track_caller]
fn refused(more: &[&str], folder: &Path, expected: &[&str]) {
    program::refused(&calibrate(more), folder, &[expected, &["\nhint: "]].concat());
}

/// Uses nine steps and a small size unless `more` says otherwise.
fn calibrate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["calibrate", "--model", "tiny-flux"];
    for [flag, value] in [["--steps", "9"], ["--size", "48x40"]] {
        if !more.contains(&flag) {
            args.extend([flag, value]);
        }
    }
    [&args[..], more].concat()
}

fn profile(folder: &Path, name: &str) -> Profile {
    Profile::find(&folder.join(name).display().to_string()).unwrap()
}

#[test]
fn merged_profiles_are_those_of_all_runs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("prompts.txt"), "a red circle\n\n# not this one\na blue square\n").unwrap();
    answer(&calibrate(&["--prompt", "a red circle", "--seeds", "1,2", "--out", "a.toml"]), d);
    let merged = ["--prompt", "a blue square", "--seeds", "1,2", "--merge", "a.toml", "--out", "merged.toml"];
    answer(&calibrate(&merged), d);
    answer(&calibrate(&["--prompts", "prompts.txt", "--seeds", "1,2", "--out", "whole.toml"]), d);

    let (merged, whole) = (profile(d, "merged.toml"), profile(d, "whole.toml"));
    let (a, b) = (&merged.curves[0], &whole.curves[0]);
    assert_eq!((a.steps, a.ratios["cond"][0]), (9, 1.0));
    for (a, b) in [(&a.ratios, &b.ratios), (&a.std, &b.std), (&a.cosine_distance, &b.cosine_distance)] {
        for (a, b) in a["cond"].iter().zip(&b["cond"]) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }
    for (a, b) in merged.fits.iter().zip(&whole.fits) {
        assert_eq!((a.signal, a.fitted_range), (b.signal, b.fitted_range));
        for (a, b) in a.coefficients.iter().zip(&b.coefficients) {
            assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
        }
    }
    let measured = |p: &Profile, key: &str| p.curves[0].source.measured[key].clone();
    assert_eq!(measured(&merged, "runs"), measured(&whole, "runs"));
    assert_eq!(measured(&whole, "runs").as_integer(), Some(4));
    assert_eq!(measured(&whole, "prompts").as_array().unwrap().len(), 2);
    let one = profile(d, "a.toml");
    assert!(one.curves[0].ratios != whole.curves[0].ratios, "prompts do not count");

    refused(&["--steps", "8", "--merge", "a.toml", "--out", "b.toml"], d, &["steps is 9 there and 8 here"]);
    let other = ["--guidance", "2", "--size", "64x64", "--merge", "a.toml", "--out", "b.toml"];
    refused(&other, d, &["guidance is 3.5 there and 2.0 here", "width is 48 there and 64 here"]);
    fs::remove_file(d.join("a.safetensors")).unwrap();
    refused(&["--merge", "a.toml", "--out", "b.toml"], d, &["a.safetensors"]);
}

#[test]
fn a_pair_has_a_fit_for_each_expert() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = ["--model", "wan2.2-t2v-tiny", "--steps", "20", "--frames", "5", "--size", "32x32"];
    let args = ["calibrate", "--prompt", "a red circle moving right", "--seeds", "0,1", "--out", "pair.toml"];
    answer(&[&args[..], &model].concat(), d);
    let pair = profile(d, "pair.toml");
    let experts = |variant| pair.fits_of(variant).unwrap().iter().map(|fit| fit.expert).collect::<Vec<_>>();
    assert_eq!(experts(None), [Some(0), Some(1)]);
    let rows = |fit: &Fit| fit.source.measured["rows"].as_integer().unwrap();
    let fits = pair.fits_of(None).unwrap();
    let high =
        pair.curves[0].ratios["cond"].iter().skip(1).position(|ratio| *ratio == 1.0).unwrap() as i64 + 1;
    // Two seeds and two branches; the first step of each expert has no predecessor.
    assert_eq!((rows(fits[0]), rows(fits[1])), (4 * (high - 1), 4 * (20 - high - 1)));
    let ranges = [0, 1].map(|i: usize| fits[i].fitted_range.unwrap());
    assert!(
        fits.iter().all(|fit| fit.residual.is_some_and(|r| r < 0.1)) && ranges[0] != ranges[1],
        "{fits:?}"
    );
    let cached =
        ["run", "--cache", "teacache", "--set", "threshold=0.3", "--profile", "pair.toml", "--out", "x.gif"];
    let ran = answer(&[&cached[..], &model].concat(), d);
    assert!(!ran["skipped"]["cond"].as_array().unwrap().is_empty(), "{ran}");
}

#[test]
fn sensitivities_are_measured_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = ["--model", "wan2.2-t2v-tiny", "--steps", "12", "--frames", "5", "--size", "32x32"];
    let args = |seeds: &'static str, out: &'static str| {
        let own =
            ["calibrate", "--prompt", "a red circle", "--sensitivities", "--seeds", seeds, "--out", out];
        [&own[..], &model].concat()
    };
    answer(&args("1", "one.toml"), d);
    answer(&[&args("2", "both.toml")[..], &["--merge", "one.toml"]].concat(), d);
    answer(&args("2,1", "whole.toml"), d);
    let (both, whole) = (profile(d, "both.toml"), profile(d, "whole.toml"));
    assert_eq!(both.sensitivities.iter().map(|s| s.expert).collect::<Vec<_>>(), [Some(0), Some(1)]);
    for (a, b) in both.sensitivities.iter().zip(&whole.sensitivities) {
        assert_eq!((&a.timesteps, &a.latent, &a.timestep), (&b.timesteps, &b.latent, &b.timestep));
        assert_eq!(a.source.measured["rows"], b.source.measured["rows"]);
    }
    assert_eq!(both.sensitivities.iter().map(|s| s.timesteps.len()).sum::<usize>(), 12);
    let cached =
        ["run", "--cache", "sencache", "--set", "threshold=9", "--profile", "both.toml", "--out", "x.gif"];
    let ran = answer(&[&cached[..], &model].concat(), d);
    assert!(!ran["skipped"]["cond"].as_array().unwrap().is_empty(), "{ran}");
}

/// The built-in curves were measured with diffusers on other noise: the means over six runs differ by less
/// than 3 % over all steps and by up to 20 % at a single step, as much as runs with other seeds differ.
#[test]
fn sensitivities_are_those_of_diffusers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let theirs = Profile::find("wan2.1-t2v-tiny").unwrap().sensitivities.remove(0);
    let prompts = theirs.source.measured["prompts"].as_array().unwrap();
    let prompts: String = prompts.iter().map(|prompt| format!("{}\n", prompt.as_str().unwrap())).collect();
    fs::write(d.join("prompts.txt"), prompts).unwrap();
    let args = ["calibrate", "--model", "wan2.1-t2v-tiny", "--prompts", "prompts.txt", "--seeds", "0"];
    answer(&[&args[..], &["--sensitivities", "--reach", "0", "--out", "own.toml"]].concat(), d);
    let ours = profile(d, "own.toml").sensitivities.remove(0);
    assert_eq!(ours.timesteps, theirs.timesteps);
    for (ours, theirs) in [(&ours.latent, &theirs.latent), (&ours.timestep, &theirs.timestep)] {
        let off: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs - 1.0).collect();
        assert!(off.iter().all(|off| off.abs() < 0.3), "{off:?}");
        assert!((off.iter().sum::<f64>() / off.len() as f64).abs() < 0.05, "{off:?}");
    }
}

#[test]
fn a_measured_profile_is_what_the_caches_use() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let done = answer(
        &calibrate(&["--prompt", "a red circle", "--seeds", "3", "--out", "own.toml", "--plot", "own.svg"]),
        d,
    );
    let outputs: Vec<&str> = done["outputs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(outputs, ["own.toml", "own.safetensors", "own.svg"]);
    assert!(fs::read_to_string(d.join("own.svg")).unwrap().contains("tiny-flux: 1 run of 9 steps"));
    let run = |cache: &str, set: &str| {
        let args = ["run", "--model", "tiny-flux", "--steps", "9", "--size", "48x40", "--cache", cache];
        let more = ["--set", set, "--profile", "own.toml", "--out", "x.png", "--overwrite"];
        answer(&[&args[..], &more].concat(), d)
    };
    let skipped = |ran: &Value| ran["skipped"]["cond"].as_array().unwrap().len();
    let (strict, loose) = (run("magcache", "threshold=0"), run("magcache", "threshold=0.3"));
    assert!(skipped(&strict) == 0 && skipped(&loose) > 2, "{strict} {loose}");
    assert!(skipped(&run("teacache", "threshold=0.4")) > 0);

    refused(&["--cache", "magcache"], d, &["measures runs without"]);
    refused(&["--prompts", "none.txt"], d, &["none.txt"]);
    refused(&["--plot", "curve.pdf"], d, &["curve.pdf", ".svg or .png"]);
}
