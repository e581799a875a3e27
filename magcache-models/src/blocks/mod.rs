//! The blocks of a network: in memory, or each there for the time of its run.
//!
//! Who runs a block asks for it by its number and gives it back when it has run. Blocks that are lent are
//! made by another thread, one ahead of the run: while a block runs, the next one is fetched, and after the
//! last one the first, for the next pass that computes. So two are in memory, and a pass that skips all
//! blocks fetches none.

mod fetcher;
mod lender;
mod shards;
mod traffic;

use std::{ops::Deref, sync::Arc};

use candle_core::Result;
use magcache_core::{Group, hint};

pub use self::{
    fetcher::Fetcher,
    traffic::{Fetched, Traffic},
};
use self::{lender::Lender, shards::Shards};
use crate::checkpoint::{CheckpointError, Weights};

type LoadResult<T> = std::result::Result<T, CheckpointError>;

/// Where the weights of blocks are while these do not run.
#[derive(Clone, Debug, Default)]
pub enum Residence {
    /// In the blocks, which stay.
    #[default]
    Memory,
    /// In their files, from which another thread reads them.
    Disk {
        /// Reads them.
        fetcher: Fetcher,
    },
    /// Divided among the ranks of a group, which all run the same blocks at the same time.
    Shards {
        /// The ranks, in a lane for weights.
        group: Group,
        /// Asks them.
        fetcher: Fetcher,
    },
}

/// The blocks of one list, by number.
#[derive(Debug)]
pub(crate) enum Blocks<B> {
    Kept(Vec<B>),
    Lent(Lender<B>),
}

/// A block for the time of its run.
pub(crate) enum Lent<'b, B> {
    Kept(&'b B),
    Fetched(Arc<B>),
}

impl<B> Deref for Lent<'_, B> {
    type Target = B;

    fn deref(&self) -> &B {
        match self {
            Self::Kept(block) => block,
            Self::Fetched(block) => block,
        }
    }
}

impl<B: Send + Sync + 'static> Blocks<B> {
    /// The modules `list.0` to `list.{count - 1}`, each made by `load`.
    ///
    /// # Errors
    /// A tensor that is missing or of a wrong shape, in any of them, wherever they will be.
    pub(crate) fn load(
        weights: &Weights,
        list: &'static str,
        count: usize,
        residence: &Residence,
        load: impl Fn(&Weights) -> LoadResult<B> + Send + Sync + 'static,
    ) -> LoadResult<Self> {
        let fetcher = match residence {
            Residence::Memory => {
                let all = (0..count).map(|i| load(&weights.pp(list).pp(i)));
                return Ok(Self::Kept(all.collect::<LoadResult<_>>()?));
            }
            Residence::Disk { fetcher } | Residence::Shards { fetcher, .. } => fetcher.clone(),
        };
        let first = weights.pp(list).pp(0);
        for i in 0..count {
            let own = weights.pp(list).pp(i);
            // What one block reads, all of them read; where one is different, loading it says how.
            if i == 0 || !own.read_like(&first) {
                load(&own)?;
            }
        }
        let all = weights.pp(list);
        let sizes = (0..count).map(|i| all.pp(i).flat().len() as u64).collect();
        let device = weights.device().clone();
        Ok(Self::Lent(match residence {
            Residence::Shards { group, .. } => {
                let shards = Shards::of(&all, list, count, group.clone());
                Lender::new(sizes, device, fetcher, move |i| load(&shards.block(i)?))
            }
            // Read whole: what stays coded would else be read from the file while the block runs.
            Residence::Disk { .. } | Residence::Memory => Lender::new(sizes, device, fetcher, move |i| {
                let flat = all.pp(i).flat();
                load(&flat.tensors(flat.read(0..flat.len())))
            }),
        }))
    }

    /// Number of blocks.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Kept(all) => all.len(),
            Self::Lent(lender) => lender.len(),
        }
    }

    /// A block, for which it waits if it is not there yet.
    ///
    /// # Errors
    /// No block of this number; one that cannot be fetched.
    pub(crate) fn get(&self, i: usize) -> Result<Lent<'_, B>> {
        match self {
            Self::Kept(all) => match all.get(i) {
                Some(block) => Ok(Lent::Kept(block)),
                None => candle_core::bail!("block {i} of {}", all.len()),
            },
            Self::Lent(lender) => lender.get(i).map(Lent::Fetched).map_err(hint::wrap),
        }
    }
}
