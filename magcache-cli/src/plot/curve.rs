//! Charts of MagCache's curves.

use magcache_core::profile::Curve;

use super::{Chart, Mark, Series, Style};

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
}
