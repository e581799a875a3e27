//! The factor of a pair that the file states: `alpha / rank`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::key::Part;
use crate::{CheckpointError, Folder, Weights};

/// The entry of the header in which diffusers writes the configuration.
const HEADER: &str = "lora_adapter_metadata";

/// The file in which peft writes it.
const BESIDE: &str = "adapter_config.json";

/// What the configuration says of scales, for every module and for some.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stated {
    lora_alpha: Option<f64>,
    alpha_pattern: BTreeMap<String, f64>,
    use_rslora: bool,
}

impl Stated {
    /// The configuration in the header of the file or beside it; nothing if there is none.
    pub(super) fn of(folder: &Folder, weights: &Weights, part: Part) -> Result<Self, CheckpointError> {
        let refused = |error: serde_json::Error| CheckpointError::Adapter {
            file: weights.place(),
            reason: format!("its {HEADER}: {error}"),
            hint: None,
        };
        if let Some(text) = weights.text(HEADER) {
            let all: BTreeMap<String, Value> = serde_json::from_str(text).map_err(refused)?;
            let prefix = match part {
                Part::Network => "transformer.",
                Part::Clip => "text_encoder.",
                Part::T5 if all.keys().any(|key| key.starts_with("text_encoder_2.")) => "text_encoder_2.",
                Part::T5 => "text_encoder.",
            };
            let own = all
                .into_iter()
                .map(|(key, value)| (key.strip_prefix(prefix).unwrap_or(&key).to_owned(), value));
            return serde_json::from_value(own.collect()).map_err(refused);
        }
        if let Some(alpha) = weights.text("lora_alpha").and_then(|alpha| alpha.parse().ok()) {
            return Ok(Self { lora_alpha: Some(alpha), ..Self::default() });
        }
        if folder.exists(BESIDE) { folder.read_json(BESIDE) } else { Ok(Self::default()) }
    }

    /// The factor for a module of this rank; `alpha` is its own, which counts first. An alpha of 0 is none.
    pub(super) fn scale(&self, module: &str, rank: usize, alpha: Option<f64>) -> f64 {
        // Patterns name modules by their ends.
        let ends = |key: &&String| {
            module.strip_suffix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let pattern = self.alpha_pattern.keys().find(ends).and_then(|key| self.alpha_pattern.get(key));
        let stated = || pattern.copied().or(self.lora_alpha);
        let rank = rank as f64;
        match alpha.filter(|alpha| *alpha != 0.0) {
            Some(alpha) => alpha / rank,
            None => match stated().filter(|alpha| *alpha != 0.0) {
                Some(alpha) if self.use_rslora => alpha / rank.sqrt(),
                Some(alpha) => alpha / rank,
                None => 1.0,
            },
        }
    }
}
