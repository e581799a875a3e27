//! A configuration or a profile that cannot be used.

use std::{ops::Range, path::PathBuf};

use super::{count, hint::Hint};
use crate::{Problem, meta};

/// A configuration or a profile that cannot be used. Returned before anything runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Text that is not TOML, or a value of the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// File, table or key.
        place: String,
        /// The parser's message.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A key that nothing reads.
    #[error("{place}: unknown key `{key}`")]
    UnknownKey {
        /// The table.
        place: String,
        /// The key.
        key: String,
        /// The nearest known key.
        nearest: Option<String>,
    },
    /// A name that is not registered.
    #[error("{place}: unknown {kind} {name:?}")]
    UnknownName {
        /// Where it was used.
        place: String,
        /// The kind of name.
        kind: &'static str,
        /// The name.
        name: String,
        /// The nearest registered name.
        nearest: Option<String>,
    },
    /// A ring around blocks that the model does not have.
    #[error("a hook around blocks {at:?} of a model with {}", count(*blocks, "block"))]
    Range {
        /// The requested range.
        at: Range<usize>,
        /// Number of blocks of the model.
        blocks: usize,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Values that cannot work, all of them.
    #[error("{}", join(.0))]
    Problems(Vec<Problem>),
}

impl ConfigError {
    /// An error of the TOML reader at `place`; an unknown key is reported with the nearest known one.
    pub fn toml(place: &str, error: &toml::de::Error) -> Self {
        super::syntax(place, error)
    }

    /// What a key at `place` names and cannot be used, as one of the problems of a configuration.
    pub(crate) fn found_at(self, place: String) -> Problem {
        let hint = self.hint();
        let message = match self {
            Self::UnknownName { kind, name, .. } => format!("unknown {kind} {name:?}"),
            error => error.to_string(),
        };
        Problem { hint, ..Problem::error(place, message) }
    }
}

crate::hints!(ConfigError);

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownName { nearest: Some(nearest), .. } => Some(format!("did you mean {nearest:?}?")),
            Self::UnknownName { kind, .. } => registered(kind),
            Self::Syntax { hint, .. } => hint.clone(),
            Self::Range { blocks: 0, .. } => {
                Some("give the model's sizes: `meta.with_blocks(&[…])`".to_owned())
            }
            Self::Range { blocks, .. } => Some(format!("name blocks in 0..{blocks}")),
            Self::Problems(problems) => problems.iter().find_map(|p| p.hint.clone()),
            _ => None,
        }
    }
}

/// The names that are registered, or why there are none.
fn registered(kind: &str) -> Option<String> {
    let (names, crates): (Vec<&str>, _) = match kind {
        "strategy" => (meta::strategies().iter().map(|s| s.name).collect(), "`magcache_strategies::link()`"),
        "model" => (meta::models().iter().map(|m| &*m.name).collect(), "the `link()` of the model's crate"),
        "profile" => (meta::profiles().iter().map(|p| p.name).collect(), "`magcache_models::link()`"),
        _ => return None,
    };
    Some(if names.is_empty() {
        format!("no {kind} is registered in this program: call {crates} in it")
    } else {
        format!("registered are {}", names.join(", "))
    })
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CachePlan, profile::Profile};

    #[test]
    fn a_program_that_links_nothing_is_told_what_to_call() {
        let strategy = CachePlan::parse("[[cache]]\nstrategy = \"magcache\"").map(drop);
        for (unknown, expected, call) in [
            (strategy, "unknown strategy \"magcache\"", "`magcache_strategies::link()`"),
            (Profile::find("mine").map(drop), "unknown profile \"mine\"", "`magcache_models::link()`"),
            (meta::model("mine").map(drop), "unknown model \"mine\"", "the `link()` of the model's crate"),
        ] {
            let error = unknown.unwrap_err();
            let kind = expected.split(' ').nth(1).unwrap_or_default();
            let hint = format!("no {kind} is registered in this program: call {call} in it");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.hint(), Some(hint));
        }
    }
}
