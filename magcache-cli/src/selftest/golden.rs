//! Reference cases on the device, in f32 within their recorded tolerances and in half precision.

use anyhow::Result;
use candle_core::DType;

use super::{Findings, Setup, Verdict, findings::Limit};
use crate::{
    args::Group,
    verify::{self, CaseReport, Half, Setting},
};

/// The largest error of an output in half precision, relative to its largest value. Weights have eight and
/// eleven bits; the errors of the few layers of a case add up.
const HALVES: [Half; 2] =
    [Half { dtype: DType::BF16, tolerance: 5e-2 }, Half { dtype: DType::F16, tolerance: 1e-2 }];

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    if setup.cases.is_empty() {
        let why = "no folder of cases is given: --cases DIR";
        findings.tell(Group::Golden, "reference cases", Verdict::NotRun, why);
        return Ok(());
    }
    let cases = verify::list(&setup.cases, setup.quick)?;
    for half in [None].into_iter().chain(HALVES.map(Some)) {
        let on = Setting { ops: setup.ops, device: setup.device.clone(), half };
        let dtype = half.map_or("f32", |half| half.dtype.as_str());
        for case in cases.iter().filter(|case| half.is_none() || case.in_half) {
            setup.go_on()?;
            match verify::run(std::slice::from_ref(&case.path), false, on.clone()) {
                Ok(report) => report.cases.iter().for_each(|case| tell(case, dtype, findings)),
                Err(error) => {
                    let name = format!("{}, {dtype}", case.path.display());
                    findings.tell(Group::Golden, name, Verdict::Failed, format!("{error:#}"));
                }
            }
        }
    }
    Ok(())
}

/// The comparison that comes nearest to its tolerance, or goes furthest past it.
fn tell(case: &CaseReport, dtype: &str, findings: &mut Findings) {
    let name = format!("{}, {dtype}", case.case);
    if let Some(why) = &case.skipped {
        findings.tell(Group::Golden, name, Verdict::NotRun, why);
        return;
    }
    let part = |max_abs: f64, tolerance: f64| match (max_abs, tolerance) {
        (0.0, _) => 0.0,
        // Decisions and counts, of which none may differ.
        (differ, 0.0) => 1.0 + differ,
        (max_abs, tolerance) => max_abs / tolerance,
    };
    let parts = case.calls.iter().map(|call| (part(call.max_abs, call.tolerance), call));
    let worst = parts.max_by(|(a, _), (b, _)| a.total_cmp(b));
    let Some((part, call)) = worst else {
        findings.tell(Group::Golden, name, Verdict::NotRun, "nothing to compare");
        return;
    };
    let detail = format!(
        "part of its tolerance, {} {}: {:.1e} of {:.1e}",
        call.name, call.output, call.max_abs, call.tolerance
    );
    findings.judge(Group::Golden, name, part, Limit::AtMost(1.0), detail);
}
