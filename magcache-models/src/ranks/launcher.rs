//! What started this process as one of several.

use std::env;

/// A launcher, by the variables that it sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// Its name.
    pub name: &'static str,
    /// Number of ranks that it started.
    pub size: usize,
    /// This rank among those on this machine.
    pub local: Option<usize>,
    /// Number of those.
    pub local_size: Option<usize>,
    /// How its ranks find each other.
    pub meets: Meets,
}

/// How ranks that a launcher started find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// Through Open MPI.
    OpenMpi,
    /// Through MPICH or one of its kin.
    Mpich,
    /// Through a server of the launcher's own, which is not spoken here: the first process runs all ranks of
    /// its machine, as threads.
    InFirst,
}

/// Name, variables of the number of ranks, of the place on this machine and of the number there, and how its
/// ranks meet. The last one's variables may be set for processes of the others too, and it may be started by
/// one of them.
const KNOWN: [(&str, [&str; 3], Meets); 4] = [
    (
        "mpirun of Open MPI",
        ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
        Meets::OpenMpi,
    ),
    ("mpiexec of MPICH", ["PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"], Meets::Mpich),
    ("srun", ["SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"], Meets::OpenMpi),
    (TORCHRUN, ["WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"], Meets::InFirst),
];

/// PyTorch's, what every process has that it started, and what no other process has.
const TORCHRUN: &str = "torchrun";
const OF_TORCHRUN: [&str; 2] = ["RANK", "MASTER_ADDR"];
const TORCHRUN_ALONE: &str = "TORCHELASTIC_RUN_ID";

impl Launcher {
    /// The launcher of this process; `None` if it was started alone.
    pub fn find() -> Option<Self> {
        Self::of(&|name| env::var(name).ok())
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let mut found = KNOWN.iter().filter_map(|(name, [size, local, local_size], meets)| {
            let (size, local, local_size) = (number(size)?, number(local), number(local_size));
            let own = *name != TORCHRUN || OF_TORCHRUN.iter().all(|name| variable(name).is_some());
            own.then_some(Self { name, size, local, local_size, meets: *meets })
        });
        if variable(TORCHRUN_ALONE).is_some() { found.last() } else { found.next() }
    }

    /// Whether each process that it started is one rank.
    pub fn starts_ranks(&self) -> bool {
        self.meets != Meets::InFirst
    }

    /// Whether all processes that it started are on this machine.
    pub fn is_on_one_machine(&self) -> bool {
        self.local_size == Some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_known_by_its_variables() {
        let of = |set: &[(&str, &str)]| {
            Launcher::of(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        let open =
            of(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1"), ("PMI_SIZE", "9")]);
        let open = open.unwrap();
        assert_eq!(
            (open.name, open.size, open.local, open.meets),
            ("mpirun of Open MPI", 4, Some(1), Meets::OpenMpi)
        );
        assert_eq!(of(&[("PMI_SIZE", "2")]).map(|l| (l.size, l.meets)), Some((2, Meets::Mpich)));
        // A container may have one of these variables for reasons of its own.
        assert_eq!(of(&[("WORLD_SIZE", "8")]), None);
        let torch = [("WORLD_SIZE", "8"), ("RANK", "3"), ("LOCAL_RANK", "3"), ("MASTER_ADDR", "node")];
        assert_eq!(of(&torch).map(|l| (l.size, l.local, l.meets)), Some((8, Some(3), Meets::InFirst)));
        // Whoever sets these for processes of `mpirun` has it start ranks all the same.
        let inside = [torch.as_slice(), &[("OMPI_COMM_WORLD_SIZE", "2")]].concat();
        assert_eq!(of(&inside).map(|l| (l.size, l.starts_ranks())), Some((2, true)));
        // `srun torchrun`, once on each machine.
        let under = [&torch[..], &[("SLURM_STEP_NUM_TASKS", "1"), ("TORCHELASTIC_RUN_ID", "none")]].concat();
        assert_eq!(of(&under).map(|l| (l.size, l.starts_ranks())), Some((8, false)));
        for (here, one) in [("8", true), ("4", false), ("", false)] {
            let all = [&torch[..], &[("LOCAL_WORLD_SIZE", here)]].concat();
            assert_eq!(of(&all).map(|l| l.is_on_one_machine()), Some(one), "{here:?} of 8");
        }
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
        assert_eq!(of(&[]), None);
    }
}
