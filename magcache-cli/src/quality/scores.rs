//! The scores of many frames as two numbers.

use serde::Serialize;

/// The part of the frames that are worse than the value told for the worst ones.
const WORST: f64 = 0.05;

/// A metric over the frames of two videos.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Mean over the frames.
    pub mean: f64,
    /// What 5 % of the frames are worse than, interpolated linearly between two: the 5th percentile of a
    /// metric that is better the larger it is, the 95th of one that is worse.
    pub worst: f64,
}

impl Scores {
    /// Of frames with these scores, of a metric that is better the larger it is.
    pub(super) fn of_likeness(scores: Vec<f64>) -> Self {
        Self::at(scores, WORST)
    }

    /// Of frames with these scores, of a metric that is worse the larger it is.
    pub(super) fn of_distance(scores: Vec<f64>) -> Self {
        Self::at(scores, 1.0 - WORST)
    }

    fn at(mut scores: Vec<f64>, part: f64) -> Self {
        scores.sort_by(f64::total_cmp);
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let place = part * scores.len().saturating_sub(1) as f64;
        let at = |place: f64| scores.get(place as usize).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(place.floor()), at(place.ceil()));
        Self { mean, worst: low + (high - low) * place.fract() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_frames_are_those_of_the_5th_percentile() {
        // numpy.percentile(range(0, 100, 10), [5, 95])
        let tens = || (0..10).rev().map(|i| 10.0 * f64::from(i)).collect();
        let [likeness, distance] = [Scores::of_likeness(tens()), Scores::of_distance(tens())];
        assert!((likeness.worst - 4.5).abs() < 1e-12 && (likeness.mean - 45.0).abs() < 1e-12, "{likeness:?}");
        assert!(
            (distance.worst - 85.5).abs() < 1e-12 && (distance.mean - 45.0).abs() < 1e-12,
            "{distance:?}"
        );
        assert_eq!(Scores::of_likeness(vec![7.0]), Scores { mean: 7.0, worst: 7.0 });
    }
}
