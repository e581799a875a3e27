//! The dialects of the MagCache rule as a table.

use magcache_core::{ConfigError, Step, Warmup, error::nearest};
use serde::{Deserialize, Serialize};

/// A named reading of the rule. Each equals the published code that it is named after, decision by decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Warm-up per expert phase, all branches agree (maxdiffusion). The default.
    #[default]
    Magcache,
    /// MagCache4Wan2.1 and TI2V-5B: branches on their own, warm-up counted in forwards.
    OfficialWan,
    /// MagCache4Wan2.2 text to video: accumulators carry over the boundary.
    OfficialWan22T2v,
    /// MagCache4Wan2.2 image to video: the high-noise expert never skips.
    OfficialWan22I2v,
    /// `MagCache4FLUX` and Kontext: one step is always computed.
    OfficialFlux,
    /// `MagCache4HunyuanVideo`.
    OfficialHunyuan,
    /// `MagCache4FramePack`: steep steps are computed.
    OfficialFramepack,
    /// `MagCache4OmniGen2`: the skip counter starts at 3.
    OfficialOmnigen2,
    /// diffusers' `MagCacheConfig`: arithmetic in `f32`.
    Diffusers,
}

/// The properties of a dialect.
#[expect(clippy::struct_excessive_bools, reason = "a table with a column for each question")]
pub(super) struct Reading {
    pub(super) name: &'static str,
    /// Whether a pass in the given [`Zone`] must be computed.
    pub(super) retained: fn(&Zone) -> bool,
    /// `err < threshold` rather than `<=`.
    pub(super) strict: bool,
    /// Whether a step must be computed although the bound allows a skip.
    pub(super) gate: fn(step: usize, total: usize, ratio: f64) -> bool,
    /// Whether all branches share one decision.
    pub(super) joint: bool,
    /// Whether accumulators carry over the boundary between experts.
    pub(super) carry: bool,
    /// Whether it checks for something to reuse before it skips; the others were published without this
    /// check.
    pub(super) needs_residual: bool,
    /// Initial value of the skip counter.
    pub(super) first_skips: usize,
    /// Whether arithmetic is in `f32`.
    pub(super) single: bool,
}

/// The inputs of a retention rule.
pub(super) struct Zone {
    /// Index of the forward, counted over both branches: `2·step`, plus 1 for the unconditional one.
    pub(super) forward: f64,
    /// Step of the run.
    pub(super) step: f64,
    /// Steps of the run.
    pub(super) total: f64,
    /// Step within its phase.
    pub(super) local: f64,
    /// Steps of the phase.
    pub(super) phase: f64,
    /// Steps of the first expert.
    pub(super) high: f64,
    /// The retention ratio.
    pub(super) ratio: f64,
}

fn no_gate(_: usize, _: usize, _: f64) -> bool {
    false
}

/// The defaults of a dialect in which each branch decides for itself.
const OWN: Reading = Reading {
    name: "",
    retained: |z| z.forward < (2.0 * z.total * z.ratio).floor(),
    strict: true,
    gate: no_gate,
    joint: false,
    carry: false,
    needs_residual: false,
    first_skips: 0,
    single: false,
};

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 9] = [
        Self::Magcache,
        Self::OfficialWan,
        Self::OfficialWan22T2v,
        Self::OfficialWan22I2v,
        Self::OfficialFlux,
        Self::OfficialHunyuan,
        Self::OfficialFramepack,
        Self::OfficialOmnigen2,
        Self::Diffusers,
    ];

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        self.reading().name
    }

    /// The dialect of this name.
    pub fn parse(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| ConfigError::UnknownName {
            place: "dialect".to_owned(),
            kind: "dialect",
            name: name.to_owned(),
            nearest: nearest(name, Self::ALL.into_iter().map(Self::name)),
        })
    }

    pub(super) fn reading(self) -> Reading {
        match self {
            Self::Magcache => Reading {
                name: "magcache",
                retained: |z| z.local < (z.phase * z.ratio).floor(),
                joint: true,
                needs_residual: true,
                ..OWN
            },
            Self::OfficialWan => Reading { name: "official-wan", ..OWN },
            Self::OfficialWan22T2v => Reading {
                name: "official-wan22-t2v",
                retained: |z| {
                    let (split, all) = (2.0 * z.high, 2.0 * z.total);
                    let low = z.forward >= split && z.forward <= (all - split) * z.ratio + split;
                    z.forward < (split * z.ratio).floor() || low
                },
                carry: true,
                ..OWN
            },
            Self::OfficialWan22I2v => Reading {
                name: "official-wan22-i2v",
                retained: |z| {
                    let (split, all) = (2.0 * z.high, 2.0 * z.total);
                    z.forward < (split + (all - split) * z.ratio).floor()
                },
                ..OWN
            },
            Self::OfficialFlux => Reading {
                name: "official-flux",
                retained: |z| z.step < (z.ratio * z.total + 0.5).floor(),
                strict: false,
                gate: |step, total, _| {
                    total > 1 && (step as f64 * (27.0 / (total - 1) as f64)).round_ties_even() as usize == 11
                },
                ..OWN
            },
            Self::OfficialHunyuan => Reading {
                name: "official-hunyuan",
                retained: |z| z.step < (z.ratio * z.total).floor(),
                strict: false,
                ..OWN
            },
            Self::OfficialFramepack => Reading {
                name: "official-framepack",
                retained: |z| z.step < (z.ratio * z.total).floor().max(1.0),
                strict: false,
                gate: |_, _, ratio| (1.0 - ratio).abs() > 0.06,
                ..OWN
            },
            Self::OfficialOmnigen2 => Reading {
                name: "official-omnigen2",
                retained: |z| z.step < (z.ratio * z.total).ceil(),
                strict: false,
                first_skips: 3,
                ..OWN
            },
            Self::Diffusers => Reading {
                name: "diffusers",
                retained: |z| z.local < (z.ratio * z.phase + 0.5).floor(),
                strict: false,
                needs_residual: true,
                single: true,
                ..OWN
            },
        }
    }
}

impl Reading {
    /// Whether `step` is computed whatever the curve says.
    pub(super) fn retains(&self, step: &Step, second: bool, retention: Warmup) -> bool {
        let local = step.index.saturating_sub(step.phase.start);
        let ratio = match retention {
            Warmup::Steps(n) => return local < n,
            Warmup::Fraction(ratio) => ratio,
        };
        let high = if step.phase.start == 0 { step.phase.end } else { step.phase.start };
        (self.retained)(&Zone {
            forward: (2 * step.index + usize::from(second)) as f64,
            step: step.index as f64,
            total: step.total as f64,
            local: local as f64,
            phase: step.phase.len() as f64,
            high: high as f64,
            ratio,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_configuration_s_words() {
        for dialect in Dialect::ALL {
            let toml = toml::Value::try_from(dialect).unwrap();
            assert_eq!(toml.as_str(), Some(dialect.name()));
            assert_eq!(Dialect::parse(dialect.name()).unwrap(), dialect);
        }
    }
}
