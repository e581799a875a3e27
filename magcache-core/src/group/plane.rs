//! What an engine of ranks has to do.

use std::{fmt::Debug, time::Duration};

use super::Result;

/// The conversation that a message belongs to: between two ranks, each has an order of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// That of the thread that computes.
    #[default]
    Run,
    /// That of the thread that fetches weights ahead.
    Weights,
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 2;
}

/// What one rank sends to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The conversation that it is part of.
    pub lane: Lane,
    /// What it is, compared with what the receiver waits for.
    pub about: String,
    /// The contents.
    pub bytes: Vec<u8>,
}

/// Moves messages between the ranks of a run. Between two ranks those of a lane arrive in the order in which
/// they were sent. Several threads may wait at once, each in a lane of its own.
pub trait ControlPlane: Debug + Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Sends without waiting for the receiver.
    ///
    /// # Errors
    /// The other rank is known to have ended, or the engine fails.
    fn send(&self, to: usize, message: Message) -> Result<()>;

    /// The next message of a rank in a lane, for which it waits at most `patience`.
    ///
    /// # Errors
    /// [`GroupError::Late`](super::GroupError::Late), [`GroupError::Ended`](super::GroupError::Ended), or
    /// [`GroupError::Stopped`](super::GroupError::Stopped) if any rank has stopped the run; the engine fails.
    fn receive(&self, from: usize, lane: Lane, patience: Duration) -> Result<Message>;

    /// Waits until the engine needs this rank no more to deliver what it sent in a lane, at most `patience`:
    /// for engines that make progress only while they are called.
    ///
    /// # Errors
    /// [`GroupError::Late`](super::GroupError::Late) with a rank that does not take its message; the engine
    /// fails.
    fn flush(&self, _lane: Lane, _patience: Duration) -> Result<()> {
        Ok(())
    }

    /// Whether any rank has stopped the run, for who waits for something else than a message. At once.
    ///
    /// # Errors
    /// [`GroupError::Stopped`](super::GroupError::Stopped) if one has, every time; the engine fails.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Tells all other ranks that this one stops, and why. Errors are of no use to anyone here.
    fn stop(&self, why: &str);
}
