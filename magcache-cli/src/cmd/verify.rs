//! `verify`: compares reference cases with what this build computes.

use anyhow::Result;
use magcache_models::checkpoint::Ops;

use crate::{
    args::Verify,
    console::{Console, Failed},
    verify,
};

pub(crate) fn run(args: &Verify, ops: Ops, out: &Console) -> Result<()> {
    let spinner = out.spinner("verifying");
    let report = verify::run(&args.cases, args.allow_skipped, ops);
    spinner.finish_and_clear();
    let report = report?;
    out.answer(&report.to_string(), &serde_json::to_value(&report)?);
    if report.ok { Ok(()) } else { Err(Failed(report.verdict()).into()) }
}
