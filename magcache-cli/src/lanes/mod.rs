//! Several runs of one request, dense and cached, in turns, so that disturbances of the machine affect all
//! alike.
//!
//! A [`Scene`] is what they share, a [`Lane`] is one of them. [`take_turns`] runs several to their end and
//! records how far each is from the first one; [`round`] evaluates each; [`run_once`] runs just one, without
//! timing it.

mod lane;
mod round;
mod turns;

#[cfg(test)]
pub(crate) use lane::testing;
pub(crate) use lane::{Lane, Scene, run_once};
pub(crate) use round::{Entry, Finished, Likeness, Noted, Shown, round};
pub(crate) use turns::{take_turns, warm_up};
