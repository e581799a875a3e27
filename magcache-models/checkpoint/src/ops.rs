//! What layers compute with.

/// The operations of layers that are loaded from a folder's tensors, see [`Folder::computing_with`](super::Folder::computing_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ops {
    /// Kernels of our own where there are some: on a CPU, in f32.
    #[default]
    Kernels,
    /// candle's own everywhere, to compare the two; slower.
    Reference,
}
