//! Why state cannot be stored or restored.

/// State that cannot be stored, or a snapshot that does not fit the object it is restored into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A part is missing.
    #[error("the stored state has no `{path}`")]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// A part does not have the expected form.
    #[error("`{path}` of the stored state is {got:?}, expected {expected}")]
    Odd {
        /// Where it is.
        path: String,
        /// The expected form.
        expected: String,
        /// The stored value.
        got: String,
    },
    /// A custom hook does not store its slots.
    #[error("hook {hook} ({name}) does not store its slots, so the run cannot be continued")]
    Refused {
        /// The number of the hook.
        hook: u16,
        /// Its debug name.
        name: String,
    },
    /// A slot of a hook that is not in the registry.
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
