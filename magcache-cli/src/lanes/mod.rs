//! Runs of one request beside each other: dense and cached, in turns, so that a noisy machine treats them alike.
//!
//! A [`Scene`] is what they share, a [`Lane`] is one of them. [`take_turns`] runs several to their end and notes how far
//! each is from the first one, [`round`] says what came of each; [`once::run_once`] runs one without asking how long it takes.

mod lane;
#[cfg_attr(not(test), expect(dead_code, reason = "for commands that look for a setting; none does yet"))]
pub(crate) mod once;
mod quality;
mod round;
mod scene;
mod turns;

pub(crate) use lane::Lane;
pub(crate) use quality::quality;
pub(crate) use round::{Entry, Finished, Shown, round};
pub(crate) use scene::Scene;
pub(crate) use turns::{take_turns, warm_up};
