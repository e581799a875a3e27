//! The report of a finished run.

use anyhow::Result;
use magcache_core::error::count;
use magcache_models::pipeline::{PassTime, TextUses};
use serde_json::{Value, json};

use super::generate::Done;
use crate::{
    calibration::{Judged, judge},
    files::wrote,
    job::{Chosen, Job, strategies},
    summary::{self, Summary, strip},
};

/// The report as text for a terminal and as a JSON document.
pub(super) fn report(job: &Job, judged: &[Judged], done: &Done) -> Result<(String, Value)> {
    let Done { generation, outputs, started, resumed_at, meter } = done;
    let seconds = started.elapsed().as_secs_f64();
    let transformer = generation.transformer_time().as_secs_f64();
    let experts = job.pipeline.meta().experts.clone();
    let steps = job.trajectory.steps().count();
    let here = match resumed_at {
        Some(step) => format!(", {} of them", job.trajectory.end().saturating_sub(*step)),
        None => String::new(),
    };
    let mut text =
        format!("{}{here} in {seconds:.2} s, transformer {transformer:.2} s\n", count(steps, "step"));
    let mut document = json!({
        "config": serde_json::to_value(&job.config)?,
        "profile_verdict": judge::json(judged),
        "skipped": null,
        "seconds": seconds,
        "transformer_seconds": transformer,
        "failsafes": 0,
        "planned": job.chosen.as_ref().map(Chosen::json),
        "resumed_at": resumed_at,
        "audited_passes": 0,
        "audited_seconds": 0.0,
        "text_keys_values": null,
        "fetched": null,
        "outputs": outputs,
    });
    if let Some(session) = generation.session() {
        let run = &job.trajectory;
        let summary = Summary::of(session.log(), session.registry(), job.pipeline.meta(), run);
        for (branch, strip) in strip::lines(session.log(), run) {
            text += &format!("  {branch:>7} {strip}\n");
        }
        let names = strategies(&job.cache);
        text += &summary.text(&experts, &names);
        text += &summary.modules_text();
        text += &format!(
            "  skipped {} of {}, {}, cache {} at the peak, {} evicted\n",
            summary.skipped(),
            count(summary.passes, "pass"),
            summary.ceiling_text(),
            summary::bytes(session.slots().peak_bytes()),
            session.slots().evicted(),
        );
        if !summary.audited.is_empty() {
            let audited = |t: &&PassTime| summary.audited.contains(&(t.step, t.branch));
            let took = generation.times().iter().filter(audited).map(|t| t.time.as_secs_f64()).sum::<f64>();
            let passes = summary.audited.len();
            text += &format!(
                "  {} audited, in {took:.2} s that are no part of the ceiling\n",
                count(passes, "pass")
            );
            document["audited_passes"] = json!(passes);
            document["audited_seconds"] = json!(took);
        }
        for (reason, n) in &summary.failsafes {
            text += &format!("  {} {reason}\n", count(*n, "time"));
        }
        document["skipped"] = summary.skipped_by_branch();
        document["parts"] = summary.json(&experts, &names);
        document["modules"] = summary.modules_json();
        document["experts"] = summary.totals_json(&experts);
        document["ceiling"] = json!(summary.ceiling());
        document["failsafes"] = json!(summary.failsafes.values().sum::<usize>());
        document["cache_bytes"] = json!(session.slots().peak_bytes());
    }
    if let Some(TextUses { computed, reused }) = generation.text_uses() {
        text += &format!("  keys and values of the text computed {computed} times, reused {reused} times\n");
        document["text_keys_values"] = json!({ "computed": computed, "reused": reused });
    }
    if let Some((line, fetched)) = meter.report(generation.times()) {
        text += &line;
        document["fetched"] = fetched;
    }
    text += &wrote(outputs);
    Ok((text, document))
}
