//! Reads a trace from `magcache run --trace run.jsonl`: how often each cache computed and reused, and why.
//!
//! `cargo run --release --example read_trace -- run.jsonl`; defaults to the lines below.
#![expect(clippy::print_stdout, reason = "it shows what it did")]

use std::{collections::BTreeMap, env, fs};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The fields that this program reads; for all of them see `docs/guide/why-was-this-step-skipped.md`.
#[derive(Deserialize)]
struct Line {
    branch: String,
    strategy: Option<String>,
    decision: String,
    reason: String,
}

const LINES: &str = r#"
{"step":0,"of":4,"branch":"cond","strategy":"fbcache","decision":"compute","reason":"warmup"}
{"step":1,"of":4,"branch":"cond","strategy":"fbcache","decision":"compute","reason":"over-threshold"}
{"step":2,"of":4,"branch":"cond","strategy":"fbcache","decision":"reuse","reason":"under-threshold"}
{"step":3,"of":4,"branch":"cond","strategy":"fbcache","decision":"compute","reason":"last-steps"}
"#;

/// Decisions by cache, branch, decision and reason.
fn counted(text: &str) -> Result<BTreeMap<[String; 4], usize>> {
    let mut counts = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).with_context(|| format!("line {}", i + 1))?;
        let key = [line.strategy.unwrap_or_default(), line.branch, line.decision, line.reason];
        *counts.entry(key).or_default() += 1;
    }
    Ok(counts)
}

fn main() -> Result<()> {
    let text = match env::args().nth(1) {
        Some(path) => fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?,
        None => LINES.to_owned(),
    };
    for ([strategy, branch, decision, reason], count) in counted(&text)? {
        println!("{strategy:<12} {branch:<8} {decision:<8} {reason:<20} {count:>5}");
    }
    Ok(())
}

#[test]
fn every_line_is_counted() {
    let counts = counted(LINES).unwrap();
    assert_eq!(counts.values().sum::<usize>(), 4);
    let reused = ["fbcache", "cond", "reuse", "under-threshold"].map(str::to_owned);
    assert_eq!(counts.get(&reused), Some(&1));
    assert!(counted("{}").is_err());
}
