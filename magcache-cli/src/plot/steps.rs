//! Charts over the steps of a run: calibrated curves, and the skip pattern over the noise levels.

use std::collections::BTreeMap;

use magcache_core::{Trajectory, log::DecisionLog, profile::Curve};

use super::{Chart, Mark, Series, Shade, Style};
use crate::summary::strip;

impl Chart {
    /// Ratios by step, a line for each branch with a band of one standard deviation. `starts` are the first
    /// steps of the experts, which have no predecessor: they are gaps, and each but the first has a mark.
    pub(crate) fn curve(title: impl Into<String>, curve: &Curve, starts: &[usize]) -> Self {
        let mut chart = Self::new(title, "step", "mean of |residual| / |residual before|");
        for (branch, ratios) in &curve.ratios {
            let value = |step: usize, ratio: f64| if starts.contains(&step) { f64::NAN } else { ratio };
            let points = ratios.iter().enumerate().map(|(step, r)| (step as f64, value(step, *r))).collect();
            let spread = curve.std.get(branch).cloned().unwrap_or_default();
            // Branches are often nearly equal: the first one shows between the dashes of the others.
            let style = if chart.series.is_empty() { Style::Marked } else { Style::Dashed };
            chart = chart.with(Series { spread, ..Series::new(branch, style, points) });
        }
        "± one standard deviation over tokens".clone_into(&mut chart.band);
        let later = starts.iter().filter(|start| **start > 0);
        let mark = |start: &usize| Mark { x: *start as f64 - 0.5, label: "next expert".to_owned() };
        chart.marks = later.map(mark).collect();
        chart
    }

    /// Sigma by step, with a ring where branches are skipped: one colour for each set of branches that are
    /// skipped together, and a grey background where all are. `experts` names the experts after the first,
    /// for the marks where they begin.
    pub(crate) fn decisions(
        title: impl Into<String>,
        log: &DecisionLog,
        run: &Trajectory,
        experts: &[String],
    ) -> Self {
        let (mut sigmas, mut computed, mut shade) = (Vec::new(), Vec::new(), Vec::new());
        let mut skipped: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for step in run.steps() {
            let (here, at) = (run.branches_at(&step), (step.index as f64, step.sigma));
            let of: Vec<String> = here
                .iter()
                .filter(|branch| strip::skips(log, step.index, **branch))
                .map(ToString::to_string)
                .collect();
            sigmas.push(at);
            if of.is_empty() {
                computed.push(at);
                continue;
            }
            if of.len() == here.len() {
                shade.push([at.0 - 0.5, at.0 + 0.5]);
            }
            let name = if run.branches.len() == 1 {
                "skipped".to_owned()
            } else {
                format!("skipped: {}", of.join(" and "))
            };
            skipped.entry(name).or_default().push(at);
        }
        let mut chart = Self::new(title, "step", "sigma")
            .with(Series { colour: Some(5), ..Series::new("", Style::Line, sigmas) })
            .with(Series { colour: Some(0), ..Series::new("computed", Style::Points, computed) });
        for (i, (name, points)) in skipped.into_iter().enumerate() {
            chart = chart.with(Series { colour: Some(1 + i), ..Series::new(name, Style::Rings, points) });
        }
        if !shade.is_empty() && run.branches.len() > 1 {
            let label = "all branches skipped".to_owned();
            chart.shades.push(Shade { label, light: false, spans: shade });
        }
        let begins = run.phases.iter().skip(1).zip(experts);
        let mark = |label: &String, first: usize| Mark { x: first as f64 - 0.5, label: label.clone() };
        chart.marks = begins.map(|(phase, name)| mark(name, phase.steps.start)).collect();
        chart
    }
}
