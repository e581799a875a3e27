//! The device's own limits: one large matrix product, and copying memory.

use anyhow::Result;
use candle_core::{DType, Tensor};

use crate::{
    selftest::{Findings, Setup, findings::Timed},
    timing::measure,
};

/// The rate of a matrix product in each type, GFLOP/s.
#[derive(Clone, Debug)]
pub(super) struct Limits(Vec<(DType, f64)>);

impl Limits {
    /// Measures them.
    pub(super) fn of(setup: &Setup, findings: &mut Findings) -> Result<Self> {
        let (size, repeat) = match (setup.device.is_cpu(), setup.quick) {
            (true, true) => (1024, 3),
            (true, false) => (2048, 5),
            (false, _) => (8192, 10),
        };
        let random = |rows: usize| Tensor::randn(0f32, 1f32, (rows, size), &setup.device);
        let mut rates = Vec::new();
        for dtype in setup.types() {
            setup.go_on()?;
            let (a, b) = (random(size)?.to_dtype(*dtype)?, random(size)?.to_dtype(*dtype)?);
            let times = measure(&setup.device, repeat, || {
                a.matmul(&b)?;
                Ok(())
            })?;
            let gflop = 2.0 * (size as f64).powi(3) / 1e9;
            // The fastest round is the one with the least disturbance.
            rates.push((*dtype, gflop / times.min * 1e3));
            let shape = format!("{size} x {size} by {size} x {size}");
            let what = Timed {
                name: "matrix product".to_owned(),
                dtype: dtype.as_str(),
                shape,
                gflop: Some(gflop),
                limit: None,
            };
            findings.time(what, times, repeat);
        }
        let bytes = if setup.device.is_cpu() { 64 << 20 } else { 1 << 30 };
        let memory = Tensor::zeros(bytes / 4, DType::F32, &setup.device)?;
        let times = measure(&setup.device, repeat, || {
            memory.copy()?;
            Ok(())
        })?;
        let rate = 2e-6 * bytes as f64 / times.min;
        let shape = format!("{} MiB, {rate:.1} GB/s read and written", bytes >> 20);
        findings.time(
            Timed { name: "copy".to_owned(), dtype: "f32", shape, gflop: None, limit: None },
            times,
            repeat,
        );
        Ok(Self(rates))
    }

    /// Of a type, in GFLOP/s.
    pub(super) fn rate(&self, dtype: DType) -> Option<f64> {
        self.0.iter().find(|(of, _)| *of == dtype).map(|(_, rate)| *rate)
    }
}
