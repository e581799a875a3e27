//! Audits as a user meets them.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use program::{answer, refused};
use serde_json::Value;

const RUN: [&str; 9] =
    ["run", "--steps", "14", "--frames", "5", "--cache", "fbcache", "--set", "threshold=0.2"];

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&RUN[..], more].concat()
}

fn trace(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("trace.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_audit_reports_errors_and_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let plain = answer(&run(&["--out", "plain.mp4", "--trace", "trace.jsonl"]), d);
    let before = trace(d);
    let args = ["--out", "audited.mp4", "--trace", "trace.jsonl", "--audit", "0.5", "--overwrite"];
    let audited = answer(&run(&args), d);
    assert_eq!(fs::read(d.join("plain.mp4")).unwrap(), fs::read(d.join("audited.mp4")).unwrap());
    assert_eq!(plain["skipped"], audited["skipped"]);
    assert_eq!((&plain["audited_passes"], &plain["audited_seconds"]), (&0.into(), &0.0.into()));

    let mut passes = 0;
    for part in audited["parts"].as_array().unwrap() {
        let skipped = part["skipped"].as_u64().unwrap();
        let audit = &part["audit"];
        assert!(skipped > 1);
        assert_eq!(
            audit["audited"].as_u64().unwrap(),
            skipped.div_ceil(2),
            "every second one, the first among them"
        );
        let error = |key: &str, of: &str| audit[key][of].as_f64().unwrap();
        for key in ["output_l1", "output_l2", "residual_l1", "residual_l2"] {
            assert!(0.0 < error(key, "mean") && error(key, "mean") <= error(key, "max"), "{key}: {audit}");
        }
        assert!(error("residual_l1", "mean") > error("output_l1", "mean"));
        let sum = error("output_l1", "mean") * audit["audited"].as_f64().unwrap();
        assert!((audit["drift"].as_f64().unwrap() - 2.0 * sum).abs() < 1e-9, "each counts for two");
        passes += audit["audited"].as_u64().unwrap();
    }
    assert_eq!(audited["audited_passes"], passes);
    assert!(audited["audited_seconds"].as_f64().unwrap() > 0.0);
    assert!(audited["ceiling"].as_f64() < plain["ceiling"].as_f64(), "what was computed is not saved");

    let timeless = |lines: Vec<Value>| -> Vec<Value> {
        let without = |mut line: Value| {
            let keys = line.as_object_mut().unwrap();
            keys.remove("microseconds");
            keys.remove("audit");
            line
        };
        lines.into_iter().map(without).collect()
    };
    let after = trace(d);
    assert_eq!(after.iter().filter(|line| line["audit"]["output_l1"].is_number()).count() as u64, passes);
    assert_eq!(timeless(before), timeless(after));

    // The stored configuration includes the audit, so a rerun repeats it.
    let again = answer(&["run", "--config", "audited.mp4.toml", "--out", "again.mp4"], d);
    assert_eq!(again["parts"], audited["parts"]);
}

#[test]
fn a_drift_budget_of_nothing_leaves_no_skip() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let dense = ["run", "--steps", "14", "--frames", "5", "--out", "dense.mp4"];
    answer(&dense, d);
    let budget = ["--audit", "1", "--drift-budget", "0", "--on-drift", "disable", "--out", "none.mp4"];
    let found = answer(&run(&budget), d);
    for part in found["parts"].as_array().unwrap() {
        assert_eq!(part["skipped"], 0);
        assert!(part["computed_because"]["drift-budget"].as_u64().unwrap() > 1);
        assert_eq!(part["audit"]["audited"], 1, "the one that passed it");
    }
    assert_eq!(fs::read(d.join("dense.mp4")).unwrap(), fs::read(d.join("none.mp4")).unwrap());
}

#[test]
fn audits_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    refused(&run(&["--audit", "1.5"]), d, &["[audit]: `fraction` is 1.5, it must be between 0 and 1"]);
    refused(
        &run(&["--drift-budget", "0.5"]),
        d,
        &["`fraction` is 0: nothing is measured", "hint: --audit 0.1"],
    );
    refused(
        &run(&["--audit", "0.1", "--on-drift", "tighten"]),
        d,
        &["`on_drift` acts on a drift budget and there is none", "hint: --drift-budget 0.5"],
    );
    refused(&run(&["--audit", "0.1", "--on-drift", "panic"]), d, &["panic", "tighten"]);
}
