//! What a run will need, before anything large is read.
//!
//! A run has phases, in each of which some networks are in memory: the text encoders, the transformer, the
//! autoencoder. Weights are counted by how they are kept; activations are what measurements of the networks
//! gave as a function of the tokens, rounded up.

use crate::checkpoint::Weights;

/// What one part of a run holds at its peak, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What it does.
    pub name: &'static str,
    /// Weights in memory; those that stay coded lie in the file's pages.
    pub weights: u64,
    /// The largest layer, widened or decoded for its product.
    pub scratch: u64,
    /// Hidden states and what is computed from them.
    pub activations: u64,
}

impl Phase {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.scratch + self.activations
    }
}

/// Values that a block of a transformer has alive for each token, as a multiple of its width: input,
/// residual, queries, keys, values, their attention, and the parts of sums.
const WIDTHS: u64 = 10;

/// Bytes of a value that is computed with.
const F32: u64 = 4;

/// A phase of text encoders that are in memory together and read so many tokens: scores of every token for
/// every other are whole, and so is what is added to them for their positions.
pub fn text_phase(networks: &[Weights], tokens: usize, widths: [usize; 2], heads: usize) -> Phase {
    let phase = transformer_phase("text encoder", networks, tokens, widths);
    let scores = 2 * heads as u64 * (tokens as u64).pow(2) * F32;
    Phase { activations: phase.activations + scores, ..phase }
}

/// A phase of networks that are in memory together and run on so many tokens of this width; `hidden` is the
/// width inside their feed-forward layers.
pub fn transformer_phase(
    name: &'static str,
    networks: &[Weights],
    tokens: usize,
    [width, hidden]: [usize; 2],
) -> Phase {
    let weights = networks.iter().map(Weights::resident_bytes).sum();
    let scratch = networks.iter().map(Weights::scratch_bytes).max().unwrap_or_default();
    let values = WIDTHS * width as u64 + hidden as u64;
    Phase { name, weights, scratch, activations: tokens as u64 * values * F32 }
}
