//! Ranks that are threads of one process.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{ControlPlane, GroupError, Lane, Message, Result};

/// One rank of [`threads`]. A thread that ends, or panics, drops it, and the others notice.
#[derive(Debug)]
pub struct ThreadPlane {
    rank: usize,
    post: Arc<Post>,
}

/// What all of them share.
#[derive(Debug)]
struct Post {
    /// One for each rank.
    boxes: Vec<Mailbox>,
}

/// Where the messages to one rank wait.
#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By sender and lane.
    from: Vec<[VecDeque<Message>; Lane::COUNT]>,
    ended: Vec<bool>,
    stopped: Option<(usize, String)>,
}

/// The ranks of a group of `n` threads.
pub fn threads(n: usize) -> Vec<ThreadPlane> {
    let waiting = || Waiting { from: vec![<_>::default(); n], ended: vec![false; n], stopped: None };
    let mailbox = || Mailbox { waiting: Mutex::new(waiting()), arrived: Condvar::new() };
    let post = Arc::new(Post { boxes: (0..n).map(|_| mailbox()).collect() });
    (0..n).map(|rank| ThreadPlane { rank, post: Arc::clone(&post) }).collect()
}

impl Waiting {
    /// Whether any rank stopped.
    fn heard(&self) -> Result<()> {
        let Some((rank, why)) = self.stopped.clone() else { return Ok(()) };
        Err(GroupError::Stopped { rank, why })
    }
}

impl Mailbox {
    /// A rank that panicked while it held the lock left complete messages.
    fn open(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.open());
        self.arrived.notify_all();
    }
}

impl ControlPlane for ThreadPlane {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.post.boxes.len()
    }

    fn send(&self, to: usize, message: Message) -> Result<()> {
        if let Some(other) = self.post.boxes.get(to) {
            other.change(|waiting| waiting.from[self.rank][message.lane as usize].push_back(message));
        }
        Ok(())
    }

    fn receive(&self, from: usize, lane: Lane, patience: Duration) -> Result<Message> {
        let own = &self.post.boxes[self.rank];
        let until = Instant::now() + patience;
        let mut waiting = own.open();
        loop {
            waiting.heard()?;
            if let Some(message) = waiting.from[from][lane as usize].pop_front() {
                return Ok(message);
            }
            if waiting.ended[from] {
                return Err(GroupError::Ended { rank: from, about: String::new() });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = patience.as_secs_f64();
                return Err(GroupError::Late { rank: from, seconds, about: String::new() });
            }
            waiting = own.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn check(&self) -> Result<()> {
        self.post.boxes[self.rank].open().heard()
    }

    fn stop(&self, why: &str) {
        let others = self.post.boxes.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        for (_, other) in others {
            other.change(|waiting| {
                waiting.stopped = waiting.stopped.take().or(Some((self.rank, why.to_owned())));
            });
        }
    }
}

impl Drop for ThreadPlane {
    fn drop(&mut self) {
        for other in &self.post.boxes {
            other.change(|waiting| waiting.ended[self.rank] = true);
        }
    }
}
