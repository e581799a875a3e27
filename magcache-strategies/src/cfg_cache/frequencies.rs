//! The forecast of CFG cache: the last difference between two branches, low and high frequencies weighted
//! apart.

use std::ops::Range;

use candle_core::{DType, Result};
use magcache_core::{
    Streams,
    forecast::{Entered, Forecast},
    state::{StoragePolicy, Stored},
};

use super::spectrum::low_pass;

/// A factor applied once per skipped step within a range of steps.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub(super) alpha: f64,
    pub(super) steps: Range<usize>,
}

impl Weight {
    /// The weight for the steps after `last` up to and including `step`, of which at most `most` count.
    fn at(&self, last: usize, step: usize, most: usize) -> f64 {
        let first = self.steps.start.max(last.saturating_add(1));
        let end = self.steps.end.min(step.saturating_add(1));
        let left_out = end.saturating_sub(first).min(most);
        self.alpha.powi(i32::try_from(left_out).unwrap_or(i32::MAX))
    }
}

/// `x + low·w_low + high·w_high`, where `low + high = y − x` of the last computed step.
#[derive(Debug)]
pub(super) struct Frequencies {
    low_weight: Weight,
    high_weight: Weight,
    interval: usize,
    last: Option<Difference>,
}

#[derive(Debug)]
struct Difference {
    step: usize,
    low: Stored,
    high: Stored,
}

magcache_core::fields!(Frequencies { last } given { low_weight, high_weight, interval });
magcache_core::fields!(Difference { step, low, high });

impl Frequencies {
    /// `interval` caps the growth of the weights: if a full step taught nothing because an inner cache
    /// guessed, the old difference stays in use and its weights stop growing.
    pub(super) fn new(low_weight: Weight, high_weight: Weight, interval: usize) -> Self {
        Self { low_weight, high_weight, interval, last: None }
    }
}

impl Forecast for Frequencies {
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        let difference = y.image()?.sub(&at.x.image()?)?.to_dtype(DType::F32)?;
        let low = low_pass(&difference)?;
        let high = difference.sub(&low)?;
        let stored = |t| Stored::new(&Streams::Image(t), storage);
        self.last = Some(Difference { step: at.step.index, low: stored(low)?, high: stored(high)? });
        Ok(())
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        let Some(last) = &self.last else { return Ok(None) };
        let most = self.interval.saturating_sub(1);
        let weighted = |part: &Stored, weight: &Weight| {
            part.load()?.into_image()?.affine(weight.at(last.step, at.step.index, most), 0.0)
        };
        let low = weighted(&last.low, &self.low_weight)?;
        let high = weighted(&last.high, &self.high_weight)?;
        let x = at.x.image()?;
        let y = (x.to_dtype(DType::F32)? + (low + high)?)?.to_dtype(x.dtype())?;
        Ok(Some(Streams::Image(y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_counts_the_left_out_steps_of_its_part() {
        let low = Weight { alpha: 2.0, steps: 0..6 };
        assert_eq!([4, 5, 6, 7].map(|step| low.at(3, step, 9)), [2.0, 4.0, 4.0, 4.0]);
        let high = Weight { alpha: 3.0, steps: 6..usize::MAX };
        assert_eq!([4, 5, 6, 7, 8].map(|step| high.at(3, step, 9)), [1.0, 1.0, 3.0, 9.0, 27.0]);
        assert_eq!(high.at(8, 9, 9), 3.0);
        assert_eq!(high.at(8, 20, 4), 81.0, "an old difference grows no further");
    }
}
