//! Inspecting schedules and profiles, as a user does.

use magcache_core::profile::Profile;
use serde_json::{Value, json};

use crate::program::{Shell, list};

#[test]
fn a_schedule_is_drawn() {
    let sh = Shell::new();
    let model = "--profile wan2.2-t2v-a14b --steps 40 --flow-shift 12 --boundary 0.875";
    let cache = "--cache magcache --set threshold=0.04 --set max_skips=2 --set warmup=0.2";
    let plan = sh.answer(format!("schedule {model} {cache} --plot plan.svg"));
    let svg = sh.text(plan["outputs"][0].as_str().unwrap());
    assert_eq!(svg.matches("<circle").count(), 40 + 2, "a point for every step and two in the legend");
    // Computed steps are filled: 18 of 40 are skipped.
    assert_eq!(svg.matches("fill=\"#0072B2\"").count(), 40 - 18 + 1);
    assert!(svg.contains("magcache, 40 steps: 36 of 80 passes skipped") && svg.contains("low-noise"));

    sh.answer(format!("schedule {model} {cache} --plot plan.png"));
    assert!(sh.bytes("plan.png").starts_with(b"\x89PNG"));
    let ending = ["plan.jpg", ".svg or .png", "hint: --plot plan.svg"];
    sh.refused(format!("schedule {model} {cache} --plot plan.jpg"), ending);
    let dynamic = ["no schedule to draw before a run", "hint: magcache run --trace"];
    sh.refused("schedule --cache teacache --plot x.svg", dynamic);
}

/// The verdict on the profile of a plan, and its reasons.
fn verdict(sh: &Shell, line: &str) -> (String, Vec<String>) {
    let found = &sh.answer(line)["profile_verdict"];
    let reasons = list(&found["reasons"]).iter().map(|r| r.as_str().unwrap().to_owned());
    (found["verdict"].as_str().unwrap().to_owned(), reasons.collect())
}

#[test]
fn a_profile_is_exact_for_the_runs_that_it_was_measured_on() {
    let sh = Shell::new();
    for model in ["wan2.1-t2v-tiny", "wan2.2-t2v-tiny", "wan2.2-i2v-tiny", "tiny-flux"] {
        for cache in ["magcache", "teacache"] {
            let found = verdict(&sh, &format!("run --model {model} --cache {cache} --dry-run"));
            assert_eq!(found, ("exact".to_owned(), Vec::new()), "{model} {cache}");
        }
    }
    for cache in ["fbcache", "magcache --set 'ratios=[1.0, 0.9]'"] {
        let none = sh.answer(format!("run --cache {cache} --dry-run"));
        assert!(none["profile_verdict"].is_null(), "{none}");
    }
}

