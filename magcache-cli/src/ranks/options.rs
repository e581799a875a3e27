//! Where a rank computes, and what is its part of the network.

use anyhow::Result;
use magcache_models::{
    checkpoint::Ops,
    pipeline::{LoadOptions, Offload, PipelineError},
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
        if self.shard && placement.offload == Offload::Blocks {
            let message = "--shard and --offload blocks both say where the weights of blocks are";
            return Err(bad_input_with(message, "one of them"));
        }
        let own = ranks.filter(|_| self.gpus.is_some() || placement.device == "cuda");
        let placement = match own.map(|ranks| gpu(Launcher::find().as_ref(), ranks.world().place())) {
            Some(gpu) => &Placement { device: format!("cuda:{gpu}"), ..placement.clone() },
            None => placement,
        };
        let options = placement.options(ops)?;
        ranks.map_or(Ok(()), |ranks| ranks.connect(&options.device)).map_err(PipelineError::Tensor)?;
        Ok(LoadOptions { ranks: ranks.cloned(), shard: self.shard, ..options })
    }
}

/// The number of a rank's own GPU on its machine.
fn gpu(launcher: Option<&Launcher>, rank: usize) -> usize {
    launcher.filter(|launcher| launcher.starts_ranks()).and_then(|launcher| launcher.local).unwrap_or(rank)
}

/// How tensors get from one rank's GPU to another's, in a build with this version of NCCL, or without.
pub(crate) fn way(nccl: Option<&str>) -> String {
    match nccl {
        Some(version) => format!("from GPU to GPU, by NCCL {version}"),
        None => "between GPUs through the hosts; a build with --features nccl sends them from GPU to GPU"
            .to_owned(),
    }
}

/// Whether this is the only rank, or the one that reads and writes.
pub(crate) fn is_first(ranks: Option<&Ranks>) -> bool {
    ranks.is_none_or(Ranks::is_first)
}

#[cfg(test)]
mod tests {
    use magcache_models::ranks::Meets;

    use super::*;

    #[test]
    fn every_rank_of_a_machine_has_a_gpu_of_its_own() {
        let launcher = |meets, local| Launcher { name: "x", size: 8, local, local_size: Some(4), meets };
        // The second of four on the second machine.
        assert_eq!(gpu(Some(&launcher(Meets::OpenMpi, Some(1))), 5), 1);
        assert_eq!(gpu(Some(&launcher(Meets::Mpich, None)), 5), 5);
        // Threads: all of them are in the first process.
        assert_eq!(gpu(Some(&launcher(Meets::InFirst, Some(0))), 5), 5);
        assert_eq!(gpu(None, 3), 3);
    }

    #[test]
    fn the_way_of_tensors_is_told_with_what_would_be_better() {
        assert_eq!(way(Some("2.28.9")), "from GPU to GPU, by NCCL 2.28.9");
        assert!(way(None).contains("through the hosts") && way(None).contains("--features nccl"));
    }
}
