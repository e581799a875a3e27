//! The results of runs, with their standard errors.

use magcache_core::metrics::Pooled;
use serde_json::{Value, json};

/// One run compared with its dense run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// Steps computed; a fraction if branches differ.
    pub(crate) computed: f64,
    /// In dB; infinite if nothing differs.
    pub(crate) psnr: f64,
    pub(crate) ssim: f64,
    /// SSIMULACRA2, the mean over the frames; `None` for frames that it is not defined for.
    pub(crate) ssimulacra2: Option<f64>,
    /// LPIPS, the mean over the frames; `None` if it is not measured.
    pub(crate) lpips: Option<f64>,
}

/// The runs of one contender at one budget, in the order of the scenes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Points(Vec<Point>);

/// A mean and its standard error, which a single run does not have.
pub(crate) type Estimate = (f64, Option<f64>);

impl Points {
    pub(crate) fn push(&mut self, point: Point) {
        self.0.push(point);
    }

    pub(crate) fn computed(&self) -> f64 {
        estimate(self.0.iter().map(|p| p.computed)).0
    }

    /// Mean PSNR over the runs that differ from their dense runs.
    pub(crate) fn psnr(&self) -> Estimate {
        estimate(self.0.iter().map(|p| p.psnr).filter(|psnr| psnr.is_finite()))
    }

    pub(crate) fn ssim(&self) -> Estimate {
        estimate(self.0.iter().map(|p| p.ssim))
    }

    /// Mean SSIMULACRA2; `None` if no run has one.
    pub(crate) fn ssimulacra2(&self) -> Option<Estimate> {
        self.of(|p| p.ssimulacra2)
    }

    /// Mean LPIPS; `None` if no run has one.
    pub(crate) fn lpips(&self) -> Option<Estimate> {
        self.of(|p| p.lpips)
    }

    fn of(&self, score: fn(&Point) -> Option<f64>) -> Option<Estimate> {
        let mut own = self.0.iter().filter_map(score).peekable();
        own.peek()?;
        Some(estimate(own))
    }

    pub(crate) fn json(&self) -> Value {
        let ((psnr, psnr_error), (ssim, ssim_error)) = (self.psnr(), self.ssim());
        json!({
            "computed": self.computed(),
            "psnr": psnr,
            "psnr_error": psnr_error,
            "psnr_by_run": self.0.iter().map(|p| p.psnr).collect::<Vec<_>>(),
            "ssim": ssim,
            "ssim_error": ssim_error,
            "ssimulacra2": self.ssimulacra2().map(|(mean, _)| mean),
            "ssimulacra2_error": self.ssimulacra2().and_then(|(_, error)| error),
            "lpips": self.lpips().map(|(mean, _)| mean),
            "lpips_error": self.lpips().and_then(|(_, error)| error),
            "runs": self.0.len(),
        })
    }
}

/// How many dB `a` is above `b`, run by run, over the runs in which both differ from their dense runs.
pub(crate) fn margin(a: &Points, b: &Points) -> Estimate {
    let both = a.0.iter().zip(&b.0).map(|(a, b)| a.psnr - b.psnr);
    estimate(both.filter(|difference| difference.is_finite()))
}

/// A mean for display, with its standard error if there is one.
pub(crate) fn with_error(mean: String, error: Option<f64>) -> String {
    match error {
        Some(error) => format!("{mean} ± {error:.2}"),
        None => mean,
    }
}

fn estimate(values: impl Iterator<Item = f64>) -> Estimate {
    let all: Pooled = values.collect();
    let error = (all.count > 1).then(|| all.std() / (all.count as f64).sqrt());
    (if all.count == 0 { f64::NAN } else { all.mean }, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_paired() {
        let points = |psnr: &[f64]| {
            Points(
                psnr.iter()
                    .map(|psnr| Point {
                        computed: 3.5,
                        psnr: *psnr,
                        ssim: 1.0,
                        ssimulacra2: None,
                        lpips: None,
                    })
                    .collect(),
            )
        };
        let (a, b) = (points(&[31.0, 41.0, 51.0, f64::INFINITY]), points(&[30.0, 40.0, 50.0, 60.0]));
        assert_eq!(margin(&a, &b), (1.0, Some(0.0)));
        let (mean, error) = a.psnr();
        assert_eq!(mean, 41.0);
        assert!((error.unwrap() - 10.0 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(a.computed(), 3.5);
        assert!(Points::default().psnr().0.is_nan());
    }

    #[test]
    fn one_run_has_no_standard_error() {
        let one = |psnr| {
            let (ssimulacra2, lpips) = (Some(80.0), Some(0.25));
            Points(vec![Point { computed: 3.0, psnr, ssim: 0.9, ssimulacra2, lpips }])
        };
        assert_eq!(one(31.0).psnr(), (31.0, None));
        assert_eq!(margin(&one(31.0), &one(30.0)), (1.0, None));
        assert_eq!(one(31.0).json()["psnr_error"], Value::Null);
        assert_eq!(["ssimulacra2", "lpips"].map(|key| one(31.0).json()[key].clone()), [80.0, 0.25]);
        assert_eq!(with_error("31.00".to_owned(), None), "31.00");
        assert_eq!(with_error("31.00".to_owned(), Some(0.125)), "31.00 ± 0.12");
    }
}
