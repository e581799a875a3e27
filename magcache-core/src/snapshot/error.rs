//! Why state cannot be stored or put back.

/// State that cannot be stored, or a snapshot that does not fit what it is put back into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A part is not there.
    #[error("the stored state has no `{path}`")]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// A part does not read as what it must be.
    #[error("`{path}` of the stored state is {got:?}, expected {expected}")]
    Odd {
        /// Where it is.
        path: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A hook of its own kind does not say how its slots are stored.
    #[error("hook {hook} ({name}) does not store its slots, so the run cannot be continued")]
    Refused {
        /// The number of the hook.
        hook: u16,
        /// Its debug name.
        name: String,
    },
    /// A slot of a hook that the registry does not have.
    #[error("a slot of hook {hook}, which the registry does not have")]
    NoHook {
        /// The number of the hook.
        hook: u16,
    },
    /// A tensor that cannot be moved to its device.
    #[error("`{path}` of the stored state: {message}")]
    Tensor {
        /// Where it is.
        path: String,
        /// What went wrong.
        message: String,
    },
}
