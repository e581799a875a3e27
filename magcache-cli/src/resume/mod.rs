//! A run that survives being killed: its state in a folder, and the way back from there.
//!
//! The state is one file, which is replaced as a whole: under its name there is always one that is complete. A process that
//! uses the folder holds a lock on it, which the system lets go of when the process ends, however it ends.

mod file;
mod identity;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use magcache_core::Snapshot;
use magcache_models::pipeline::Generation;

pub(crate) use self::file::Stored;
pub(crate) use self::identity::{Identity, identity};
use crate::failure::bad_input_with;

/// The folder of `--checkpoint`.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    folder: PathBuf,
    every: usize,
    run: Identity,
    /// Where the result will be.
    output: PathBuf,
    /// The next step of the run in the last state.
    stored: Option<usize>,
    /// Held for as long as the folder is used.
    lock: Option<File>,
}

impl Checkpoint {
    /// Looks into the folder, which need not exist: the state of this very run, or none. Writes nothing.
    ///
    /// Errors: the state of another run, a file that is no state, a folder that another process uses.
    pub(crate) fn open(
        folder: &Path,
        every: usize,
        run: Identity,
        output: &Path,
    ) -> Result<(Self, Option<Stored>)> {
        let mut new = Self {
            folder: folder.to_owned(),
            every,
            run,
            output: output.to_owned(),
            stored: None,
            lock: None,
        };
        if folder.is_dir() {
            new.lock()?;
        }
        let stored = file::read(folder)?;
        if let Some(stored) = &stored {
            stored.check(folder, &new.run)?;
            new.stored = Some(stored.step()?);
        } else {
            crate::media::probe(&folder.join(file::NAME))?;
        }
        Ok((new, stored))
    }

    /// The step at which a run would go on from the folder; `None` while there is no state in it.
    pub(crate) fn stored(&self) -> Option<usize> {
        self.stored
    }

    /// True behind a step whose state is to be stored: every so many steps of the run, and the last.
    pub(crate) fn is_due(&self, run: &Generation) -> bool {
        run.is_done() || (run.next() - run.trajectory().first).is_multiple_of(self.every)
    }

    /// Stores the state of a run that stands between two steps, in place of the one before.
    pub(crate) fn save(&mut self, run: &Generation) -> Result<()> {
        if self.lock.is_none() {
            let cannot = || format!("cannot create the folder {}", self.folder.display());
            fs::create_dir_all(&self.folder).with_context(cannot)?;
            self.lock()?;
        }
        let mut snapshot = Snapshot::default();
        run.save(&mut snapshot.writer())?;
        let (identity, output) = (self.run.clone(), self.output.clone());
        Stored { run: identity, output, snapshot }.write(&self.folder)?;
        self.stored = Some(run.next());
        Ok(())
    }

    /// Removes the state of a run whose outputs are complete, and the folder if nothing else is in it.
    pub(crate) fn finish(self) -> Result<()> {
        file::remove(&self.folder)?;
        // Fails when something else lies there.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    fn lock(&mut self) -> Result<()> {
        // Where a folder cannot be opened or locked, runs are trusted to keep apart.
        let Ok(folder) = File::open(&self.folder) else { return Ok(()) };
        if let Err(TryLockError::WouldBlock) = folder.try_lock() {
            let message = format!("another run is using the folder {}", self.folder.display());
            return Err(bad_input_with(message, "wait for it, or name another --checkpoint DIR"));
        }
        self.lock = Some(folder);
        Ok(())
    }
}
