//! Schedules exported before a run or traced during it replay at the place where they were recorded, or are
//! refused; traces are compared.

use serde_json::{Value, json};

use crate::program::{Shell, list};

const VIDEO: &str = "--model wan2.1-t2v-tiny --steps 8 --size 64x48 --frames 5";
const PAIR: &str = "--model wan2.2-t2v-tiny --steps 8 --size 64x48 --frames 5 --flow-shift 12";

/// `[[cache]]` tables, and whether their skips are known before a run.
const CACHES: [(&str, bool); 8] = [
    ("strategy = 'schedule'\nskip = [2, 5]\nat = 'forward'", true),
    ("strategy = 'schedule'\nskip = [2, 5]\nat = 'attn1'", true),
    ("strategy = 'schedule'\nskip = { cond = [2], uncond = [2, 6] }\nat = '1..3'", true),
    ("strategy = 'magcache'\nthreshold = 0.4\nforecast = { type = 'taylor', order = 2 }", true),
    ("strategy = 'easycache'\nthreshold = 0.5", false),
    ("strategy = 'sencache'\nthreshold = 9.0\nearly_threshold = 9.0", false),
    ("strategy = 'fbcache'\nthreshold = 0.5", false),
    ("strategy = 'teacache'\nthreshold = 0.2", false),
];

fn parts(found: &Value) -> [&Value; 3] {
    [&found["skipped"], &found["modules"], &found["ceiling"]]
}

/// Checks that a cache skips the same when replayed from the export and from the trace.
fn check(model: &str, table: &str, known: bool) {
    let sh = Shell::new();
    sh.write("c.toml", format!("[[cache]]\n{table}\n"));
    let first = sh.answer(format!("run {model} --config c.toml --out a.gif --trace a.jsonl"));
    let again = sh.answer(format!("run {model} --cache replay:a.jsonl --out b.gif --trace b.jsonl"));
    assert_eq!(parts(&first), parts(&again), "{table}");
    assert!(sh.same("a.gif", "b.gif"), "{table}: the traced schedule gives another clip");
    assert!(sh.text("a.jsonl").contains("\"reuse\""), "{table} skips nothing");
    let diff = sh.answer("trace diff a.jsonl b.jsonl");
    assert_eq!((&diff["same_decisions"], &diff["compared_by"]), (&true.into(), &"hook".into()), "{table}");
    if known {
        sh.answer(format!("schedule {model} --config c.toml --export e.toml"));
        let replayed = sh.answer(format!("schedule {model} --cache replay:e.toml"));
        assert_eq!(parts(&first), parts(&replayed), "{table}");
        sh.answer(format!("run {model} --cache replay:e.toml --out e.gif"));
        assert!(sh.same("a.gif", "e.gif"), "{table}: the exported schedule gives another clip");
    }
}

#[test]
fn a_replay_acts_where_the_first_run_did() {
    for (table, known) in CACHES {
        check(VIDEO, table, known);
    }
}

#[test]
fn a_replay_of_one_expert_leaves_the_other_alone() {
    check(PAIR, "strategy = 'schedule'\nskip = [1, 2, 6]\nexperts = ['high-noise']", true);
    check(PAIR, "strategy = 'magcache'\nthreshold = 0.2", true);
}

#[test]
fn what_a_schedule_cannot_say_is_refused() {
    let sh = Shell::new();
    let own = ["what stands in for skipped steps is the strategy's own", "run the strategy itself again"];
    sh.refused(format!("schedule {VIDEO} --cache cfg-cache --export x.toml"), own);
    sh.answer(format!("run {VIDEO} --cache cfg-cache --out a.gif --trace a.jsonl"));
    sh.refused(format!("run {VIDEO} --cache replay:a.jsonl"), own);

    sh.write("part.toml", "[[cache]]\nstrategy = 'schedule'\nskip = [2]\nat = 'attn1'\n");
    let part = ["a mask is for all blocks, this schedule is around \"attn1\"", "--export FILE.toml"];
    sh.refused(format!("schedule {VIDEO} --config part.toml --export x.json"), part);
    sh.write("old.jsonl", sh.text("a.jsonl").replace("\"around\":\"forward\",", ""));
    sh.refused(format!("run {VIDEO} --cache replay:old.jsonl"), ["`around`", "trace the run again"]);

    sh.write("six.json", "[1, 1, 0, 1, 0, 1]");
    let six = ["the schedule is for runs of 6 steps, the run has 8", "--steps 6"];
    sh.refused(format!("run {VIDEO} --cache replay:six.json"), six);
    sh.answer(format!("schedule {VIDEO} --cache magcache --export eight.toml"));
    let eight = ["the schedule is for runs of 8 steps, the run has 7"];
    sh.refused("schedule --model wan2.1-t2v-tiny --steps 7 --cache replay:eight.toml", eight);
}

#[test]
fn traces_are_compared_pass_by_pass() {
    let sh = Shell::new();
    let run = |name: &str, steps: usize, cache: &str| {
        let size = "run --model wan2.1-t2v-tiny --frames 5 --size 64x48";
        sh.answer(format!("{size} --steps {steps} --cache {cache} --out {name}.gif --trace {name}.jsonl"));
    };
    let diff = |a: &str, b: &str, code: i32| sh.document(format!("trace diff {a}.jsonl {b}.jsonl"), code);
    run("a", 12, "teacache --set threshold=0.2");
    let first = &sh.trace("a.jsonl")[0];
    assert_eq!(["strategy", "branch", "decision"].map(|key| &first[key]), ["teacache", "cond", "compute"]);

    run("b", 12, "replay:a.jsonl");
    let found = diff("a", "b", 0);
    assert_eq!(found["lines"], json!([24, 24]), "one line for every pass");
    let strategies = list(&found["strategies"]);
    assert!(strategies.len() == 24 && strategies[0]["b"] == "schedule", "{found}");

    run("c", 12, "teacache --set threshold=0.1");
    let found = diff("a", "c", 1);
    let fewer = |one: &Value| one["a"] == "reuse" && one["b"] == "compute";
    assert!(list(&found["decisions"]).iter().any(fewer), "{found}");
    run("d", 10, "teacache --set threshold=0.2");
    let found = diff("a", "d", 1);
    assert_eq!((list(&found["only_in_a"]).len(), list(&found["settings"]).len()), (4, 20));

    sh.write("bad.jsonl", "{}\n");
    sh.refused("trace diff a.jsonl bad.jsonl", ["bad.jsonl:1: not a line of a trace"]);
    sh.refused("trace diff none.jsonl a.jsonl", ["none.jsonl"]);
}
