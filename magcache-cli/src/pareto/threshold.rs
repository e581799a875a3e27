//! The value of a key at which a strategy computes a given number of steps.

use std::collections::BTreeMap;

use anyhow::Result;

/// Evaluations per budget: they resolve values to 1/250 of the range.
const HALVINGS: usize = 8;

/// A bisection that remembers its evaluations, so that neighbouring budgets share them.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Mean computed steps by value, keyed by its bits, which sort like the value since it is positive.
    seen: BTreeMap<u64, f64>,
}

impl Search {
    /// The value in `range` whose runs compute nearest to `budget` steps, and how many they compute.
    /// `computed` runs with a value; the range goes from skipping little to skipping much.
    pub(super) fn find(
        &mut self,
        budget: f64,
        range: [f64; 2],
        computed: &mut dyn FnMut(f64) -> Result<f64>,
    ) -> Result<(f64, f64)> {
        let [from, to] = range;
        // Position in the range. A later value usually skips more, but this is not guaranteed.
        let along = |value: f64| (value - from) / (to - from);
        let seen = || self.seen.iter().map(|(bits, steps)| (f64::from_bits(*bits), *steps));
        let mut low = seen()
            .filter(|(_, steps)| *steps > budget)
            .map(|(t, _)| t)
            .fold(from, |a, b| if along(b) > along(a) { b } else { a });
        let mut high = seen()
            .filter(|(t, steps)| *steps <= budget && along(*t) > along(low))
            .map(|(t, _)| t)
            .fold(to, |a, b| if along(b) < along(a) { b } else { a });
        for _ in 0..HALVINGS {
            let threshold = f64::midpoint(low, high);
            let steps = match self.seen.get(&threshold.to_bits()) {
                Some(steps) => *steps,
                None => computed(threshold)?,
            };
            self.seen.insert(threshold.to_bits(), steps);
            if (steps - budget).abs() < 1e-9 {
                break;
            }
            if steps > budget {
                low = threshold;
            } else {
                high = threshold;
            }
        }
        let off = |steps: &f64| (steps - budget).abs();
        let best = self.seen.iter().min_by(|(_, a), (_, b)| off(a).total_cmp(&off(b)));
        Ok(best.map_or((0.0, f64::INFINITY), |(bits, steps)| (f64::from_bits(*bits), *steps)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_met_and_evaluations_shared() {
        let mut runs = 0;
        let mut steps = |threshold: f64| {
            runs += 1;
            Ok((30.0 - 40.0 * threshold).clamp(8.0, 30.0).round())
        };
        let mut search = Search::default();
        for budget in [24.0, 20.0, 16.0, 12.0, 10.0] {
            let (threshold, computed) = search.find(budget, [0.0, 2.0], &mut steps).unwrap();
            assert_eq!(computed, budget);
            assert_eq!((30.0 - 40.0 * threshold).round(), budget);
        }
        assert_eq!(search.find(3.0, [0.0, 2.0], &mut steps).unwrap().1, 8.0);
        assert!(runs < 5 * HALVINGS, "{runs} runs");
    }
}
