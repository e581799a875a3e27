//! Measuring a model, as a user meets it.

use std::fs;

use magcache_core::profile::{Fit, Profile};
// Links the built-in profiles into this test binary.
use magcache_models as _;

use crate::program::{Shell, list, skipped};

/// An image model that takes almost no time.
const SMALL: &str = "calibrate --model tiny-flux --steps 9 --size 48x32";

fn profile(sh: &Shell, name: &str) -> Profile {
    Profile::find(&sh.path(name).display().to_string()).unwrap()
}

#[test]
fn merged_profiles_are_those_of_all_runs() {
    let sh = Shell::new();
    sh.write("prompts.txt", "a red circle\n\n# not this one\na blue square\n");
    sh.answer(format!("{SMALL} --prompt 'a red circle' --seeds 1,2 --out a.toml"));
    sh.answer(format!("{SMALL} --prompt 'a blue square' --seeds 1,2 --merge a.toml --out merged.toml"));
    sh.answer(format!("{SMALL} --prompts prompts.txt --seeds 1,2 --out whole.toml"));

    let (merged, whole) = (profile(&sh, "merged.toml"), profile(&sh, "whole.toml"));
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
    assert!(profile(&sh, "a.toml").curves[0].ratios != whole.curves[0].ratios, "prompts do not count");

    let merge = "calibrate --model tiny-flux --merge a.toml --out b.toml";
    sh.hinted(format!("{merge} --steps 8 --size 48x32"), ["steps is 9 there and 8 here"]);
    let other = ["guidance is 3.5 there and 2.0 here", "width is 48 there and 64 here"];
    sh.hinted(format!("{merge} --steps 9 --guidance 2 --size 64x64"), other);
    fs::remove_file(sh.path("a.safetensors")).unwrap();
    sh.hinted(format!("{merge} --steps 9 --size 48x32"), ["a.safetensors"]);
}

#[test]
fn a_pair_has_a_fit_for_each_expert() {
    let sh = Shell::new();
    let model = "--model wan2.2-t2v-tiny --steps 20 --frames 5 --size 32x32";
    sh.answer(format!("calibrate --prompt 'a red circle moving right' --seeds 0,1 --out pair.toml {model}"));
    let pair = profile(&sh, "pair.toml");
    let fits = pair.fits_of(None).unwrap();
    assert_eq!(fits.iter().map(|fit| fit.expert).collect::<Vec<_>>(), [Some(0), Some(1)]);
    let rows = |fit: &Fit| fit.source.measured["rows"].as_integer().unwrap();
    let ratios = &pair.curves[0].ratios["cond"];
    let high = ratios.iter().skip(1).position(|ratio| *ratio == 1.0).unwrap() as i64 + 1;
    // Two seeds and two branches; the first step of each expert has no predecessor.
    assert_eq!((rows(fits[0]), rows(fits[1])), (4 * (high - 1), 4 * (20 - high - 1)));
    let ranges = [0, 1].map(|i: usize| fits[i].fitted_range.unwrap());
    let fitted = fits.iter().all(|fit| fit.residual.is_some_and(|r| r < 0.1));
    assert!(fitted && ranges[0] != ranges[1], "{fits:?}");
    let cached = "run --cache teacache --set threshold=0.3 --profile pair.toml --out x.gif";
    let ran = sh.answer(format!("{cached} {model}"));
    assert!(!skipped(&ran, "cond").is_empty(), "{ran}");
}

#[test]
fn sensitivities_are_measured_and_used() {
    let sh = Shell::new();
    let model = "--model wan2.2-t2v-tiny --steps 12 --frames 5 --size 32x32";
    let calibrate = format!("calibrate --prompt 'a red circle' --sensitivities {model}");
    sh.answer(format!("{calibrate} --seeds 1 --out one.toml"));
    sh.answer(format!("{calibrate} --seeds 2 --out both.toml --merge one.toml"));
    sh.answer(format!("{calibrate} --seeds 2,1 --out whole.toml"));
    let (both, whole) = (profile(&sh, "both.toml"), profile(&sh, "whole.toml"));
    assert_eq!(both.sensitivities.iter().map(|s| s.expert).collect::<Vec<_>>(), [Some(0), Some(1)]);
    for (a, b) in both.sensitivities.iter().zip(&whole.sensitivities) {
        assert_eq!((&a.timesteps, &a.latent, &a.timestep), (&b.timesteps, &b.latent, &b.timestep));
        assert_eq!(a.source.measured["rows"], b.source.measured["rows"]);
    }
    assert_eq!(both.sensitivities.iter().map(|s| s.timesteps.len()).sum::<usize>(), 12);
    let cached = "run --cache sencache --set threshold=9 --profile both.toml --out x.gif";
    let ran = sh.answer(format!("{cached} {model}"));
    assert!(!skipped(&ran, "cond").is_empty(), "{ran}");
}

/// The built-in curves were measured with diffusers on other noise: the means over six runs differ by less
/// than 3 % over all steps and by up to 20 % at a single step, as much as runs with other seeds differ.
#[test]
fn sensitivities_are_those_of_diffusers() {
    let sh = Shell::new();
    let theirs = Profile::find("wan2.1-t2v-tiny").unwrap().sensitivities.remove(0);
    let prompts = theirs.source.measured["prompts"].as_array().unwrap();
    sh.write("p.txt", prompts.iter().map(|p| format!("{}\n", p.as_str().unwrap())).collect::<String>());
    let measure = "calibrate --model wan2.1-t2v-tiny --prompts p.txt --seeds 0 --sensitivities --reach 0";
    sh.answer(format!("{measure} --out own.toml"));
    let ours = profile(&sh, "own.toml").sensitivities.remove(0);
    assert_eq!(ours.timesteps, theirs.timesteps);
    for (ours, theirs) in [(&ours.latent, &theirs.latent), (&ours.timestep, &theirs.timestep)] {
        let off: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs - 1.0).collect();
        assert!(off.iter().all(|off| off.abs() < 0.3), "{off:?}");
        assert!((off.iter().sum::<f64>() / off.len() as f64).abs() < 0.05, "{off:?}");
    }
}

#[test]
fn a_measured_profile_is_what_the_caches_use() {
    let sh = Shell::new();
    let done = sh.answer(format!("{SMALL} --prompt 'a red circle' --seeds 3 --out own.toml --plot own.svg"));
    assert_eq!(list(&done["outputs"]), ["own.toml", "own.safetensors", "own.svg"]);
    assert!(sh.text("own.svg").contains("tiny-flux: 1 run of 9 steps"));
    let run = "run --model tiny-flux --steps 9 --size 48x32 --profile own.toml --out x.png --overwrite";
    let skips = |cache: &str| skipped(&sh.answer(format!("{run} --cache {cache}")), "cond").len();
    assert_eq!(skips("magcache --set threshold=0"), 0);
    assert!(skips("magcache --set threshold=0.3") > 2);
    assert!(skips("teacache --set threshold=0.4") > 0);

    sh.hinted(format!("{SMALL} --cache magcache"), ["measures runs without"]);
    sh.hinted(format!("{SMALL} --prompts none.txt"), ["none.txt"]);
    sh.hinted(format!("{SMALL} --plot curve.pdf"), ["curve.pdf", ".svg or .png"]);
}
