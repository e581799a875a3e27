//! Several runs of one request, dense and cached, in turns, so that disturbances of the machine affect all
//! alike.
//!
//! A [`Scene`] is what they share, a [`Lane`] is one of them. [`take_turns`] runs several to their end and
//! records how far each is from the first one; [`round`] evaluates each; [`once::run_once`] runs just one,
//! without timing it.

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
