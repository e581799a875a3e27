//! One finding about a configuration.

use std::fmt;

use super::nearest;
use crate::Branch;

/// One finding about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Table and key.
    pub place: String,
    /// What is wrong, with the given and the expected value.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// False for a warning: the configuration works, but perhaps not as intended.
    pub fatal: bool,
}

impl Problem {
    /// A value that cannot work.
    pub fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), hint: None, fatal: true }
    }

    /// Something to point out before compute is spent.
    pub fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::error(place, message) }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error unless `name`, a list under `key`, is the name of a guidance branch.
    pub fn unless_branch(place: &str, key: &str, name: &str) -> Option<Self> {
        let unknown = name.parse::<Branch>().err()?;
        let near = nearest(name, ["cond", "uncond", "batched"]);
        let hint = near.map_or_else(
            || format!("{key} = {{ cond = [...], uncond = [...] }}"),
            |near| format!("did you mean `{near}`?"),
        );
        Some(Self::error(place, format!("`{key}` has a list for {name:?}: {unknown}")).hint(hint))
    }

    /// An error unless `value` lies in `low..=high`; NaN never does. `high = f64::MAX` means no upper bound.
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
