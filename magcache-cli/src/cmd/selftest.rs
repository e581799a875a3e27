//! `selftest`: checks a device, and measures it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use magcache_models::checkpoint::Ops;

use crate::{
    args::{Group, Selftest},
    console::{Console, Failed, Interrupt, bad_input_with},
    files::{Writes, unused, wrote},
    job::device,
    machine::{self, Machine},
    media::{self, StagedFolder},
    selftest::{self, Report, Setup, Verdict},
};

const JSON: &str = "selftest.json";
const PAGE: &str = "selftest.html";

/// Where a checkout of the repository has its reference cases.
const CASES: &str = "tests/fixtures/golden";

pub(crate) fn run(args: &Selftest, ops: Ops, out: &Console) -> Result<()> {
    let folder =
        args.out.clone().unwrap_or_else(|| unused("magcache-selftest", args.writing, &|_| Vec::new()));
    Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
    if !(args.seconds.is_finite() && args.seconds > 0.0) {
        return Err(bad_input_with(format!("--seconds {} is no time", args.seconds), "--seconds 10"));
    }
    let setup = Setup {
        device: device(&args.device)?,
        ops,
        quick: args.quick,
        cases: cases(args)?,
        seconds: args.seconds,
        interrupt: Interrupt::listen()?,
    };
    let free_memory = machine::free_memory(&setup.device);
    let mut groups = if args.only.is_empty() { Group::value_variants().to_vec() } else { args.only.clone() };
    groups.sort_unstable();
    groups.dedup();
    let staged = StagedFolder::create(&folder)?;
    let bar = out.spinner("checking");
    let ran = selftest::run(&setup, &groups, &|group| bar.set_message(group.name()));
    bar.finish_and_clear();
    let (findings, groups) = ran?;
    let [passed, failed, not_run] =
        [Verdict::Passed, Verdict::Failed, Verdict::NotRun].map(|verdict| findings.count(verdict));
    let machine = Machine::this(&args.device);
    let ok = failed == 0;
    let report =
        Report { ok, passed, failed, not_run, quick: args.quick, machine, free_memory, groups, findings };
    let document = serde_json::to_value(&report)?;
    let json = serde_json::to_string_pretty(&document)? + "\n";
    media::write_file(&staged.path().join(JSON), json.as_bytes())?;
    media::write_file(&staged.path().join(PAGE), selftest::page(&report).as_bytes())?;
    staged.merge(PAGE)?;
    out.answer(&text(&report, &folder), &document);
    if ok { Ok(()) } else { Err(Failed(format!("{failed} of {} checks failed", passed + failed)).into()) }
}

/// The folders of the flags, or that of a checkout if this is one.
fn cases(args: &Selftest) -> Result<Vec<PathBuf>> {
    if let Some(missing) = args.cases.iter().find(|path| !path.exists()) {
        return Err(bad_input_with(
            format!("no reference case at {}", missing.display()),
            "a case is a folder with case.json, or a JSON file with `rows`",
        ));
    }
    let own = PathBuf::from(CASES);
    Ok(if args.cases.is_empty() && own.exists() { vec![own] } else { args.cases.clone() })
}

/// What failed, how many passed, and the files.
fn text(report: &Report, folder: &Path) -> String {
    let failed: String = report
        .findings
        .failed()
        .map(|check| format!("FAILED {}: {}: {}\n", check.group.name(), check.name, check.detail))
        .collect();
    let times: String = report
        .findings
        .timings
        .iter()
        .map(|timing| {
            let rate = timing.gflops.map_or(String::new(), |rate| format!(", {rate:.0} GFLOP/s"));
            format!("  {}, {}: {:.2} ms{rate}\n", timing.name, timing.shape, timing.median_ms)
        })
        .collect();
    let seconds: f64 = report.groups.iter().map(|(_, seconds)| seconds).sum();
    format!(
        "{failed}{times}{} passed, {} failed, {} not run in {seconds:.0} s\n{}",
        report.passed,
        report.failed,
        report.not_run,
        wrote(&[folder.join(JSON), folder.join(PAGE)])
    )
}
