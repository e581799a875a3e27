//! Schedules with windows of blocks, as a user meets them.

use std::fs;

use magcache_core::{
    planner::Continuation,
    profile::{Profile, SkippedPart, WindowedSchedule},
};
use serde_json::{Value, json};

use crate::program::{Shell, list, skipped};

const SMALL: &str = "--model tiny-flux --steps 5 --size 48x32";

/// A folder with `p.toml`, whose schedule of windows is the one that is returned: times are measured, and
/// which schedules are kept depends on them.
fn measured() -> (Shell, WindowedSchedule) {
    let sh = Shell::new();
    sh.answer(format!("calibrate {SMALL} --prompt 'a red circle' --seeds 1,2 --windows 1+1 --out p.toml"));
    let mut profile = profile(&sh, "p.toml");
    let part = |at: &str, skip: &[usize]| SkippedPart { at: at.to_owned(), skip: skip.to_vec() };
    let own = WindowedSchedule {
        time: 0.7,
        continuation: Continuation::Residual,
        error: 1e-4,
        psnr: None,
        psnr_error: None,
        ssim: None,
        parts: vec![part("0..1", &[3]), part("1..5", &[1, 3]), part("5..6", &[3])],
    };
    let plans = &mut profile.plans[0];
    (plans.skipped_cost, plans.windowed) = (0.05, vec![own.clone()]);
    sh.write("p.toml", profile.to_toml().unwrap());
    (sh, own)
}

fn profile(sh: &Shell, name: &str) -> Profile {
    Profile::find(&sh.path(name).display().to_string()).unwrap()
}

#[test]
fn a_target_chooses_windows_where_they_are_better_and_the_run_has_their_blocks() {
    let (sh, own) = measured();
    let run = format!("run {SMALL} --prompt 'a blue square' --seed 3 --profile p.toml");
    let done = sh.answer(format!("{run} --speedup 1.42 --out x.png"));
    assert_eq!(skipped(&done, "cond"), [1, 3]);
    let resolved = toml::from_str::<toml::Table>(&sh.text("x.png.toml")).unwrap();
    let tables = resolved["cache"].as_array().unwrap();
    let places: Vec<_> = tables.iter().map(|table| table["at"].as_str().unwrap()).collect();
    assert_eq!(places, own.parts.iter().map(|part| part.at.as_str()).collect::<Vec<_>>());
    // Of thirty blocks of the five steps six are left out in step 3 and four in step 1.
    let ceiling = done["ceiling"].as_f64().unwrap();
    assert!((ceiling - 30.0 / 20.0).abs() < 1e-9, "{ceiling}");
    // The same bytes without the target.
    sh.answer(format!("run {SMALL} --prompt 'a blue square' --seed 3 --config x.png.toml --out y.png"));
    assert_eq!(fs::read(sh.path("x.png")).unwrap(), fs::read(sh.path("y.png")).unwrap());

    let asked = |more: &str| sh.answer(format!("schedule {SMALL} --profile p.toml {more}"));
    // A number of steps means whole ones.
    assert_eq!(asked("--budget 4")["planned"]["computed"], 4.0);
    let found = asked("--psnr 60");
    assert_eq!((&found["planned"]["computed"], &found["planned"]["psnr"]), (&json!(3.5), &json!(80.0)));
    // A speed-up out of its reach is had with whole steps.
    assert_eq!(asked("--speedup 2.2")["planned"]["computed"], 2.0);
}

#[test]
fn windows_are_measured_and_compared() {
    let (sh, own) = measured();
    let tensors =
        candle_core::safetensors::load(sh.path("p.safetensors"), &candle_core::Device::Cpu).unwrap();
    // Two runs of five steps, one window, up to four sources.
    assert_eq!(tensors["reuse.window_products"].dims(), [2, 5, 1, 4, 4]);
    assert_eq!(tensors["reuse.windows"].to_vec2::<f64>().unwrap(), [[1.0, 1.0]]);

    let pareto = "--profile p.toml --prompt 'a blue square' --seeds 3,4 --budgets 2,4 --search 1";
    let found = sh.answer(format!("pareto {SMALL} {pareto} --strategies magcache --save measured.toml"));
    let of = |budget: u64| {
        let own = |row: &&Value| row["name"] == "planner, windows" && row["budget"] == budget;
        list(&found["rows"]).iter().find(own)
    };
    // Two computed steps take less time than it does.
    assert!(of(2).is_none());
    let row = of(4).unwrap();
    assert_eq!(list(&row["psnr_by_run"]).len(), 2);
    let saved = profile(&sh, "measured.toml").plans[0].windowed[0].clone();
    assert_eq!(saved.parts, own.parts);
    // serde_json reads a number to within one unit of its last place.
    let (stored, told) = (saved.psnr.unwrap(), row["psnr"].as_f64().unwrap());
    assert!((stored - told).abs() <= f64::EPSILON * stored, "{stored} {told}");
}

#[test]
fn windows_that_cannot_be_are_refused() {
    let sh = Shell::new();
    for (windows, expected) in [
        ("3+3", ["--windows 3+3 runs 6 of 6 blocks", "--windows auto"]),
        ("1+2,2+1", ["replace blocks 2..5 and 1..4", "--windows auto"]),
        ("3", ["FRONT+BACK, such as 2+1", "--windows"]),
    ] {
        let line = format!("calibrate {SMALL} --prompt 'a red circle' --windows {windows} --out p.toml");
        sh.refused(line, expected);
    }
}
