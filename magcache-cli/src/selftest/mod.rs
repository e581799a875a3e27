//! Checks of a device, and measurements against its own limits.
//!
//! A group of checks is a function from the [`Setup`] to [`Findings`]. What goes wrong in one group is a
//! failed check of that group; the others run all the same.

#![expect(clippy::disallowed_methods, reason = "results are compared on the host")]

mod attention;
mod copies;
mod findings;
mod golden;
mod memory;
mod operations;
mod page;
mod pictures;
mod sessions;
mod timings;

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_models::{checkpoint::Ops, pipeline::PipelineError};
use serde::Serialize;

pub(crate) use self::{
    findings::{Findings, Verdict},
    page::page,
};
use crate::{
    args::{Group, Sampling},
    console::{Console, Interrupt},
    job::Config,
    machine::Machine,
};

/// What is checked, and how thoroughly.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) device: Device,
    pub(crate) ops: Ops,
    pub(crate) quick: bool,
    /// Folders of reference cases.
    pub(crate) cases: Vec<PathBuf>,
    /// Seconds that one measurement may take on a CPU.
    pub(crate) seconds: f64,
    pub(crate) interrupt: Interrupt,
}

/// The results, as in `selftest.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Whether no check failed.
    pub(crate) ok: bool,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) not_run: usize,
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    /// Bytes that the device had free at the start.
    pub(crate) free_memory: Option<u64>,
    /// The groups that ran, with their seconds.
    pub(crate) groups: Vec<(Group, f64)>,
    #[serde(flatten)]
    pub(crate) findings: Findings,
}

type Checks = fn(&Setup, &mut Findings) -> Result<()>;

/// The checks of a group.
fn checks(group: Group) -> Checks {
    match group {
        Group::Golden => golden::check,
        Group::Attention => attention::check,
        Group::Operations => operations::check,
        Group::Pictures => pictures::check,
        Group::Sessions => sessions::check,
        Group::Copies => copies::check,
        Group::Memory => memory::check,
        Group::Timings => timings::measure_all,
    }
}

/// Runs groups, in order; `begins` is told which one begins.
///
/// Errors: a signal; what fails inside a group is a failed check.
pub(crate) fn run(
    setup: &Setup,
    groups: &[Group],
    begins: &dyn Fn(Group),
) -> Result<(Findings, Vec<(Group, f64)>)> {
    let (mut findings, mut times) = (Findings::default(), Vec::new());
    for group in groups {
        begins(*group);
        let start = std::time::Instant::now();
        if let Err(error) = checks(*group)(setup, &mut findings) {
            setup.go_on()?;
            findings.tell(*group, "the whole group", Verdict::Failed, format!("{error:#}"));
        }
        setup.go_on()?;
        times.push((*group, start.elapsed().as_secs_f64()));
    }
    Ok((findings, times))
}

impl Setup {
    /// Errors: a signal has arrived.
    fn go_on(&self) -> Result<()> {
        if self.interrupt.is_set() {
            return Err(PipelineError::Interrupted { step: 0, steps: 0 }.into());
        }
        Ok(())
    }

    /// The types that the device computes in: a CPU widens whatever weights are stored as.
    fn types(&self) -> &'static [DType] {
        if self.device.is_cpu() { &[DType::F32] } else { &[DType::F32, DType::BF16, DType::F16] }
    }

    /// The type that large models compute in on this device.
    fn fast(&self) -> DType {
        if self.device.is_cpu() { DType::F32 } else { DType::BF16 }
    }
}

/// The configuration of an embedded model's run.
fn config(model: Option<&str>, steps: usize) -> Result<Config> {
    let flags = Sampling { model: model.map(str::to_owned), ..Sampling::default() };
    let mut config = Config::of(&flags, &Console::silent())?;
    config.sampling.steps = Some(steps);
    Ok(config)
}

/// The values of a tensor in f64.
fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The largest distance of two lists, relative to the largest magnitude of the second; not a number if one of
/// them is not.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    let largest = |values: &mut dyn Iterator<Item = f64>| {
        values.map(f64::abs).fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
    };
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let worst = largest(&mut got.iter().zip(want).map(|(got, want)| got - want));
    if worst == 0.0 { 0.0 } else { worst / largest(&mut want.iter().copied()) }
}
