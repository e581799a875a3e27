//! Ranks that share a request: each holds a part of the tokens or a guidance branch, and all decide alike.
//!
//! An engine moves host bytes between ranks ([`ControlPlane`]); a [`Group`] makes of it what decisions need:
//! everyone's bytes, a vote, one value for all. Every message says what it is about, so ranks that have come
//! apart are found out at the next one, whatever it is. No rank waits for ever: whoever is not answered in
//! time gives up with an error that names the silent rank.
//!
//! A [`Session`](crate::Session) of a group needs nothing else: its hooks add up metrics over the ranks, vote
//! about what is local to one, and compare every decision before they act on it.

#[cfg(feature = "candle")]
mod branches;
mod error;
mod plane;
mod threads;
#[cfg(feature = "candle")]
mod together;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

#[cfg(feature = "candle")]
pub(crate) use branches::Branches;
pub use error::GroupError;
pub use plane::{ControlPlane, Lane, Message};
pub use threads::{ThreadPlane, threads};
#[cfg(feature = "candle")]
pub(crate) use together::Together;

/// Result of talking to other ranks.
pub type Result<T> = std::result::Result<T, GroupError>;

/// The part of `n` things that the rank at `place` of `size` has: as even as possible, the first ranks one
/// more, and together all of them in order.
pub fn share(n: usize, size: usize, place: usize) -> Range<usize> {
    let size = size.max(1);
    let start = |place: usize| place * (n / size) + place.min(n % size);
    start(place)..start(place + 1)
}

/// Some of the ranks of an engine, in order; every one of them makes the same calls in the same order.
///
/// Cloning copies handles.
#[derive(Clone, Debug)]
pub struct Group {
    plane: Arc<dyn ControlPlane>,
    /// Ranks of the engine.
    members: Arc<[usize]>,
    /// The place of this rank among them.
    place: usize,
    lane: Lane,
    patience: Duration,
    /// The first error that came from other ranks, of all parts of the group.
    fault: Arc<OnceLock<GroupError>>,
}

impl Group {
    /// All ranks of an engine. Each waits for the others at most `patience`.
    pub fn world(plane: Arc<dyn ControlPlane>, patience: Duration) -> Self {
        let (place, members) = (plane.rank(), (0..plane.size()).collect());
        Self { plane, members, place, lane: Lane::Run, patience, fault: Arc::default() }
    }

    /// The members at these places of this group, among which this rank has to be; `None` if it is not.
    pub fn part(&self, places: &[usize]) -> Option<Self> {
        let place = places.iter().position(|place| *place == self.place)?;
        let members = places.iter().filter_map(|place| self.members.get(*place).copied()).collect();
        Some(Self { members, place, ..self.clone() })
    }

    /// The same ranks in another conversation, for a thread of its own.
    #[must_use]
    pub fn in_lane(&self, lane: Lane) -> Self {
        Self { lane, ..self.clone() }
    }

    /// The place of this rank in the group, from 0.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The rank of the engine at a place of this group.
    pub fn rank(&self, place: usize) -> usize {
        self.members.get(place).copied().unwrap_or_default()
    }

    /// The part of `n` things that this rank has, see [`share`].
    pub fn own(&self, n: usize) -> Range<usize> {
        share(n, self.size(), self.place)
    }

    /// How long it waits for another rank.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The first error that this rank had with others; `None` if whatever went wrong went wrong here.
    pub fn fault(&self) -> Option<&GroupError> {
        self.fault.get()
    }

    fn noted(&self, error: GroupError) -> GroupError {
        _ = self.fault.set(error.clone());
        error
    }

    /// Sends `parts[p]` to the rank at place `p`, and returns what each sent here, in order. `about`
    /// names what the parts are; it is compared. One part per rank.
    ///
    /// # Errors
    /// A rank that sends something else, does not answer in time, has ended or has stopped the group.
    pub fn exchange(&self, about: &str, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let mut mine = Vec::new();
        for (place, (member, bytes)) in self.members.iter().zip(parts).enumerate() {
            if place == self.place {
                mine = bytes;
            } else {
                self.plane.send(*member, Message { lane: self.lane, about: about.to_owned(), bytes })?;
            }
        }
        let mut all = Vec::with_capacity(self.size());
        for place in 0..self.size() {
            let own = place == self.place;
            all.push(if own { std::mem::take(&mut mine) } else { self.receive(about, place)? });
        }
        self.flush(about)?;
        Ok(all)
    }

    fn flush(&self, about: &str) -> Result<()> {
        self.plane.flush(self.lane, self.patience).map_err(|error| self.noted(error.waiting_for(about)))
    }

