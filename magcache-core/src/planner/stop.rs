//! When a search has found what there is to find.

/// The stop rule of the Golden Path search (arXiv 2609.39343).
///
/// A unit of a search is one climb. It is quiet if it raised the mean score of the best schedule by less than
/// twice the standard error of that schedule's scores; the first is never quiet. Two quiet units in a row end
/// the search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopRule {
    quiet: usize,
    before: Option<f64>,
}

impl StopRule {
    /// Counts a unit; `best` are the scores of the best schedule so far, one for each run. Returns whether
    /// the search ends.
    pub fn unit(&mut self, best: &[f64]) -> bool {
        let mean = best.iter().sum::<f64>() / best.len() as f64;
        if let Some(before) = self.before {
            let is_quiet = mean - before < 2.0 * standard_error(best);
            self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        }
        self.before = Some(mean);
        self.quiet >= 2
    }
}

/// The standard error of the mean; 0 for a single value.
pub(super) fn standard_error(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() > 1 { (squares / (count - 1.0) / count).sqrt() } else { 0.0 }
}
