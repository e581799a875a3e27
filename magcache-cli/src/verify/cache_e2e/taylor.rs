//! diffusers' `TaylorSeerCacheConfig` as equivalent tables, if there are any.

use std::ops::Range;

use anyhow::Result;
use magcache_core::config::Residuals;
use serde::Deserialize;
use serde_json::json;
use toml::Table;

use super::recipe::Network;

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

/// Every block of a single-stack network, as in recorded patterns.
const BLOCKS: [&str; 2] = [r"blocks\.\d+\.", r"layers\.\d+\."];

/// Suffix of the modules that are forecast by default.
const DEFAULT: &str = "attn";

impl TaylorSeer {
    /// The part of a network that has these steps of the run, and these modules in its blocks.
    pub(super) fn part(&self, steps: Range<usize>, modules: &[&str]) -> Result<Network> {
        let residuals = match self.taylor_factors_dtype.as_deref() {
            None | Some("torch.float32") => Residuals::default(),
            Some("torch.bfloat16") => Residuals { dtype: Some("bf16".to_owned()), ..Residuals::default() },
            Some(other) => {
                let why = format!("TaylorSeer stores {other}, which `[residuals]` has not");
                return Ok(Network::Unknown(why));
            }
        };
        Ok(match self.places(modules) {
            Ok(places) if places.is_empty() => Network::Dense,
            Ok(places) => {
                let tables = places.into_iter().map(|at| self.table(at, &steps)).collect::<Result<_>>()?;
                Network::Tables { tables, residuals }
            }
            Err(why) => Network::Unknown(why),
        })
    }

    /// Where outputs are forecast.
    ///
    /// In lite mode, which replaces every pattern by its own, blocks return zeros and `proj_out` is forecast:
    /// its input has no effect, and unpatching its output is linear, so this equals forecasting the whole
    /// forward.
    fn places<'a>(&self, modules: &[&'a str]) -> Result<Vec<&'a str>, String> {
        if self.use_lite_mode {
            return Ok(vec!["forward"]);
        }
        if let Some(pattern) = self.skip_predict_identifiers.iter().flatten().next() {
            return Err(format!("TaylorSeer gives zeros for {pattern}: no forecast here does"));
        }
        match self.cache_identifiers.as_deref() {
            None | Some([]) => Ok(modules.iter().copied().filter(|name| name.ends_with(DEFAULT)).collect()),
            Some(patterns) => patterns.iter().map(|pattern| module(pattern, modules)).collect(),
        }
    }

    /// One `[[cache]]` table.
    fn table(&self, at: &str, steps: &Range<usize>) -> Result<Table> {
        let skip = steps.clone().filter(|step| !self.computes(step - steps.start));
        Ok(Table::try_from(json!({
            "strategy": "schedule",
            "at": at,
            "skip": skip.collect::<Vec<_>>(),
            "forecast": { "type": "taylor", "order": self.max_order, "of": "output", "dialect": "diffusers" },
        }))?)
    }

    /// Whether the module runs at its own `step`. The first step after the warm-up is forecast and the next
    /// one computed; the interval is counted from there.
    fn computes(&self, step: usize) -> bool {
        let first = self.disable_cache_before_step + 1;
        let interval = self.cache_interval.max(1);
        step < self.disable_cache_before_step
            || step.abs_diff(first).is_multiple_of(interval)
            || self.disable_cache_after_step.is_some_and(|after| step >= after)
    }
}

/// The module that a pattern selects in every block.
fn module<'a>(pattern: &str, modules: &[&'a str]) -> Result<&'a str, String> {
    let name = BLOCKS.iter().find_map(|blocks| pattern.strip_prefix(blocks));
    let known = modules.iter().find(|known| Some(**known) == name).copied();
    let names = || modules.join(" and ");
    known.ok_or_else(|| {
        format!("TaylorSeer continues {pattern}: hooks here surround {} of every block", names())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taylor() -> TaylorSeer {
        TaylorSeer {
            cache_interval: 4,
            disable_cache_before_step: 3,
            disable_cache_after_step: None,
            max_order: 1,
            taylor_factors_dtype: None,
            skip_predict_identifiers: None,
            cache_identifiers: None,
            use_lite_mode: false,
        }
    }

    #[test]
    fn patterns_are_modules_of_every_block() {
        const WAN: &[&str] = &["attn1", "attn2"];
        let own = |patterns: &[&str]| TaylorSeer {
            cache_identifiers: Some(patterns.iter().map(|&p| p.to_owned()).collect()),
            ..taylor()
        };
        assert_eq!(taylor().places(WAN), Ok(vec![]));
        assert_eq!(taylor().places(&["attn"]), Ok(vec!["attn"]));
        assert_eq!(TaylorSeer { use_lite_mode: true, ..own(&["x"]) }.places(WAN), Ok(vec!["forward"]));
        let both = [r"blocks\.\d+\.attn1", r"blocks\.\d+\.attn2"];
        assert_eq!(own(&both).places(WAN), Ok(WAN.to_vec()));
        assert_eq!(own(&[r"layers\.\d+\.attn1"]).places(WAN), Ok(vec!["attn1"]));
        for unknown in [r"blocks\.\d+\.ffn", r"blocks\.0\.attn1", "attn1"] {
            let why = own(&[unknown]).places(WAN).unwrap_err();
            assert!(why.contains(unknown) && why.contains("attn1 and attn2"), "{why}");
        }
        let zeros = TaylorSeer { skip_predict_identifiers: Some(vec!["x".to_owned()]), ..taylor() };
        assert!(zeros.places(WAN).unwrap_err().contains("zeros"));
    }

    #[test]
    fn the_first_step_after_the_warm_up_is_continued_and_the_next_computed() {
        let taylor = |after| TaylorSeer { disable_cache_after_step: after, ..taylor() };
        let computed = |after| (0..14).filter(|step| taylor(after).computes(*step)).collect::<Vec<_>>();
        assert_eq!(computed(None), [0, 1, 2, 4, 8, 12]);
        assert_eq!(computed(Some(10)), [0, 1, 2, 4, 8, 10, 11, 12, 13]);
    }
}
