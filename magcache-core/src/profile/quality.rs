//! One scale of quality for all schedules of a plan.
//!
//! Predicted errors are off, by about the same amount for neighbouring schedules. Measured values are true
//! but noisy and few. So the measured ones calibrate the predicted ones: measured PSNR is made monotone in
//! predicted PSNR (isotonic regression, which pools neighbours that noise put in the wrong order), and
//! schedules that were not measured are interpolated linearly between their measured neighbours. More
//! computed steps are then never expected to be worse.

use serde::Serialize;

use super::PlannedSchedule;

/// The basis of an expected quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grounds {
    /// This schedule was run.
    Measured,
    /// Others were run, and its quality is interpolated or extrapolated from them.
    Calibrated,
    /// Predicted from rehearsed steps alone.
    Predicted,
}

/// The expected quality of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Mean PSNR against dense runs, dB.
    pub psnr: f64,
    /// Uncertainty, dB; `None` if unknown.
    pub within: Option<f64>,
    /// The basis.
    pub grounds: Grounds,
}

/// A measured schedule.
struct Known {
    place: usize,
    predicted: f64,
    /// The measured PSNR, with its standard error below.
    measured: f64,
    error: f64,
    /// The PSNR made monotone in `predicted`.
    psnr: f64,
}

/// Expected qualities of schedules, sorted by increasing number of computed steps.
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

/// Predicted PSNR of each schedule, capped by that of later ones.
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

/// The measured schedules after isotonic regression: a mean larger than the next one is pooled with it.
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

/// Linear interpolation between two measured schedules, between which the truth lies, with the uncertainty.
fn between(a: &Known, b: &Known, predicted: f64) -> (f64, Option<f64>) {
    let range = b.predicted - a.predicted;
    let part = if range > 0.0 { ((predicted - a.predicted) / range).clamp(0.0, 1.0) } else { 0.0 };
    let psnr = a.psnr + part * (b.psnr - a.psnr);
    (psnr, Some((psnr - a.psnr + a.error).max(b.psnr - psnr + b.error)))
}

/// Spread of the prediction errors over the measured schedules; `None` if there are fewer than two.
fn spread(known: &[Known]) -> Option<f64> {
    let off = || known.iter().map(|one| one.psnr - one.predicted);
    let (least, most) = (off().fold(f64::INFINITY, f64::min), off().fold(f64::NEG_INFINITY, f64::max));
    (known.len() > 1).then_some(most - least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Continuation;

    /// Schedules with these predicted and measured PSNRs.
    fn schedules(all: &[(f64, Option<f64>)]) -> Vec<PlannedSchedule> {
        let one = |(computed, (predicted, psnr)): (usize, &(f64, Option<f64>))| PlannedSchedule {
            computed,
            skip: Vec::new(),
            continuation: Continuation::Residual,
            error: 10f64.powf(-predicted / 20.0),
            psnr: *psnr,
            psnr_error: psnr.map(|_| 0.25),
            ssim: None,
            searched: None,
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

    #[test]
    fn more_computed_steps_are_never_expected_to_be_worse() {
        let noise = |i: usize| (i as f64 * 78.233).sin().abs() * 43_758.545_3 % 1.0;
        for case in 0..500 {
            let psnr = |i: usize| 10.0 + 50.0 * noise(case * 64 + i);
            let one = |i: usize| (psnr(2 * i), (noise(case + i) < 0.5).then(|| psnr(2 * i + 1)));
            let found = of(&schedules(&(0..=case % 12).map(one).collect::<Vec<_>>()));
            assert!(found.is_sorted_by(|a, b| a.psnr <= b.psnr + 1e-9), "{found:?}");
        }
    }
}
