//! Reference cases: recomputes what they hold and compares it.
//!
//! A case is a folder of recorded calls (`case.json`, `golden.safetensors` and, for calls of a model, its
//! configuration and weights), or a JSON table of decisions or counts. What this build cannot run is reported
//! with the reason, case by case and tensor by tensor; nothing is left out silently.

#![expect(clippy::disallowed_methods, reason = "results are compared on the host")]

mod assemble;
mod cache_e2e;
mod call;
mod case;
mod class;
mod condition;
mod find;
mod flux;
mod frequencies;
mod image_vae;
mod pictures;
mod pipeline;
mod prompts;
mod qwen_image;
mod replay;
mod report;
mod s2v;
mod schedule_search;
mod scheduler;
mod setting;
mod strategy_tables;
mod tables;
mod text_encoder;
mod tokenizers;
mod transformer;
mod vae;
mod wan;
mod weight_files;
mod z_image;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use self::{case::Case, find::Found};
use crate::console::bad_input;

pub use self::{
    report::{CallReport, CaseReport, NotCompared, VerifyReport},
    setting::{Half, Setting},
};

/// Runs every case that `paths` name: case folders, folders of cases, tables, and patterns with `*`.
///
/// `on` is where networks compute, and with which operations. `allow_skipped`: a case that this build cannot
/// run is not a failure.
///
/// Errors: a path without cases, a damaged case, or a failed computation. A difference is not an error; it is
/// in the report.
pub fn run(paths: &[PathBuf], allow_skipped: bool, on: impl Into<Setting>) -> Result<VerifyReport> {
    let (mut cases, on) = (Vec::new(), on.into());
    for source in find::find(paths)? {
        let place = || format!("cannot verify {}", source.path().display());
        cases.push(check(&source, &on).with_context(place)?);
    }
    let ok = cases.iter().all(|case| case.ok || (allow_skipped && case.skipped.is_some()));
    Ok(VerifyReport { ok, cases })
}

/// The path of every case that `paths` name, each once, in order; without tables and what else has no network
/// if `networks` is set.
///
/// Errors: a path without cases, a folder whose `case.json` cannot be read.
pub(crate) fn list(paths: &[PathBuf], networks: bool) -> Result<Vec<Listed>> {
    let found = find::find(paths)?;
    let one = |source: &Found| -> Result<Listed> {
        let group = match source {
            Found::Case(path) => case::group_of(path)?,
            Found::Table(..) => String::new(),
        };
        Ok(Listed {
            path: source.path().to_owned(),
            network: setting::NETWORKS.contains(&group.as_str()),
            in_half: setting::IN_HALF.contains(&group.as_str()),
        })
    };
    let all = found.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|case| case.network || !networks).collect())
}

/// A case, and where it can run.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    /// Whether it has a network, which a device runs; else it is about what hosts compute.
    pub(crate) network: bool,
    /// Whether that computes in half precision if its weights have it.
    pub(crate) in_half: bool,
}

fn check(source: &Found, on: &Setting) -> Result<CaseReport> {
    let path = match source {
        Found::Table(path, json) => return table(path, json),
        Found::Case(path) => path,
    };
    let case = Case::open(path, on)?;
    let mut report = CaseReport::new(case.label()).with_slack(case.on.slack());
    match case.group() {
        "transformers" => {
            if let Some(class) = class::of(&case, &mut report)? {
                (class.calls)(&case, &mut report)?;
            }
        }
        "text_encoders" => text_encoder::check(&case, &mut report)?,
        "vaes" if condition::is_one(&case) => condition::check(&case, &mut report)?,
        "vaes" => match case.class()?.as_str() {
            class if vae::CLASSES.contains(&class) => vae::check(&case, &mut report)?,
            class if image_vae::CLASSES.contains(&class) => image_vae::check(&case, &mut report)?,
            class => report.skip(format!("this build has no {class}")),
        },
        "schedulers" => scheduler::check(&case, &mut report)?,
        "prompts" => prompts::check(&case, &mut report)?,
        "tokenizers" => tokenizers::check(&case, &mut report)?,
        "pictures" => pictures::check(&case, &mut report)?,
        "s2v" => s2v::check(&case, &mut report)?,
        "pipelines" => pipeline::check(&case, &mut report)?,
        "schedule_search" => schedule_search::check(&case, &mut report)?,
        "cache_e2e" | "strategy_e2e" => cache_e2e::check(&case, &mut report)?,
        group if weight_files::GROUPS.contains(&group) => weight_files::check(&case, &mut report)?,
        other => report.skip(format!("this build knows no cases of {other:?}")),
    }
    if !report.calls.is_empty() && ["transformers", "text_encoders", "vaes", "s2v"].contains(&case.group()) {
        let unread = case.folder.unread();
        report.count("weights", "tensors left unread", unread.len(), 1, unread.first().cloned());
    }
    report.finish()
}

/// `cache_tables/teacache.json` is `cache_tables/teacache`; `schedulers/wan22_boundary/boundary.json`, a file
/// that represents its folder, is `schedulers/wan22_boundary`.
fn table(path: &Path, json: &Value) -> Result<CaseReport> {
    let path = &std::path::absolute(path)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let boundary = scheduler::is_boundary(json);
    let (folder, name) =
        if boundary { (parent.parent(), parent.file_name()) } else { (Some(parent), path.file_stem()) };
    let names = [folder.and_then(Path::file_name), name].into_iter().flatten();
    let mut report = CaseReport::new(names.map(|n| n.to_string_lossy()).collect::<Vec<_>>().join("/"));
    if boundary {
        scheduler::boundary(json, &mut report)?;
        return report.finish();
    }
    if strategy_tables::check(json, &mut report).map_err(|e| bad_input(format!("{e:#}")))? {
        return report.finish();
    }
    if let Some(keys) = tables::unknown(json) {
        report.skip(format!("this build knows no tables with rows of {keys}"));
        return report.finish();
    }
    let table = tables::check(json).map_err(|e| bad_input(format!("{e:#}")))?;
    let first = table.mismatches.first().cloned();
    report.count("rows", "decisions", table.mismatches.len(), table.rows, first);
    report.finish()
}
