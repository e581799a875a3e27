//! One scale of quality for all schedules of a plan.
//!
//! Predicted errors are bounds: a sum over skipped steps whose errors partly cancel, so predicted PSNR is too low, by much the
//! same for neighbouring schedules. Measured values are true but noisy, and there are few of them. So the measured ones
//! calibrate the predicted ones: measured PSNR is made monotone in predicted PSNR (isotonic regression, which pools
//! neighbours that noise has put in the wrong order), and what was not measured lies on the line between its measured
//! neighbours. More computed steps are then never expected to be worse.

use serde::Serialize;

use super::PlannedSchedule;

/// What an expected quality rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grounds {
    /// This schedule was run.
    Measured,
    /// Others were, and its predicted error lies among theirs or beside them.
    Calibrated,
    /// Predicted from rehearsed steps alone: a bound, what comes out is better.
    Predicted,
}

/// What a schedule is expected to give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Mean PSNR against dense runs, dB.
    pub psnr: f64,
    /// How far from it the truth may be, dB; `None` where nothing says it.
    pub within: Option<f64>,
    /// What it rests on.
    pub grounds: Grounds,
}

/// A measured schedule.
struct Known {
    place: usize,
    predicted: f64,
    /// As it was measured, and its standard error.
    measured: f64,
    error: f64,
    /// Monotone in `predicted`.
    psnr: f64,
}

/// Of schedules with more and more computed steps.
pub(super) fn of(schedules: &[PlannedSchedule]) -> Vec<Quality> {
    let predicted = predictions(schedules);
    let known = known(schedules, &predicted);
    let quality = |(place, predicted): (usize, &f64)| {
        if let Some(own) = known.iter().find(|known| known.place == place) {
            let within = Some(own.error + (own.measured - own.psnr).abs());
            return Quality { psnr: own.psnr, within, grounds: Grounds::Measured };
        }
        let after = known.iter().position(|known| known.place > place).unwrap_or(known.len());
        let before = after.checked_sub(1).and_then(|at| known.get(at));
        let (psnr, within) = match (before, known.get(after)) {
            (None, None) => return Quality { psnr: *predicted, within: None, grounds: Grounds::Predicted },
            (Some(a), Some(b)) => between(a, b, *predicted),
            (Some(one), None) | (None, Some(one)) => {
                (one.psnr + predicted - one.predicted, spread(&known).map(|spread| spread + one.error))
            }
        };
        Quality { psnr, within, grounds: Grounds::Calibrated }
    };
    predicted.iter().enumerate().map(quality).collect()
}

/// Predicted PSNR of each schedule, no larger than that of a later one.
fn predictions(schedules: &[PlannedSchedule]) -> Vec<f64> {
    let mut least = f64::INFINITY;
    let mut all: Vec<f64> = schedules
        .iter()
        .rev()
        .map(|schedule| {
            least = least.min(schedule.predicted_psnr());
            least
        })
        .collect();
    all.reverse();
    all
}

/// The measured schedules by isotonic regression: a mean that is larger than the next is pooled with it.
fn known(schedules: &[PlannedSchedule], predicted: &[f64]) -> Vec<Known> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    let measured: Vec<Known> = schedules
        .iter()
        .zip(predicted)
        .enumerate()
        .filter_map(|(place, (schedule, predicted))| {
            let measured = schedule.psnr?;
            let error = schedule.psnr_error.unwrap_or(0.0);
            Some(Known { place, predicted: *predicted, measured, error, psnr: measured })
        })
        .collect();
    for one in &measured {
        let (mut sum, mut count) = (one.measured, 1);
        while let Some((before, n)) = pools.pop_if(|(before, n)| *before / *n as f64 > sum / count as f64) {
            (sum, count) = (sum + before, count + n);
        }
        pools.push((sum, count));
    }
    let pooled = pools.iter().flat_map(|(sum, n)| std::iter::repeat_n(*sum / *n as f64, *n));
    measured.into_iter().zip(pooled).map(|(one, psnr)| Known { psnr, ..one }).collect()
}

