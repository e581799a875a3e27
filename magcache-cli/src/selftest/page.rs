//! `selftest.html`: the report as one self-contained page.

use maud::{DOCTYPE, Markup, html};

use super::{
    Report, Verdict,
    findings::{Check, Limit, Timing},
};
use crate::report::{POLICY, STYLE};

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let Report { machine, findings, .. } = report;
    let title = format!("selftest of {}", machine.device);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – magcache" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (title) } p { (summary(report)) } }
                main {
                    section { h2 { "Checks" } (checks(&findings.checks)) }
                    @if !findings.timings.is_empty() {
                        section { h2 { "Times" } (timings(&findings.timings)) }
                    }
                }
            }
        }
    };
    page.into_string()
}

/// One line: what was found, and where.
fn summary(report: &Report) -> String {
    let Report { passed, failed, not_run, machine, quick, .. } = report;
    let cpu = machine.cpu.as_deref().unwrap_or("an unknown processor");
    let quick = if *quick { ", quick" } else { "" };
    format!(
        "{passed} passed, {failed} failed, {not_run} not run{quick}; {cpu}, {} threads, {}, magcache {}",
        machine.threads, machine.system, machine.version
    )
}

/// The table of checks, those that failed first.
fn checks(checks: &[Check]) -> Markup {
    let mut rows: Vec<&Check> = checks.iter().collect();
    rows.sort_by_key(|check| check.verdict != Verdict::Failed);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3e}"));
    let limit = |limit: Option<Limit>| match limit {
        Some(Limit::AtMost(most)) => format!("at most {most:.1e}"),
        Some(Limit::AtLeast(least)) => format!("at least {least}"),
        None => String::new(),
    };
    html! {
        div class="scroll" role="region" aria-label="Checks" tabindex="0" {
            table {
                thead { tr { th { "group" } th { "check" } th { "verdict" } th { "value" } th { "limit" } th { "what" } } }
                tbody {
                    @for check in rows {
                        tr {
                            td { (check.group.name()) } td { (check.name) } td { (check.verdict.name()) }
                            td { (number(check.value)) } td { (limit(check.limit)) } td { (check.detail) }
                        }
                    }
                }
            }
        }
    }
}

fn timings(timings: &[Timing]) -> Markup {
    let optional =
        |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
    html! {
        div class="scroll" role="region" aria-label="Times" tabindex="0" {
            table {
                thead { tr { th { "what" } th { "type" } th { "size" } th { "median ms" } th { "min" } th { "GFLOP/s" } th { "of the product's" } } }
                tbody {
                    @for timing in timings {
                        tr {
                            td { (timing.name) } td { (timing.dtype) } td { (timing.shape) }
                            td { (format!("{:.3}", timing.median_ms)) } td { (format!("{:.3}", timing.min_ms)) }
                            td { (optional(timing.gflops, 0)) } td { (optional(timing.of_limit, 2)) }
                        }
                    }
                }
            }
        }
    }
}
