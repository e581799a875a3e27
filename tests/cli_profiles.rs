//! Inspecting schedules, profiles and traces, as a user does.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use magcache_core::profile::Profile;
// Links the built-in profiles into this test binary.
use magcache_models as _;
use serde_json::{Value, json};

use program::{answer, magcache, refused};

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
    // Computed steps are filled: 18 of 40 are skipped.
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

/// The verdict on the profile of a plan, and its reasons.
fn verdict(args: &[&str], folder: &Path) -> (String, Vec<String>) {
    let found = &answer(args, folder)["profile_verdict"];
    let reasons = found["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned());
    (found["verdict"].as_str().unwrap().to_owned(), reasons.collect())
}

#[test]
fn a_profile_is_exact_for_the_runs_that_it_was_measured_on() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["wan2.1-t2v-tiny", "wan2.2-t2v-tiny", "wan2.2-i2v-tiny", "tiny-flux"] {
        for cache in ["magcache", "teacache"] {
            let args = ["run", "--model", model, "--cache", cache, "--dry-run"];
            assert_eq!(verdict(&args, dir.path()), ("exact".to_owned(), Vec::new()), "{model} {cache}");
        }
    }
    let none = answer(&["run", "--cache", "fbcache", "--dry-run"], dir.path());
    assert!(none["profile_verdict"].is_null(), "{none}");
    let inline = ["run", "--cache", "magcache", "--set", "ratios=[1.0, 0.9]", "--dry-run"];
    assert!(answer(&inline, dir.path())["profile_verdict"].is_null());
}

#[test]
fn a_profile_says_what_it_was_measured_on_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let other = ["--steps", "20", "--frames", "9", "--guidance", "2", "--dry-run"];
    let (kind, reasons) = verdict(&[&["run", "--cache", "magcache"][..], &other].concat(), d);
    let expected = ["steps 30, the run has 20", "guidance 3.0, the run has 2.0", "frames 17, the run has 9"];
    assert_eq!((kind.as_str(), reasons), ("usable", expected.map(str::to_owned).to_vec()));

    // Each member reads only its own part of a profile.
    fs::write(
        d.join("two.toml"),
        "[[cache]]\nstrategy = \"priority\"\nmembers = [{ strategy = \"fbcache\" }, { strategy = \"teacache\" }]\n",
    )
    .unwrap();
    let found = answer(&["run", "--config", "two.toml", "--dry-run"], d);
    assert_eq!(found["profile_verdict"]["caches"][0]["strategy"], "teacache");

    let published = ["run", "--cache", "magcache", "--profile", "wan2.1-t2v-1.3b", "--dry-run"];
    let said = "it is of wan2.1-t2v, the run's model is wan2.1-t2v-tiny";
    refused(&published, d, &["is not for this run of magcache", said, "with --force"]);
    let (kind, reasons) = verdict(&[&published[..], &["--force"]].concat(), d);
    assert_eq!((kind.as_str(), reasons[0].as_str()), ("refused", said));

    let moved = ["schedule", "--model", "wan2.2-t2v-tiny", "--flow-shift", "5"];
    refused(&moved, d, &["its first expert would run 26 of 40 steps", "flow_shift 12.0, the run has 5.0"]);
    assert_eq!(answer(&[&moved[..], &["--force"]].concat(), d)["profile_verdict"]["verdict"], "refused");
    // A published curve says little about its origin: known differences are reported and nothing is refused.
    let published = ["schedule", "--profile", "wan2.2-t2v-a14b", "--steps", "40", "--flow-shift", "5"];
    let (kind, reasons) = verdict(&published, d);
    assert_eq!(kind, "usable");
    for part in [
        "its first expert would run 26",
        "flow_shift 12.0, the run has 5.0",
        "it does not say its checkpoint",
    ] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
}

#[test]
fn a_profile_of_other_weights_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = ["--model", "tiny-flux", "--steps", "9", "--size", "48x40"];
    answer(&[&["calibrate", "--seeds", "1", "--out", "own.toml"][..], &model].concat(), d);
    let run = [&["run", "--cache", "magcache", "--profile", "own.toml", "--dry-run"][..], &model].concat();
    assert_eq!(verdict(&run, d).0, "exact");
    let planned = [&["run", "--budget", "5", "--profile", "own.toml", "--dry-run"][..], &model].concat();
    let found = &answer(&planned, d)["profile_verdict"];
    let caches = json!([{ "profile": "own.toml", "strategy": "the planned schedule", "verdict": "exact", "reasons": [] }]);
    assert_eq!(found["caches"], caches);

    let text = fs::read_to_string(d.join("own.toml")).unwrap();
    let own = &Profile::find(&d.join("own.toml").display().to_string()).unwrap().curves[0].source.measured["checkpoint"];
    let hash = own.as_str().unwrap();
    fs::write(d.join("own.toml"), text.replace(hash, &format!("000000{}", &hash[6..]))).unwrap();
    for run in [run, planned] {
        refused(&run, d, &["checkpoint 000000", "--force"]);
    }
}

