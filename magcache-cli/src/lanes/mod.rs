//! Runs of one request beside each other: dense and cached, in turns, so that a noisy machine treats them alike.
//!
//! A [`Scene`] is what they share, a [`Lane`] is one of them. [`take_turns`] runs several to their end and notes how far
//! each is from the first one, [`round`] says what came of each; [`once::run_once`] runs one without asking how long it takes.

mod lane;
pub(crate) mod once;
mod quality;
mod round;
mod scene;
mod turns;

pub(crate) use lane::Lane;
pub(crate) use quality::quality;
pub(crate) use round::{Entry, Finished, Noted, Shown, round};
pub(crate) use scene::Scene;
#[cfg(test)]
pub(crate) use scene::testing;
pub(crate) use turns::{steps, take_turns, warm_up};
