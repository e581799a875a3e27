//! The skip pattern over the noise levels of a run.

use std::collections::BTreeMap;

use magcache_core::{Trajectory, log::DecisionLog};

use super::{Chart, Mark, Series, Shade, Style};
use crate::summary::strip;

impl Chart {
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
