//! The configuration reference, and the messages for an invalid file or flag.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::fs;

use program::{answer, magcache, refused};

/// The standard output.
fn printed(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = magcache(args, dir.path());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn the_keys_of_a_strategy_a_forecast_and_a_table_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let text = printed(&["list", "--keys", "fbcache"]);
    assert!(text.contains("  ema  number, at least 0, below 1, default 0.0\n"), "{text}");
    assert!(text.contains("\"residual_rel_l1\": What the first block added"), "{text}");
    assert!(printed(&["list", "--keys", "taylor"]).contains("  order  whole number, 1 to 4, default 1\n"));
    assert!(printed(&["list", "--keys", "[sampling]"]).contains("  guidance_2  number, at least 0\n"));
    // Both a forecast and a table have this name.
    let both = answer(&["list", "--keys", "output"], dir.path());
    let kinds: Vec<&str> = both.as_array().unwrap().iter().map(|s| s["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["table", "forecast"]);
    let found = answer(&["list", "--keys", "dbcache"], dir.path());
    let front = &found[0]["keys"].as_array().unwrap()[1];
    assert_eq!(
        (&front["key"], &front["type"], &front["range"]),
        (&"front".into(), &"whole number".into(), &"at least 1".into())
    );
    assert!(answer(&["list", "--keys"], dir.path()).as_array().unwrap().len() > 15);
    refused(
        &["list", "--keys", "fbcach"],
        dir.path(),
        &["unknown strategy, forecast or table \"fbcach\"", "did you mean \"fbcache\"?"],
    );
    let page =
        fs::read_to_string(format!("{}/../docs/reference/configuration.md", env!("CARGO_MANIFEST_DIR")))
            .unwrap();
    assert_eq!(printed(&["list", "--keys", "--markdown"]), page);
}

#[test]
fn a_key_of_another_shape_is_told_in_words_that_can_be_typed() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let case = |toml: &str, expected: &[&str]| {
        fs::write(d.join("run.toml"), toml).unwrap();
        refused(&["run", "--config", "run.toml"], d, expected);
    };
    case("[cache]\nstrategy = \"fbcache\"", &["`cache` is a table, it must be a list", "hint: [[cache]]"]);
    case("[[sampling]]\nsteps = 3", &["`sampling` is a list, it must be a table", "hint: [sampling]"]);
    case(
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = \"taylor\"",
        &["a table with `type`", "hint: forecast = { type = \"taylor\" }"],
    );
    refused(
        &["run", "--device", "metal"],
        d,
        &["no build of this program computes with Metal", "hint: --device cpu"],
    );
}

#[test]
fn a_schedule_that_depends_on_content_says_so_once() {
    let text = printed(&["schedule", "--cache", "fbcache"]);
    assert_eq!(text.matches("depends on content").count(), 1, "{text}");
    assert!(!text.contains(" cond"), "{text}");
    let one = printed(&["schedule", "--cache", "magcache", "--steps", "1"]);
    assert!(one.contains(", 1 step,") && !one.contains("1 steps"), "{one}");
}
