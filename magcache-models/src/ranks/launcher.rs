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
    /// Whether its ranks meet through Open MPI; else through MPICH or one of its kin.
    pub(super) is_open: bool,
}

/// Name, variables of the number of ranks, of the place on this machine and of the number there, and
/// whether it is Open MPI's.
const KNOWN: [(&str, [&str; 3], bool); 3] = [
    (
        "mpirun of Open MPI",
        ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
        true,
    ),
    ("mpiexec of MPICH", ["PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"], false),
    ("srun", ["SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"], true),
];

impl Launcher {
    /// The launcher of this process; `None` if it was started alone.
    pub fn find() -> Option<Self> {
        Self::of(&|name| env::var(name).ok())
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let mut found = KNOWN.iter().filter_map(|(name, [size, local, local_size], is_open)| {
            let (size, local, local_size) = (number(size)?, number(local), number(local_size));
            Some(Self { name, size, local, local_size, is_open: *is_open })
        });
        found.next()
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
            (open.name, open.size, open.local, open.is_open),
            ("mpirun of Open MPI", 4, Some(1), true)
        );
        assert_eq!(of(&[("PMI_SIZE", "2")]).map(|l| (l.size, l.is_open)), Some((2, false)));
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
        assert_eq!(of(&[]), None);
    }
}
