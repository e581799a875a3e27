//! The reference of configurations that the program prints.

use std::fs;

use crate::program::{Shell, list};

#[test]
fn the_keys_of_a_strategy_a_forecast_and_a_table_are_listed() {
    let sh = Shell::new();
    for (of, line) in [
        ("fbcache", "  ema  number, at least 0, below 1, default 0.0\n"),
        ("fbcache", "\"residual_rel_l1\": What the first block added"),
        ("taylor", "  order  whole number, 1 to 4, default 1\n"),
        ("[sampling]", "  guidance_2  number, at least 0\n"),
    ] {
        let [text, _] = sh.said(format!("list --keys {of}"));
        assert!(text.contains(line), "{text}");
    }
    // Both a forecast and a table have this name.
    let both = sh.answer("list --keys output");
    assert_eq!(list(&both).iter().map(|one| &one["kind"]).collect::<Vec<_>>(), ["table", "forecast"]);
    let front = &sh.answer("list --keys dbcache")[0]["keys"][1];
    let told = ["key", "type", "range"].map(|key| front[key].as_str().unwrap());
    assert_eq!(told, ["front", "whole number", "at least 1"]);
    assert!(list(&sh.answer("list --keys")).len() > 15);
    let near = ["unknown strategy, forecast or table \"fbcach\"", "did you mean \"fbcache\"?"];
    sh.refused("list --keys fbcach", near);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/configuration.md");
    assert_eq!(sh.said("list --keys --markdown")[0], fs::read_to_string(page).unwrap());
}

#[test]
fn a_schedule_that_depends_on_content_says_so_once() {
    let sh = Shell::new();
    let [text, _] = sh.said("schedule --cache fbcache");
    assert_eq!(text.matches("depends on content").count(), 1, "{text}");
    assert!(!text.contains(" cond"), "{text}");
    let [one, _] = sh.said("schedule --cache magcache --steps 1");
    assert!(one.contains(", 1 step,") && !one.contains("1 steps"), "{one}");
}