    /// Sends a message to one rank, which has to [`Group::receive`] it.
    ///
    /// # Errors
    /// That rank has ended.
    pub fn send(&self, about: &str, place: usize, bytes: Vec<u8>) -> Result<()> {
        let Some(member) = self.members.get(place) else { return Ok(()) };
        self.plane.send(*member, Message { lane: self.lane, about: about.to_owned(), bytes })
    }

    /// Waits for the next message of the rank at `place`.
    ///
    /// # Errors
    /// As [`Group::exchange`].
    pub fn receive(&self, about: &str, place: usize) -> Result<Vec<u8>> {
        let from = self.rank(place);
        let message = self.plane.receive(from, self.lane, self.patience);
        let message = message.map_err(|error| self.noted(error.waiting_for(about)))?;
        if message.about != about {
            let (here, there) = (about.to_owned(), message.about);
            return Err(self.noted(GroupError::Apart { own: self.plane.rank(), here, other: from, there }));
        }
        Ok(message.bytes)
    }

    /// Everyone's bytes, in order.
    ///
    /// # Errors
    /// As [`Group::exchange`].
    pub fn gather(&self, about: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(about, vec![mine.to_vec(); self.size()])
    }

    /// The bytes of the first rank, which makes them; the others wait.
    ///
    /// # Errors
    /// As [`Group::exchange`], and what `make` fails with, on the first rank.
    pub fn from_first<E: From<GroupError>>(
        &self,
        about: &str,
        make: impl FnOnce() -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<Vec<u8>, E> {
        if self.place > 0 {
            return Ok(self.receive(about, 0)?);
        }
        let bytes = make()?;
        for place in 1..self.size() {
            self.send(about, place, bytes.clone())?;
        }
        self.flush(about)?;
        Ok(bytes)
    }

    /// Whether it holds on every rank.
    ///
    /// # Errors
    /// As [`Group::exchange`].
    pub fn all(&self, about: &str, here: bool) -> Result<bool> {
        Ok(self.gather(about, &[u8::from(here)])?.iter().all(|there| there == &[1]))
    }

    /// Whether it holds on any rank.
    ///
    /// # Errors
    /// As [`Group::exchange`].
    pub fn any(&self, about: &str, here: bool) -> Result<bool> {
        Ok(!self.all(about, !here)?)
    }

    /// Checks that all ranks have the same text.
    ///
    /// # Errors
    /// [`GroupError::Differ`] with both sides, on every rank the same; and as [`Group::exchange`].
    pub fn agree(&self, about: &str, here: &str) -> Result<()> {
        let all = self.gather(about, here.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let first = all.first().cloned().unwrap_or_default();
        match all.iter().position(|there| *there != first) {
            None => Ok(()),
            Some(place) => Err(self.noted(GroupError::Differ {
                about: about.to_owned(),
                ranks: [0, place].map(|place| self.rank(place)),
                values: [text(&first), text(&all[place])],
            })),
        }
    }

    /// Whether any rank of the engine has stopped the run, for who waits for something else than a message.
    ///
    /// # Errors
    /// [`GroupError::Stopped`] if one has; the engine fails.
    pub fn check(&self) -> Result<()> {
        self.plane.check().map_err(|error| self.noted(error))
    }

    /// Tells every other rank of the engine that this one stops, and why: what they wait for next fails.
    pub fn stop(&self, why: &str) {
        self.plane.stop(why);
    }
}

/// Numbers as bytes.
#[cfg(feature = "candle")]
pub(crate) fn numbers<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Runs one closure per rank.
    fn ranks<R: Send>(n: usize, run: impl Fn(Group) -> R + Sync) -> Vec<R> {
        let planes = threads(n);
        let run = &run;
        thread::scope(|scope| {
            let one = |plane: ThreadPlane| {
                scope.spawn(move || run(Group::world(Arc::new(plane), Duration::from_millis(300))))
            };
            let all: Vec<_> = planes.into_iter().map(one).collect();
            all.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn shares_are_even_in_order_and_whole() {
        for (n, size) in (0..40).flat_map(|n| (1..9).map(move |size| (n, size))) {
            let shares: Vec<_> = (0..size).map(|place| share(n, size, place)).collect();
            assert!(shares.windows(2).all(|two| two[0].end == two[1].start && two[0].len() >= two[1].len()));
            assert_eq!((shares[0].start, shares[size - 1].end), (0, n));
            assert!(shares[0].len() - shares[size - 1].len() <= 1);
        }
    }

    #[test]
    fn everyone_gets_the_parts_meant_for_it() {
        for n in 1..5 {
            let got = ranks(n, |group| {
                let parts = (0..n).map(|to| vec![group.place() as u8, to as u8]).collect();
                group.exchange("parts", parts).unwrap()
            });
            for (to, got) in got.into_iter().enumerate() {
                let want: Vec<Vec<u8>> = (0..n).map(|from| vec![from as u8, to as u8]).collect();
                assert_eq!(got, want);
            }
            let first = ranks(n, |group| group.from_first("x", || Ok::<_, GroupError>(vec![7; 3])).unwrap());
            assert_eq!(first, vec![vec![7; 3]; n]);
            let votes = ranks(n, |group| {
                let last = group.place() + 1 == n;
                (
                    group.all("a", !last).unwrap(),
                    group.any("b", last).unwrap(),
                    group.any("c", false).unwrap(),
                )
            });
            assert_eq!(votes, vec![(false, true, false); n]);
        }
    }

    #[test]
    fn a_part_of_a_group_talks_among_itself() {
        let got = ranks(4, |group| {
            let odd = group.place() % 2;
            let part = group.part(&[odd, odd + 2]).unwrap();
            assert!(group.part(&[(odd + 1) % 2]).is_none());
            assert_eq!([0, 1].map(|place| part.rank(place)), [odd, odd + 2]);
            part.gather("halves", &[group.place() as u8]).unwrap().concat()
        });
        assert_eq!(got, [[0, 2], [1, 3], [0, 2], [1, 3]]);
    }

    #[test]
    fn lanes_have_orders_of_their_own() {
        let got = ranks(2, |group| {
            let (ahead, other) = (group.in_lane(Lane::Weights), 1 - group.place());
            // Each rank is ahead in another lane.
            let order = if group.place() == 0 { [&group, &ahead] } else { [&ahead, &group] };
            for (i, lane) in order.into_iter().enumerate() {
                lane.send("x", other, vec![i as u8]).unwrap();
            }
            [group.receive("x", other).unwrap(), ahead.receive("x", other).unwrap()].concat()
        });
        assert_eq!(got, [[1, 0], [0, 1]]);
    }

    #[test]
    fn who_has_come_apart_is_named_with_both_sides() {
        let errors = ranks(3, |group| {
            let about = if group.place() == 1 { "step 4" } else { "step 3" };
            group.gather(about, &[]).unwrap_err().to_string()
        });
        assert!(errors[0].contains("rank 0 is at step 3 and rank 1 at step 4"), "{}", errors[0]);
        assert!(errors[1].contains("rank 1 is at step 4 and rank 0 at step 3"), "{}", errors[1]);
        let errors = ranks(3, |group| {
            let value = if group.place() == 2 { "reuse" } else { "compute" };
            group.agree("step 3", value).unwrap_err().to_string()
        });
        for error in errors {
            assert_eq!(error, "step 3: compute on rank 0 and reuse on rank 2");
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let outcomes = ranks(3, |group| match group.place() {
            // Silent, but there.
            1 => {
                thread::sleep(Duration::from_millis(900));
                None
            }
            _ => Some(group.gather("a vote", &[]).unwrap_err().to_string()),
        });
        let late = outcomes[0].as_deref().unwrap();
        assert!(late.starts_with("rank 1 has not answered for 0.3 s: a vote"), "{late}");
        let outcomes = ranks(3, |group| match group.place() {
            1 => None,
            _ => Some(group.gather("a vote", &[]).unwrap_err().to_string()),
        });
        assert_eq!(outcomes[2].as_deref(), Some("rank 1 has ended, its answer is missing: a vote"));
        let outcomes = ranks(3, |group| match group.place() {
            1 => {
                group.stop("out of memory");
                None
            }
            _ => Some(group.gather("a vote", &[]).unwrap_err()),
        });
        let stopped = GroupError::Stopped { rank: 1, why: "out of memory".to_owned() };
        assert_eq!(outcomes, [Some(stopped.clone()), None, Some(stopped.clone())]);
        // Who waits for something else may ask, again and again.
        let outcomes = ranks(2, |group| {
            if group.place() == 1 {
                group.check().unwrap();
                group.stop("out of memory");
                return None;
            }
            // As long as it takes on a busy machine.
            let all = (0..10_000).map(|_| thread::sleep(Duration::from_millis(1)));
            all.take_while(|()| group.check().is_ok()).for_each(drop);
            assert_eq!(group.check(), Err(stopped.clone()));
            group.fault().cloned()
        });
        assert_eq!(outcomes, [Some(stopped.clone()), None]);
    }
}
