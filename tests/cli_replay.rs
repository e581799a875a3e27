//! Schedules exported before a run or traced during it replay at the place where they were recorded, or are
//! refused.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use serde_json::Value;

use program::{answer, refused};

const VIDEO: [&str; 8] = ["--model", "wan2.1-t2v-tiny", "--steps", "8", "--size", "64x48", "--frames", "5"];
const PAIR: [&str; 10] =
    ["--model", "wan2.2-t2v-tiny", "--steps", "8", "--size", "64x48", "--frames", "5", "--flow-shift", "12"];

/// `[[cache]]` tables, and whether their skips are known before a run.
const CACHES: [(&str, bool); 7] = [
    ("strategy = \"schedule\"\nskip = [2, 5]\nat = \"forward\"", true),
    ("strategy = \"schedule\"\nskip = [2, 5]\nat = \"attn1\"", true),
    ("strategy = \"schedule\"\nskip = { cond = [2], uncond = [2, 6] }\nat = \"1..3\"", true),
    ("strategy = \"magcache\"\nthreshold = 0.4\nforecast = { type = \"taylor\", order = 2 }", true),
    ("strategy = \"easycache\"\nthreshold = 0.5", false),
    ("strategy = \"sencache\"\nthreshold = 9.0\nearly_threshold = 9.0", false),
    ("strategy = \"fbcache\"\nthreshold = 0.5", false),
];

fn parts(found: &Value) -> [&Value; 3] {
    [&found["skipped"], &found["modules"], &found["ceiling"]]
}

/// Checks that the cache of `c.toml` skips the same when replayed from the export and from the trace.
fn check(model: &[&str], table: &str, known: bool) {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("c.toml"), format!("[[cache]]\n{table}\n")).unwrap();
    let with = |command: &str, more: &[&str]| answer(&[&[command], model, more].concat(), d);
    let first = with("run", &["--config", "c.toml", "--out", "a.gif", "--trace", "a.jsonl"]);
    let again = with("run", &["--cache", "replay:a.jsonl", "--out", "b.gif", "--trace", "b.jsonl"]);
    assert_eq!(parts(&first), parts(&again), "{table}");
    let bytes = |file: &str| fs::read(d.join(file)).unwrap();
    assert!(bytes("a.gif") == bytes("b.gif"), "{table}: the traced schedule gives another clip");
    let diff = answer(&["trace", "diff", "a.jsonl", "b.jsonl"], d);
    assert_eq!((&diff["same_decisions"], &diff["compared_by"]), (&true.into(), &"hook".into()), "{table}");
    if known {
        with("schedule", &["--config", "c.toml", "--export", "e.toml"]);
        let replayed = with("schedule", &["--cache", "replay:e.toml"]);
        assert_eq!(parts(&first), parts(&replayed), "{table}");
        with("run", &["--cache", "replay:e.toml", "--out", "e.gif"]);
        assert!(bytes("a.gif") == bytes("e.gif"), "{table}: the exported schedule gives another clip");
    }
}

#[test]
fn a_replay_acts_where_the_first_run_did() {
    for (table, known) in CACHES {
        check(&VIDEO, table, known);
    }
}

#[test]
fn a_replay_of_one_expert_leaves_the_other_alone() {
    check(&PAIR, "strategy = \"schedule\"\nskip = [1, 2, 6]\nexperts = [\"high-noise\"]", true);
}

fn video<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&more[..1], &VIDEO, &more[1..]].concat()
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn what_a_schedule_cannot_say_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let own = ["what stands in for skipped steps is the strategy's own", "run the strategy itself again"];
    refused(&video(&["schedule", "--cache", "cfg-cache", "--export", "x.toml"]), d, &own);
    answer(&video(&["run", "--cache", "cfg-cache", "--out", "a.gif", "--trace", "a.jsonl"]), d);
    refused(&video(&["run", "--cache", "replay:a.jsonl"]), d, &own);

    write(d, "part.toml", "[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"attn1\"\n");
    refused(
        &video(&["schedule", "--config", "part.toml", "--export", "x.json"]),
        d,
        &["a mask is for all blocks, this schedule is around \"attn1\"", "--export FILE.toml"],
    );
    write(
        d,
        "old.jsonl",
        &fs::read_to_string(d.join("a.jsonl")).unwrap().replace("\"around\":\"forward\",", ""),
    );
    refused(&video(&["run", "--cache", "replay:old.jsonl"]), d, &["`around`", "trace the run again"]);

    write(d, "six.json", "[1, 1, 0, 1, 0, 1]");
    let six = ["the schedule is for runs of 6 steps, the run has 8", "--steps 6"];
    refused(&video(&["run", "--cache", "replay:six.json"]), d, &six);
    answer(&video(&["schedule", "--cache", "magcache", "--export", "eight.toml"]), d);
    let shorter = ["schedule", "--model", "wan2.1-t2v-tiny", "--steps", "7", "--cache", "replay:eight.toml"];
    refused(&shorter, d, &["the schedule is for runs of 8 steps, the run has 7"]);
}
