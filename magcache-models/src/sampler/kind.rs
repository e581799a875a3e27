//! The names of the samplers.

use std::{fmt, str::FromStr};

use magcache_core::schemars;
use serde::{Deserialize, Serialize};

use super::SamplerError;

/// A solver together with its way to place the sigmas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum SamplerKind {
    /// UniPC as diffusers runs it: Wan's default there.
    #[serde(rename = "unipc")]
    UniPc,
    /// Euler's method: FLUX, and Wan's distilled few-step models.
    #[serde(rename = "euler")]
    Euler,
    /// DPM-Solver++ as diffusers runs it.
    #[serde(rename = "dpmpp")]
    DpmPp,
    /// UniPC with the sigmas of the Wan repository, that repository's default.
    #[serde(rename = "wan-unipc")]
    WanUniPc,
    /// DPM-Solver++ with the sigmas of the Wan repository.
    #[serde(rename = "wan-dpmpp")]
    WanDpmPp,
}

impl SamplerKind {
    /// Every sampler.
    pub const ALL: [Self; 5] = [Self::UniPc, Self::Euler, Self::DpmPp, Self::WanUniPc, Self::WanDpmPp];

    /// The name a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::Euler => "euler",
            Self::DpmPp => "dpmpp",
            Self::WanUniPc => "wan-unipc",
            Self::WanDpmPp => "wan-dpmpp",
        }
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = SamplerError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == s);
        found.ok_or_else(|| SamplerError::UnknownKind { got: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use magcache_core::hint::Hint as _;

    use super::*;

    #[test]
    fn names_parse_back_in_text_and_in_json() {
        for kind in SamplerKind::ALL {
            assert_eq!(kind.name().parse::<SamplerKind>().unwrap(), kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), serde_json::json!(kind.name()));
        }
        let err = "ddim".parse::<SamplerKind>().unwrap_err();
        assert_eq!(err.to_string(), "there is no sampler \"ddim\"");
        assert_eq!(err.hint().as_deref(), Some("use one of unipc, euler, dpmpp, wan-unipc, wan-dpmpp"));
    }
}
