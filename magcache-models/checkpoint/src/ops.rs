//! What layers compute with.

/// The operations of layers loaded from a folder's tensors, see
/// [`Folder::computing_with`](super::Folder::computing_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ops {
    /// Our own kernels where they exist: on a CPU, in f32.
    #[default]
    Kernels,
    /// candle's own everywhere, for comparison; slower.
    Reference,
}