#[test]
fn a_profile_says_what_it_was_measured_on_or_is_refused() {
    let sh = Shell::new();
    let other = "run --cache magcache --steps 20 --frames 9 --guidance 2 --dry-run";
    let expected = ["steps 30, the run has 20", "guidance 3.0, the run has 2.0", "frames 17, the run has 9"];
    assert_eq!(verdict(&sh, other), ("usable".to_owned(), expected.map(str::to_owned).to_vec()));

    // Each member reads only its own part of a profile.
    let members = "members = [{ strategy = 'fbcache' }, { strategy = 'teacache' }]";
    sh.write("two.toml", format!("[[cache]]\nstrategy = 'priority'\n{members}\n"));
    let found = sh.answer("run --config two.toml --dry-run");
    assert_eq!(found["profile_verdict"]["caches"][0]["strategy"], "teacache");

    let published = "run --cache magcache --profile wan2.1-t2v-1.3b --dry-run";
    let said = "it is of wan2.1-t2v, the run's model is wan2.1-t2v-tiny";
    sh.refused(published, ["is not for this run of magcache", said, "with --force"]);
    let (kind, reasons) = verdict(&sh, &format!("{published} --force"));
    assert_eq!((kind.as_str(), reasons[0].as_str()), ("refused", said));

    let moved = "schedule --model wan2.2-t2v-tiny --flow-shift 5";
    let shift = "flow_shift 12.0, the run has 5.0";
    sh.refused(moved, ["its first expert would run 26 of 40 steps", shift]);
    assert_eq!(verdict(&sh, &format!("{moved} --force")).0, "refused");
    // A published curve says little about its origin: known differences are reported and nothing is refused.
    let (kind, reasons) = verdict(&sh, "schedule --profile wan2.2-t2v-a14b --steps 40 --flow-shift 5");
    assert_eq!(kind, "usable");
    for part in ["its first expert would run 26", shift, "it does not say its checkpoint"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
}

#[test]
fn a_profile_of_other_weights_is_refused() {
    let sh = Shell::new();
    let model = "--model tiny-flux --steps 9 --size 48x32";
    sh.answer(format!("calibrate --seeds 1 --out own.toml {model}"));
    let run = format!("run --cache magcache --profile own.toml --dry-run {model}");
    assert_eq!(verdict(&sh, &run).0, "exact");
    let planned = format!("run --budget 5 --profile own.toml --dry-run {model}");
    let exact = json!([{ "profile": "own.toml", "strategy": "the planned schedule", "verdict": "exact", "reasons": [] }]);
    assert_eq!(sh.answer(&planned)["profile_verdict"]["caches"], exact);

    let own = Profile::find(&sh.path("own.toml").display().to_string()).unwrap();
    let hash = own.curves[0].source.measured["checkpoint"].as_str().unwrap();
    sh.write("own.toml", sh.text("own.toml").replace(hash, &format!("000000{}", &hash[6..])));
    for run in [run, planned] {
        sh.refused(run, ["checkpoint 000000", "--force"]);
    }
}

#[test]
fn profiles_are_compared_and_what_differs_is_named() {
    let sh = Shell::new();
    let diff = |args: &str, code: i32| sh.document(format!("profile diff {args}"), code);
    for name in ["wan2.1-t2v-tiny", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b", "flux.1-dev", "tiny-flux"] {
        let same = diff(&format!("{name} {name}"), 0);
        assert_eq!((&same["equal"], &same["conditions"]), (&true.into(), &json!([])), "{name}");
    }
    // Values of two published curves; the differences were worked out by hand.
    let names = ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b"];
    let found = diff(&format!("{} --plot both.svg", names.join(" ")), 1);
    let [a, b] =
        names.map(|name| Profile::find(name).unwrap().curves.remove(0).ratios.remove("cond").unwrap());
    let apart: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).collect();
    let largest = apart.iter().copied().fold(0.0, f64::max);
    let cond = list(&found["values"]).iter().find(|v| v["of"] == "curve, cond").unwrap();
    assert_eq!((cond["largest"].as_f64(), cond["quantity"].as_str()), (Some(largest), Some("ratio")));
    assert_eq!(apart[cond["at"]["step"].as_f64().unwrap() as usize], largest);
    assert!(sh.text("both.svg").contains("wan2.1-t2v-1.3b (line) and wan2.1-t2v-14b (broken)"));

    // Moving one value of a profile by a tenth changes the decisions.
    let plan = |profile: &str| {
        let line = "schedule --cache magcache --steps 30 --flow-shift 3 --profile";
        sh.answer(format!("{line} {profile}"))["skipped"]["cond"].clone()
    };
    let text = Profile::find("wan2.1-t2v-tiny").unwrap().to_toml().unwrap();
    sh.write("same.toml", &text);
    // That of step 12.
    let ratios = text.split("[curve.ratios]").nth(1).unwrap().split("cond = [").nth(1).unwrap();
    let ratio = ratios.split(',').nth(12).unwrap().trim();
    let lower = ratio.parse::<f64>().unwrap() - 0.1;
    sh.write("other.toml", text.replacen(ratio, &lower.to_string(), 1));
    assert_eq!(diff("wan2.1-t2v-tiny same.toml", 0)["equal"], true);
    let moved = diff("wan2.1-t2v-tiny other.toml", 1);
    let differs = |value: &&Value| value["largest"] != 0.0;
    assert_eq!(list(&moved["values"]).iter().filter(differs).count(), 1);
    let skipped = &moved["decisions"][0];
    assert_eq!((&skipped["skipped_a"], &skipped["skipped_b"]), (&plan("same.toml"), &plan("other.toml")));
    assert_ne!(skipped["skipped_a"], skipped["skipped_b"]);
    assert_eq!(diff("wan2.1-t2v-tiny other.toml --tolerance 0.11", 0)["equal"], true);

    sh.refused("profile diff same.toml none.toml", ["none.toml"]);
    sh.refused("profile diff same.toml wan2.1-t2v-14", ["did you mean"]);
    sh.refused("profile diff same.toml same.toml --tolerance nan", ["--tolerance"]);
    sh.refused("profile diff same.toml same.toml --plot x.gif", [".svg or .png"]);
}
