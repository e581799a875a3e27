//! The `[residuals]` table: how stored residuals are held.

#[cfg(feature = "candle")]
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

#[cfg(feature = "candle")]
use crate::{ConfigError, error::syntax, state::StoragePolicy};

/// The `[residuals]` table: how what is stored for reuse is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Residuals {
    /// `f32`, `bf16` or `f16`, in storage only; without it, as the model computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Most bytes, `2 GiB` or a number; past them the oldest are dropped and computed again. No limit without
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// `same` (as the model, what holds without it) or `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Residuals {
    /// Whether the table is empty.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    #[cfg(feature = "candle")]
    /// The storage policy; `device = "same"` becomes `None`.
    pub fn policy(&self) -> Result<StoragePolicy, ConfigError> {
        let place = "[residuals]";
        let dtype = match self.dtype.as_deref() {
            None => None,
            Some("f32") => Some(DType::F32),
            Some("bf16") => Some(DType::BF16),
            Some("f16") => Some(DType::F16),
            Some(other) => {
                return Err(syntax(place, &format!("`dtype` is {other:?}, it must be f32, bf16 or f16")));
            }
        };
        let device = match self.device.as_deref() {
            None | Some("same") => None,
            Some("cpu") => Some(Device::Cpu),
            Some(other) => {
                return Err(syntax(place, &format!("`device` is {other:?}, it must be same or cpu")));
            }
        };
        let size = |text: &str| {
            let odd = || syntax(place, &format!("`budget` is {text:?}, it must be a size such as \"2 GiB\""));
            byte_size(text).ok_or_else(odd)
        };
        let budget = self.budget.as_deref().map(size).transpose()?;
        Ok(StoragePolicy { dtype, device, budget, ..StoragePolicy::default() })
    }
}

/// A number of bytes as people write it: `2 GiB`, `512MB` or `1000`. `None` if it is not one.
pub fn byte_size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim();
    let scale: Option<f64> = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "kib" => Some(1024.0),
        "mib" => Some(1024f64.powi(2)),
        "gib" => Some(1024f64.powi(3)),
        _ => None,
    };
    let n = digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0)?;
    Some((n * scale?) as usize)
}
