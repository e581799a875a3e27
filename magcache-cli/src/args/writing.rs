//! What may be written over.

use clap::Args as ClapArgs;

/// What may be written over.
#[derive(Clone, Copy, Debug, Default, ClapArgs)]
#[command(next_help_heading = "Output")]
pub(crate) struct Writing {
    /// Replaces files that exist; without it they are refused before anything runs
    #[arg(long)]
    pub(crate) overwrite: bool,
}
