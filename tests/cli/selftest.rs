//! `selftest`: what it finds on a CPU, and that it finds something that is wrong.

use std::{fs, path::Path};

use serde_json::Value;

use crate::program::{Shell, list};

/// The checks of a group, with the verdict of each.
fn checks(report: &Value, group: &str) -> Vec<(String, String)> {
    let of_group = list(&report["checks"]).iter().filter(|check| check["group"] == group);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    of_group.map(|check| (text(&check["name"]), text(&check["verdict"]))).collect()
}

/// A copy of a reference case.
fn copy(sh: &Shell, case: &str) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(case);
    let to = sh.path("case");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to.display().to_string()
}

#[test]
fn a_cpu_passes_and_the_report_says_what_was_looked_at() {
    let sh = Shell::new();
    let case = copy(&sh, "transformers/wan21_t2v");
    let line = format!("selftest --quick --seconds 1 --cases {case} --out found");
    let answer = sh.answer(&line);
    let report: Value = serde_json::from_str(&sh.text("found/selftest.json")).unwrap();
    assert_eq!(answer["checks"], report["checks"]);
    let failed: Vec<&Value> =
        list(&report["checks"]).iter().filter(|check| check["verdict"] == "failed").collect();
    assert!(failed.is_empty() && report["ok"] == true, "{failed:?}");
    // Each of the three types for the case, and the error is a part of what it may be.
    let golden: Vec<_> = checks(&report, "golden").into_iter().map(|(name, _)| name).collect();
    assert_eq!(golden, ["f32", "bf16", "f16"].map(|dtype| format!("transformers/case, {dtype}")));
    let of_case = list(&report["checks"]).iter().filter(|check| check["group"] == "golden");
    let values: Vec<f64> = of_case.map(|check| check["value"].as_f64().unwrap()).collect();
    assert!(values.iter().all(|value| *value > 0.0 && *value <= 1.0), "{values:?}");
    for (group, least) in
        [("attention", 3), ("operations", 16), ("pictures", 4), ("sessions", 3), ("copies", 3), ("memory", 3)]
    {
        let found = checks(&report, group);
        assert!(found.len() >= least, "{group}: {found:?}");
        assert!(found.iter().all(|(_, verdict)| verdict == "passed"), "{group}: {found:?}");
    }
    // Kernels and plain compositions are not the same code.
    let differ = list(&report["checks"]).iter().filter(|check| check["group"] == "operations");
    assert!(differ.filter(|check| check["value"].as_f64() > Some(0.0)).count() > 8, "{report}");
    let timings = list(&report["timings"]);
    let time = |name: &str| {
        let found = timings.iter().find(|timing| timing["name"].as_str().unwrap().starts_with(name));
        found.unwrap_or_else(|| panic!("{name}: {timings:?}"))
    };
    for name in ["matrix product", "copy", "attention of 1.3B", "autoencoder", "text encoder"] {
        assert!(time(name)["median_ms"].as_f64().unwrap() > 0.0, "{name}");
    }
    let [block, skipped] =
        ["block of 1.3B", "skipped pass of 1.3B"].map(|name| time(name)["median_ms"].as_f64());
    assert!(skipped < block, "{skipped:?} of {block:?}");
    // A strategy whose decisions are known ahead reads the device once for each step, for the velocity.
    let reads =
        |strategy: &str| time(&format!("computed pass of the default model, {strategy}"))["shape"].clone();
    assert!(reads("magcache").as_str().unwrap().starts_with("1.00 reads"), "{timings:?}");
    assert!(!reads("fbcache").as_str().unwrap().starts_with("1.00 reads"), "{timings:?}");
    let page = sh.text("found/selftest.html");
    assert!(page.contains("transformers/case, bf16") && !page.contains("src=\"http"), "{page}");
    sh.refused(&line, ["found exists already"]);
}

#[test]
fn a_case_that_is_not_reproduced_is_named_and_the_exit_code_is_1() {
    let sh = Shell::new();
    let case = copy(&sh, "transformers/wan21_t2v");
    let file = sh.path("case/golden.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
    let key = tensors.keys().find(|key| key.ends_with("sample")).unwrap().clone();
    let changed = (&tensors[&key] * 1.1).unwrap();
    tensors.insert(key, changed);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let line = format!("selftest --quick --only golden --cases {case} --out");
    let report = sh.document(format!("{line} damaged"), 1);
    let found = checks(&report, "golden");
    assert!(found.contains(&("transformers/case, f32".to_owned(), "failed".to_owned())), "{found:?}");
    assert!(sh.text("damaged/selftest.html").contains("FAILED"));
    // A file that cannot be read is a failed check as well, not the end of all others.
    sh.write("case/golden.safetensors", "nothing");
    let report =
        sh.document(format!("selftest --quick --only golden,operations --cases {case} --out unread"), 1);
    assert!(checks(&report, "golden").iter().all(|(_, verdict)| verdict == "failed"), "{report}");
    assert!(checks(&report, "operations").iter().all(|(_, verdict)| verdict == "passed"), "{report}");
}

#[test]
fn what_cannot_be_checked_is_said() {
    let sh = Shell::new();
    let report = sh.answer("selftest --quick --only golden --out none");
    assert_eq!(checks(&report, "golden"), [("reference cases".to_owned(), "not-run".to_owned())]);
    sh.hinted("selftest --cases nowhere", ["no reference case at nowhere"]);
    sh.hinted("selftest --device gpu", ["unknown device \"gpu\""]);
    sh.hinted("selftest --seconds 0", ["--seconds 0 is no time"]);
    // Without a name it has one that nothing has.
    sh.answer("selftest --quick --only attention");
    sh.answer("selftest --quick --only attention");
    assert!(sh.path("magcache-selftest/selftest.json").exists());
    assert!(sh.path("magcache-selftest-2/selftest.json").exists());
}
