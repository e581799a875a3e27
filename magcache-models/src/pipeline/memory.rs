//! What a run will need, before anything large is read.
//!
//! A run has phases, in each of which some networks are in memory: the text encoders, the transformer, the
//! autoencoder. Weights are counted by how they are kept; activations are what measurements of the networks
//! gave as a function of the tokens, rounded up. Of several ranks each is counted as what it holds itself.

use super::{LoadOptions, Offload};
use crate::{checkpoint::Weights, ranks::Ranks};

/// What one part of a run holds at its peak, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// What it does.
    pub name: &'static str,
    /// Weights in memory; those that stay coded lie in the file's pages.
    pub weights: u64,
    /// The largest layer, widened or decoded for its product.
    pub scratch: u64,
    /// Hidden states and what is computed from them.
    pub activations: u64,
    /// What caches hold, for those who know them: pipelines do not.
    pub caches: u64,
    /// Whether every rank needs it, each for itself; else the first one alone.
    pub everywhere: bool,
}

impl Phase {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.scratch + self.activations + self.caches
    }
}

/// How ranks divide a network: the largest share that one of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Ranks that divide the tokens.
    pub ranks: usize,
    /// Whether they divide the weights of blocks too.
    pub shard: bool,
    /// Whether the weights of blocks are on disk until they run.
    pub on_disk: bool,
}

impl Division {
    /// Of a network that is loaded with these options.
    pub fn of(options: &LoadOptions) -> Self {
        let ranks = options.ranks.as_ref().map_or(1, |ranks| Ranks::layout(ranks).ulysses);
        let shard = options.shard && ranks > 1;
        Self { ranks, shard, on_disk: !shard && options.offload == Offload::Blocks }
    }

    /// Bytes of the weights of a network that a rank holds, whose blocks are in these lists.
    fn weights(self, network: &Weights, lists: &[&str]) -> u64 {
        let whole = network.resident_bytes();
        if !self.shard && !self.on_disk {
            return whole;
        }
        let (mut replaced, mut held) = (0, 0);
        for list in lists {
            let blocks = (0..network.count(list)).map(|i| network.pp(list).pp(i));
            let sizes: Vec<(u64, u64)> =
                blocks.map(|block| (block.resident_bytes(), block.flat().len() as u64)).collect();
            let largest = |of: fn(&(u64, u64)) -> u64| sizes.iter().map(of).max().unwrap_or_default();
            let share = |stored: &u64| if self.shard { stored.div_ceil(self.ranks as u64) } else { 0 };
            let shares: u64 = sizes.iter().map(|(_, stored)| share(stored)).sum();
            replaced += sizes.iter().map(|(resident, _)| resident).sum::<u64>();
            // Two blocks, and while the second is fetched its bytes: as they are read, or as they are sent,
            // received and joined.
            let copies = if self.shard { 3 } else { 1 };
            held += shares + 2 * largest(|(resident, _)| *resident) + copies * largest(|(_, stored)| *stored);
        }
        whole.saturating_sub(replaced) + held
    }
}

/// Values that a block of a transformer has alive for each token, as a multiple of its width: input,
/// residual, queries, keys, values, their attention, and the parts of sums.
const WIDTHS: u64 = 10;

/// Bytes of a value that is computed with.
const F32: u64 = 4;

/// A phase of text encoders that are in memory together, on the rank that asks them, and read so many tokens:
/// scores of every token for every other are whole, and so is what is added to them for their positions.
pub fn text_phase(networks: &[Weights], tokens: usize, widths: [usize; 2], heads: usize) -> Phase {
    let alone = Division { ranks: 1, shard: false, on_disk: false };
    let phase = transformer_phase("text encoder", (networks, &[]), tokens, widths, alone);
    let scores = 2 * heads as u64 * (tokens as u64).pow(2) * F32;
    Phase { activations: phase.activations + scores, everywhere: false, ..phase }
}

/// A phase of networks that are in memory together and run on so many tokens of this width, divided among
/// ranks; `lists` are those of their blocks, `hidden` is the width inside their feed-forward layers.
pub fn transformer_phase(
    name: &'static str,
    (networks, lists): (&[Weights], &[&str]),
    tokens: usize,
    [width, hidden]: [usize; 2],
    division: Division,
) -> Phase {
    let weights = networks.iter().map(|network| division.weights(network, lists)).sum();
    let scratch = networks.iter().map(Weights::scratch_bytes).max().unwrap_or_default();
    let values = WIDTHS * width as u64 + hidden as u64;
    let own = tokens.div_ceil(division.ranks.max(1)) as u64;
    Phase { name, weights, scratch, activations: own * values * F32, caches: 0, everywhere: true }
}