/// On the line between two measured schedules; the truth lies between the two.
fn between(a: &Known, b: &Known, predicted: f64) -> (f64, Option<f64>) {
    let range = b.predicted - a.predicted;
    let part = if range > 0.0 { ((predicted - a.predicted) / range).clamp(0.0, 1.0) } else { 0.0 };
    let psnr = a.psnr + part * (b.psnr - a.psnr);
    (psnr, Some((psnr - a.psnr + a.error).max(b.psnr - psnr + b.error)))
}

/// By how much what predictions are off by differs from one measured schedule to another; `None` of a single one.
fn spread(known: &[Known]) -> Option<f64> {
    let off = || known.iter().map(|one| one.psnr - one.predicted);
    let (least, most) = (off().fold(f64::INFINITY, f64::min), off().fold(f64::NEG_INFINITY, f64::max));
    (known.len() > 1).then_some(most - least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Continuation;

    /// Schedules of these predicted and measured PSNR.
    fn schedules(all: &[(f64, Option<f64>)]) -> Vec<PlannedSchedule> {
        let one = |(computed, (predicted, psnr)): (usize, &(f64, Option<f64>))| PlannedSchedule {
            computed,
            skip: Vec::new(),
            continuation: Continuation::Residual,
            error: 10f64.powf(-predicted / 20.0),
            psnr: *psnr,
            psnr_error: psnr.map(|_| 0.25),
            ssim: None,
        };
        all.iter().enumerate().map(one).collect()
    }

    fn psnr(all: &[(f64, Option<f64>)]) -> Vec<f64> {
        of(&schedules(all)).iter().map(|q| (q.psnr * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn a_measured_schedule_lifts_its_neighbours() {
        let all = [(30.0, None), (33.0, Some(41.5)), (35.0, None)];
        assert_eq!(psnr(&all), [38.5, 41.5, 43.5]);
        let found = of(&schedules(&all));
        assert_eq!(found.iter().map(|q| q.within).collect::<Vec<_>>(), [None, Some(0.25), None]);
        let grounds = [Grounds::Calibrated, Grounds::Measured, Grounds::Calibrated];
        assert_eq!(found.iter().map(|q| q.grounds).collect::<Vec<_>>(), grounds);
    }

    #[test]
    fn between_two_measured_ones_the_truth_is_between_them() {
        let found = of(&schedules(&[(30.0, Some(40.0)), (31.0, None), (34.0, Some(42.0))]))[1];
        assert!((found.psnr - 40.5).abs() < 1e-9 && (found.within.unwrap() - 1.75).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn noise_that_turns_an_order_is_pooled_and_told() {
        let all = [(30.0, Some(41.0)), (32.0, Some(40.0)), (36.0, None)];
        assert_eq!(psnr(&all), [40.5, 40.5, 44.5]);
        let found = of(&schedules(&all));
        assert_eq!(found[0].within, Some(0.75));
        // 8.5 dB and 10.5 dB above the predictions.
        assert!((found[2].within.unwrap() - 2.25).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn without_a_measurement_predictions_are_what_there_is() {
        let all = [(30.0, None), (29.0, None), (31.0, None)];
        assert_eq!(psnr(&all), [29.0, 29.0, 31.0]);
        assert!(of(&schedules(&all)).iter().all(|q| q.grounds == Grounds::Predicted && q.within.is_none()));
    }

    proptest::proptest! {
        #[test]
        fn more_computed_steps_are_never_expected_to_be_worse(
            all in proptest::collection::vec((10.0..60.0f64, proptest::option::of(10.0..60.0f64)), 1..12),
        ) {
            let found = of(&schedules(&all));
            proptest::prop_assert!(found.is_sorted_by(|a, b| a.psnr <= b.psnr + 1e-9), "{:?}", found);
        }
    }
}
