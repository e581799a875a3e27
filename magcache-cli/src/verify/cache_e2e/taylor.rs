//! diffusers' `TaylorSeerCacheConfig` as the tables that mean the same here, where there are such.

use std::ops::Range;

use magcache_core::Residuals;
use serde::Deserialize;
use toml::{Table, Value};

use super::recipe::{Part, integer};

/// The recorded keys.
#[derive(Deserialize)]
pub(super) struct TaylorSeer {
    cache_interval: usize,
    disable_cache_before_step: usize,
    disable_cache_after_step: Option<usize>,
    max_order: usize,
    taylor_factors_dtype: Option<String>,
    skip_predict_identifiers: Option<Vec<String>>,
    cache_identifiers: Option<Vec<String>>,
    use_lite_mode: bool,
}

impl TaylorSeer {
    /// For a network that has these steps of the run.
    pub(super) fn part(&self, steps: Range<usize>) -> Part {
        let named = [&self.skip_predict_identifiers, &self.cache_identifiers];
        match named.into_iter().flatten().find(|patterns| !patterns.is_empty()) {
            // Lite mode replaces every pattern by its own.
            _ if self.use_lite_mode => self.lite(steps),
            Some(patterns) => Part::Unknown(format!(
                "TaylorSeer continues the outputs of {} inside every block and runs the rest of the block: hooks here \
                 surround whole blocks",
                patterns.join(" and ")
            )),
            // The default patterns end behind `attn`; Wan's modules are called `attn1` and `attn2`.
            None => Part::Dense,
        }
    }

    /// Blocks give zeros and `proj_out` is continued: what enters it has no effect, and unpatching its output is linear,
    /// so the output of the whole forward is continued.
    fn lite(&self, steps: Range<usize>) -> Part {
        let residuals = match self.taylor_factors_dtype.as_deref() {
            None | Some("torch.float32") => Residuals::default(),
            Some("torch.bfloat16") => Residuals { dtype: Some("bf16".to_owned()), ..Residuals::default() },
            Some(other) => {
                return Part::Unknown(format!("TaylorSeer stores {other}, which `[residuals]` has not"));
            }
        };
        let own = 0..steps.len();
        let skip = own.filter(|step| !self.computes(*step)).map(|step| integer(steps.start + step));
        let forecast = Table::from_iter([
            ("type".to_owned(), "taylor".into()),
            ("order".to_owned(), integer(self.max_order)),
            ("of".to_owned(), "output".into()),
            ("dialect".to_owned(), "diffusers".into()),
        ]);
        let table = Table::from_iter([
            ("strategy".to_owned(), "schedule".into()),
            ("at".to_owned(), "forward".into()),
            ("skip".to_owned(), Value::Array(skip.collect())),
            ("forecast".to_owned(), forecast.into()),
        ]);
        Part::Table { table, residuals }
    }

    /// Whether the module runs at its own `step`. The first step behind the warm-up is continued and the next one
    /// computed: the interval is counted from there.
    fn computes(&self, step: usize) -> bool {
        let first = self.disable_cache_before_step + 1;
        let interval = self.cache_interval.max(1);
        step < self.disable_cache_before_step
            || step.abs_diff(first).is_multiple_of(interval)
            || self.disable_cache_after_step.is_some_and(|after| step >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_behind_the_warm_up_is_continued_and_the_next_computed() {
        let taylor = |after| TaylorSeer {
            cache_interval: 4,
            disable_cache_before_step: 3,
            disable_cache_after_step: after,
            max_order: 1,
            taylor_factors_dtype: None,
            skip_predict_identifiers: None,
            cache_identifiers: None,
            use_lite_mode: true,
        };
        let computed = |after| (0..14).filter(|step| taylor(after).computes(*step)).collect::<Vec<_>>();
        assert_eq!(computed(None), [0, 1, 2, 4, 8, 12]);
        assert_eq!(computed(Some(10)), [0, 1, 2, 4, 8, 10, 11, 12, 13]);
    }
}
