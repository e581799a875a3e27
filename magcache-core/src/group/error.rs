//! What can go wrong between ranks.

use crate::hint::Hint;

/// Ranks that cannot go on together. A run with such an error is over on all of them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Two ranks are at different places of the run.
    #[error("the ranks have come apart: rank {own} is at {here} and rank {other} at {there}")]
    Apart {
        /// This rank.
        own: usize,
        /// What it is about to do.
        here: String,
        /// The other rank.
        other: usize,
        /// What that one is about to do.
        there: String,
    },
    /// Two ranks have different values of what has to be the same.
    #[error("{about}: {} on rank {} and {} on rank {}", values[0], ranks[0], values[1], ranks[1])]
    Differ {
        /// What it is.
        about: String,
        /// The two ranks.
        ranks: [usize; 2],
        /// Their values.
        values: [String; 2],
    },
    /// A rank does not answer.
    #[error("rank {rank} has not answered for {seconds} s: {about}")]
    Late {
        /// That rank.
        rank: usize,
        /// How long this one waited.
        seconds: f64,
        /// What it waited for.
        about: String,
    },
    /// A rank is gone.
    #[error("rank {rank} has ended, its answer is missing: {about}")]
    Ended {
        /// That rank.
        rank: usize,
        /// What this one waited for.
        about: String,
    },
    /// Another rank stopped the run.
    #[error("rank {rank} stopped the run: {why}")]
    Stopped {
        /// That rank.
        rank: usize,
        /// Its error.
        why: String,
    },
    /// The engine itself failed.
    #[error("{0}")]
    Engine(String),
}

crate::hints!(GroupError);

impl Hint for GroupError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Apart { .. } | Self::Differ { .. } => {
                Some("all ranks need the same program, configuration and files".to_owned())
            }
            Self::Late { .. } => Some("look at that process; `patience = N` waits longer".to_owned()),
            _ => None,
        }
    }
}

impl GroupError {
    /// Names what was waited for.
    pub(super) fn waiting_for(self, what: &str) -> Self {
        match self {
            Self::Late { rank, seconds, .. } => Self::Late { rank, seconds, about: what.to_owned() },
            Self::Ended { rank, .. } => Self::Ended { rank, about: what.to_owned() },
            other => other,
        }
    }
}
