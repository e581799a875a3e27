//! Statistics over several runs.

use serde::Serialize;

/// A mean over seeds with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    /// `s / √n` with the sample standard deviation `s`; `None` for a single value.
    pub(crate) standard_error: Option<f64>,
}

/// Median and extremes over repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Estimate {
    /// Over the finite values; infinite ones (the PSNR of equal frames) are left out because one of them
    /// would hide the rest, unless all are infinite. `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let n = finite.len() as f64;
        if finite.is_empty() {
            return values.first().map(|mean| Self { mean: *mean, standard_error: None });
        }
        let mean = finite.iter().sum::<f64>() / n;
        let squares: f64 = finite.iter().map(|v| (v - mean).powi(2)).sum();
        let standard_error = (finite.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        Some(Self { mean, standard_error })
    }
}

impl Spread {
    /// The median of an even number of values is the mean of the middle two. NaN without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_standard_error_of_its_values() {
        let found = Estimate::of([40.0, 42.0, 44.0]).unwrap();
        // numpy.std([40, 42, 44], ddof=1) / sqrt(3)
        assert_eq!(found.mean, 42.0);
        assert!((found.standard_error.unwrap() - 1.154_700_538_379_251_7).abs() < 1e-12, "{found:?}");
        assert_eq!(Estimate::of([40.0]).unwrap().standard_error, None);
        assert_eq!(Estimate::of([]), None);
    }

    #[test]
    fn equal_pictures_do_not_hide_the_others() {
        let found = Estimate::of([f64::INFINITY, 40.0, 44.0]).unwrap();
        assert_eq!((found.mean, found.standard_error), (42.0, Some(2.0)));
        assert_eq!(Estimate::of([f64::INFINITY; 2]).unwrap().mean, f64::INFINITY);
    }

    #[test]
    fn a_spread_is_median_and_extremes() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert!(Spread::of([]).median.is_nan());
    }
}