#[test]
fn profiles_are_compared_and_what_differs_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let diff = |args: &[&str], code: i32| -> Value {
        let out = magcache(&[&["profile", "diff"][..], args, &["--json"]].concat(), d);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    for name in ["wan2.1-t2v-tiny", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b", "flux.1-dev", "tiny-flux"] {
        let same = diff(&[name, name], 0);
        assert_eq!((&same["equal"], &same["conditions"]), (&true.into(), &json!([])), "{name}");
    }
    // Values of two published curves; the differences were worked out by hand.
    let (a, b) = ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b");
    let found = diff(&[a, b, "--plot", "both.svg"], 1);
    let [a, b] =
        [a, b].map(|name| Profile::find(name).unwrap().curves.remove(0).ratios.remove("cond").unwrap());
    let apart: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).collect();
    let largest = apart.iter().copied().fold(0.0, f64::max);
    let cond = found["values"].as_array().unwrap().iter().find(|v| v["of"] == "curve, cond").unwrap();
    assert_eq!((cond["largest"].as_f64(), cond["quantity"].as_str()), (Some(largest), Some("ratio")));
    assert_eq!(apart[cond["at"]["step"].as_f64().unwrap() as usize], largest);
    let svg = fs::read_to_string(d.join("both.svg")).unwrap();
    assert!(svg.contains("wan2.1-t2v-1.3b (line) and wan2.1-t2v-14b (broken)"));

    // Moving one value of a profile by a thousandth changes the decisions.
    let plan = |profile: &str| {
        let args =
            ["schedule", "--cache", "magcache", "--steps", "30", "--flow-shift", "3", "--profile", profile];
        answer(&args, d)["skipped"]["cond"].clone()
    };
    let text = toml::to_string(&Profile::find("wan2.1-t2v-tiny").unwrap()).unwrap();
    fs::write(d.join("same.toml"), &text).unwrap();
    fs::write(d.join("other.toml"), text.replace("0.985432446", "0.885432446")).unwrap();
    assert_eq!(diff(&["wan2.1-t2v-tiny", "same.toml"], 0)["equal"], true);
    let moved = diff(&["wan2.1-t2v-tiny", "other.toml"], 1);
    assert_eq!(moved["values"].as_array().unwrap().iter().filter(|v| v["largest"] != 0.0).count(), 1);
    let skipped = &moved["decisions"][0];
    assert_eq!((&skipped["skipped_a"], &skipped["skipped_b"]), (&plan("same.toml"), &plan("other.toml")));
    assert_ne!(skipped["skipped_a"], skipped["skipped_b"]);
    assert_eq!(diff(&["wan2.1-t2v-tiny", "other.toml", "--tolerance", "0.11"], 0)["equal"], true);

    refused(&["profile", "diff", "same.toml", "none.toml"], d, &["none.toml"]);
    refused(&["profile", "diff", "same.toml", "wan2.1-t2v-14"], d, &["did you mean"]);
    refused(&["profile", "diff", "same.toml", "same.toml", "--tolerance", "nan"], d, &["--tolerance"]);
    refused(&["profile", "diff", "same.toml", "same.toml", "--plot", "x.gif"], d, &[".svg or .png"]);
}

#[test]
fn a_trace_is_replayed_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let diff = |a: &str, b: &str, code: i32| -> Value {
        let out = magcache(&["trace", "diff", a, b, "--json"], d);
        assert_eq!(out.status.code(), Some(code), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let run = |model: &str, steps: &str, cache: &[&str], name: &str| {
        let (trace, gif) = (format!("{name}.jsonl"), format!("{name}.gif"));
        let args =
            ["run", "--model", model, "--steps", steps, "--frames", "5", "--out", &gif, "--trace", &trace];
        answer(&[&args[..], cache, &["--overwrite"]].concat(), d)
    };
    let two = ["--flow-shift", "12"];
    for (model, steps, cache) in [
        ("wan2.1-t2v-tiny", "12", vec!["--cache", "teacache", "--set", "threshold=0.2"]),
        ("wan2.2-t2v-tiny", "12", [&["--cache", "magcache", "--set", "threshold=0.2"][..], &two].concat()),
    ] {
        run(model, steps, &cache, "a");
        let flags: Vec<&str> = cache.iter().copied().skip(4).collect();
        run(model, steps, &[&["--cache", "replay:a.jsonl"][..], &flags].concat(), "b");
        assert_eq!(fs::read(d.join("a.gif")).unwrap(), fs::read(d.join("b.gif")).unwrap(), "{model}");
        let found = diff("a.jsonl", "b.jsonl", 0);
        assert_eq!(found["lines"], json!([24, 24]));
        let strategies = found["strategies"].as_array().unwrap();
        assert!(strategies.len() == 24 && strategies[0]["b"] == "schedule", "{found}");
        let trace = fs::read_to_string(d.join("a.jsonl")).unwrap();
        assert!(trace.contains("\"reuse\""), "{model} skips nothing");
    }
    run("wan2.1-t2v-tiny", "12", &["--cache", "teacache", "--set", "threshold=0.2"], "c");
    run("wan2.1-t2v-tiny", "12", &["--cache", "teacache", "--set", "threshold=0.1"], "e");
    let found = diff("c.jsonl", "e.jsonl", 1);
    let decisions = found["decisions"].as_array().unwrap();
    assert!(decisions.iter().any(|one| one["a"] == "reuse" && one["b"] == "compute"), "{found}");
    run("wan2.1-t2v-tiny", "10", &["--cache", "teacache", "--set", "threshold=0.2"], "f");
    let found = diff("c.jsonl", "f.jsonl", 1);
    assert_eq!(found["only_in_a"].as_array().unwrap().len(), 4);
    assert_eq!(found["settings"].as_array().unwrap().len(), 20);

    fs::write(d.join("bad.jsonl"), "{}\n").unwrap();
    refused(&["trace", "diff", "c.jsonl", "bad.jsonl"], d, &["bad.jsonl:1: not a line of a trace"]);
    refused(&["trace", "diff", "none.jsonl", "c.jsonl"], d, &["none.jsonl"]);
}
