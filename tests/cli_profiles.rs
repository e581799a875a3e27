//! Looking at schedules, profiles and traces, as a user does.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::fs;

use program::{answer, refused};

#[test]
fn a_schedule_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let args = [
        "schedule",
        "--profile",
        "wan2.2-t2v-a14b",
        "--steps",
        "40",
        "--flow-shift",
        "12",
        "--boundary",
        "0.875",
    ];
    let set =
        ["--cache", "magcache", "--set", "threshold=0.04", "--set", "max_skips=2", "--set", "warmup=0.2"];
    let plan = answer(&[&args[..], &set, &["--plot", "plan.svg"]].concat(), d);
    let svg = fs::read_to_string(d.join(plan["outputs"][0].as_str().unwrap())).unwrap();
    assert_eq!(svg.matches("<circle").count(), 40 + 2, "a point for every step and two in the legend");
    // The computed ones are filled: 18 of 40 steps are skipped.
    assert_eq!(svg.matches("fill=\"#0072B2\"").count(), 40 - 18 + 1);
    assert!(svg.contains("magcache, 40 steps: 36 of 80 passes skipped") && svg.contains("low-noise"));

    answer(&[&args[..], &set, &["--plot", "plan.png"]].concat(), d);
    assert!(fs::read(d.join("plan.png")).unwrap().starts_with(b"\x89PNG"));
    refused(
        &[&args[..], &set, &["--plot", "plan.jpg"]].concat(),
        d,
        &["plan.jpg", ".svg or .png", "hint: --plot plan.svg"],
    );
    let dynamic = ["schedule", "--cache", "teacache", "--plot", "x.svg"];
    refused(&dynamic, d, &["no schedule to draw before a run", "hint: magcache run --trace"]);
}
