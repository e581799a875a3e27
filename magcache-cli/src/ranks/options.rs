//! Where a rank computes, and what is its part of the network.

use anyhow::Result;
use magcache_models::{
    checkpoint::Ops,
    pipeline::LoadOptions,
    ranks::{Launcher, Ranks},
};

use crate::{
    args::{Placement, RanksArgs},
    console::bad_input_with,
};

impl RanksArgs {
    /// How this rank loads a network.
    ///
    /// # Errors
    /// A device that is not there; weights to be divided among ranks that do not divide the tokens.
    pub(crate) fn options(
        &self,
        placement: &Placement,
        ranks: Option<&Ranks>,
        ops: Ops,
    ) -> Result<LoadOptions> {
        if self.shard && ranks.is_none_or(|ranks| ranks.layout().ulysses < 2) {
            let message = "--shard divides weights among the ranks that divide the tokens, and there is one";
            return Err(bad_input_with(message, "--parallel ulysses=2 or more, or leave --shard out"));
        }
        let own = ranks.filter(|_| self.gpus.is_some() || placement.device == "cuda");
        let local =
            |ranks: &Ranks| Launcher::find().and_then(|own| own.local).unwrap_or(ranks.world().place());
        let placement = match own {
            Some(ranks) => &Placement { device: format!("cuda:{}", local(ranks)), ..placement.clone() },
            None => placement,
        };
        Ok(LoadOptions { ranks: ranks.cloned(), shard: self.shard, ..placement.options(ops)? })
    }
}

/// Whether this is the only rank, or the one that reads and writes.
pub(crate) fn is_first(ranks: Option<&Ranks>) -> bool {
    ranks.is_none_or(Ranks::is_first)
}
