//! The classes of models that cases are recorded of. The module of each registers it, so that nothing else
//! here lists them.

use anyhow::Result;
use magcache_core::inventory;

use super::{
    cache_e2e::{Sampling, Setup},
    case::Case,
    report::CaseReport,
};

/// What a recorded generation of a class is repeated with.
type Generation = fn(&Case, &Sampling, &mut CaseReport) -> Result<Setup>;

/// A class, and how its cases are compared.
pub(super) struct Class {
    /// As a configuration names it.
    pub(super) name: &'static str,
    /// Compares the calls of a case.
    pub(super) calls: fn(&Case, &mut CaseReport) -> Result<()>,
    /// Sets up the whole generations of a case; none for what is no transformer.
    pub(super) generation: Option<Generation>,
}

inventory::collect!(Class);

/// The class of a case; `None` if this build has no such class, which is reported.
pub(super) fn of(case: &Case, report: &mut CaseReport) -> Result<Option<&'static Class>> {
    let name = case.class()?;
    let known = inventory::iter::<Class>.into_iter().find(|class| class.name == name);
    if known.is_none() {
        report.skip(format!("this build has no {name}"));
    }
    Ok(known)
}
