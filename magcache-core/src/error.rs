//! What can be wrong with a configuration or a profile.

use std::{fmt, ops::Range, path::PathBuf};

use crate::Branch;

/// A configuration or a profile that cannot be used. Nothing has run when it is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Text that is not TOML, or a value of the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// File, table or key.
        place: String,
        /// What the parser says.
        message: String,
        /// What to type in its place.
        hint: Option<String>,
    },
    /// A key that nothing reads.
    #[error("{place}: unknown key `{key}`")]
    UnknownKey {
        /// Table.
        place: String,
        /// The key.
        key: String,
        /// The nearest known key.
        nearest: Option<String>,
    },
    /// A name that nothing registered.
    #[error("{place}: unknown {kind} {name:?}")]
    UnknownName {
        /// Where it was used.
        place: String,
        /// What kind of name.
        kind: &'static str,
        /// The name.
        name: String,
        /// The nearest registered name.
        nearest: Option<String>,
    },
    /// A ring around blocks that the model does not have.
    #[error("a hook around blocks {at:?} of a model with {}", count(*blocks, "block"))]
    Range {
        /// The range asked for.
        at: Range<usize>,
        /// Blocks of the model.
        blocks: usize,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Values that cannot work, all of them.
    #[error("{}", join(.0))]
    Problems(Vec<Problem>),
}

impl ConfigError {
    /// An error of the TOML reader at `place`: an unknown key is named with the nearest known one.
    pub fn toml(place: &str, error: &toml::de::Error) -> Self {
        crate::syntax::syntax(place, error)
    }

    /// What to do about it, in words that can be typed where possible.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownName { nearest: Some(nearest), .. } => Some(format!("did you mean {nearest:?}?")),
            Self::UnknownName { kind: "strategy" | "profile" | "model", .. } => {
                Some("`magcache list` shows every name".to_owned())
            }
            Self::Syntax { hint, .. } => hint.clone(),
            Self::Problems(problems) => problems.iter().find_map(|p| p.hint.clone()),
            _ => None,
        }
    }
}

/// One finding about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Table and key.
    pub place: String,
    /// What is wrong, with both values.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// False for a warning: the configuration works, but perhaps not as hoped.
    pub fatal: bool,
}

impl Problem {
    /// A value that cannot work.
    pub fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), hint: None, fatal: true }
    }

    /// Something to tell before compute is spent.
    pub fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::error(place, message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error unless `name`, which `key` has a list for, is that of a guidance branch.
    pub fn unless_branch(place: &str, key: &str, name: &str) -> Option<Self> {
        let unknown = name.parse::<Branch>().err()?;
        let near = nearest(name, ["cond", "uncond", "batched"]);
        let hint = near.map_or_else(
            || format!("{key} = {{ cond = [...], uncond = [...] }}"),
            |near| format!("did you mean `{near}`?"),
        );
        Some(Self::error(place, format!("`{key}` has a list for {name:?}: {unknown}")).hint(hint))
    }

    /// An error unless `value` lies in `low..=high`; NaN never does. `f64::MAX` is no upper bound.
    pub fn unless_in(place: &str, key: &str, value: f64, low: f64, high: f64) -> Option<Self> {
        let range = || match high {
            f64::MAX => format!("at least {low}"),
            _ => format!("between {low} and {high}"),
        };
        (!(low..=high).contains(&value))
            .then(|| Self::error(place, format!("`{key}` is {value}, it must be {}", range())))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A number with its noun: `1 step`, `8 steps`, `2 branches`.
pub fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ if noun.ends_with(['s', 'x']) || noun.ends_with("ch") => format!("{n} {noun}es"),
        _ => format!("{n} {noun}s"),
    }
}

/// The candidate most like `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let score = |c: &str| strsim::jaro_winkler(&word.to_lowercase(), &c.to_lowercase());
    let (best, near) = candidates.into_iter().map(|c| (c, score(c))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (near > 0.75).then(|| best.to_owned())
}
