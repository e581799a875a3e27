//! What may be written over.

use clap::Args as ClapArgs;

/// What may be written over.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
pub(crate) struct Writing {
    /// Replaces files that exist; without it they are refused before anything runs
    #[arg(long)]
    pub(crate) overwrite: bool,
}
