//! Audits as a user meets them.

use serde_json::Value;

use crate::program::{Shell, list};

const RUN: &str = "run --steps 14 --frames 5 --cache fbcache --set threshold=0.2";

#[test]
fn an_audit_reports_errors_and_changes_no_byte() {
    let sh = Shell::new();
    let plain = sh.answer(format!("{RUN} --out plain.mp4 --trace plain.jsonl"));
    let audited = sh.answer(format!("{RUN} --out audited.mp4 --trace audited.jsonl --audit 0.5"));
    assert!(sh.same("plain.mp4", "audited.mp4"));
    assert_eq!(plain["skipped"], audited["skipped"]);
    assert_eq!((&plain["audited_passes"], &plain["audited_seconds"]), (&0.into(), &0.0.into()));

    let mut passes = 0;
    for part in list(&audited["parts"]) {
        let (skipped, audit) = (part["skipped"].as_u64().unwrap(), &part["audit"]);
        let count = audit["audited"].as_u64().unwrap();
        assert!(skipped > 1);
        assert_eq!(count, skipped.div_ceil(2), "every second one, the first among them");
        let error = |key: &str, of: &str| audit[key][of].as_f64().unwrap();
        for key in ["output_l1", "output_l2", "residual_l1", "residual_l2"] {
            assert!(0.0 < error(key, "mean") && error(key, "mean") <= error(key, "max"), "{key}: {audit}");
        }
        assert!(error("residual_l1", "mean") > error("output_l1", "mean"));
        let sum = error("output_l1", "mean") * count as f64;
        assert!((audit["drift"].as_f64().unwrap() - 2.0 * sum).abs() < 1e-9, "each counts for two");
        passes += count;
    }
    assert_eq!(audited["audited_passes"], passes);
    assert!(audited["audited_seconds"].as_f64().unwrap() > 0.0);
    assert!(audited["ceiling"].as_f64() < plain["ceiling"].as_f64(), "what was computed is not saved");

    let measured = |line: &&Value| line["audit"]["output_l1"].is_number();
    assert_eq!(sh.trace("audited.jsonl").iter().filter(measured).count() as u64, passes);
    let decisions = |name: &str| {
        let mut lines = sh.trace(name);
        for keys in lines.iter_mut().map(|line| line.as_object_mut().unwrap()) {
            keys.remove("microseconds");
            keys.remove("audit");
        }
        lines
    };
    assert_eq!(decisions("plain.jsonl"), decisions("audited.jsonl"));

    // The stored configuration includes the audit, so a rerun repeats it.
    let again = sh.answer("run --config audited.mp4.toml --out again.mp4");
    assert_eq!(again["parts"], audited["parts"]);
}

#[test]
fn a_drift_budget_of_nothing_leaves_no_skip() {
    let sh = Shell::new();
    sh.answer("run --steps 14 --frames 5 --out dense.mp4");
    let found = sh.answer(format!("{RUN} --audit 1 --drift-budget 0 --on-drift disable --out none.mp4"));
    for part in list(&found["parts"]) {
        assert_eq!(part["skipped"], 0);
        assert!(part["computed_because"]["drift-budget"].as_u64().unwrap() > 1);
        assert_eq!(part["audit"]["audited"], 1, "the one that passed it");
    }
    assert!(sh.same("dense.mp4", "none.mp4"));
}

#[test]
fn audits_that_make_no_sense_are_refused() {
    let sh = Shell::new();
    let cases: [(&str, &[&str]); 4] = [
        ("--audit 1.5", &["[audit]: `fraction` is 1.5, it must be between 0 and 1"]),
        ("--drift-budget 0.5", &["`fraction` is 0: nothing is measured", "hint: --audit 0.1"]),
        (
            "--audit 0.1 --on-drift tighten",
            &["`on_drift` acts on a drift budget and there is none", "hint: --drift-budget 0.5"],
        ),
        ("--audit 0.1 --on-drift panic", &["panic", "tighten"]),
    ];
    for (audit, expected) in cases {
        sh.refused(format!("{RUN} {audit}"), expected.iter().copied());
    }
}
