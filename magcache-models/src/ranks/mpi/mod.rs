//! Ranks that are processes under MPI, which is loaded when a run wants it: the build needs none.
//!
//! A message is a frame of fixed size, which holds short contents too, and its contents if they are longer.
//! Everything is sent and received without blocking, so that no wait is longer than it may be, and a rank
//! that stops is heard by all who wait.

mod calls;

use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use magcache_core::group::{ControlPlane, GroupError, Lane, Message};

use self::calls::{Library, Pending};
use super::Launcher;

type Result<T> = std::result::Result<T, GroupError>;

/// Bytes of a frame.
const FRAME: usize = 512;

/// Before what a message is about, and its contents if they fit: lengths of both.
const LENGTHS: usize = 12;

/// Kinds of messages between two ranks.
#[derive(Clone, Copy)]
enum Tag {
    Frame(Lane),
    Contents(Lane),
    Stop,
}

impl Tag {
    /// The number that MPI knows it by.
    fn number(self) -> i32 {
        match self {
            Self::Stop => 11,
            Self::Frame(lane) => 12 + 2 * lane as i32,
            Self::Contents(lane) => 13 + 2 * lane as i32,
        }
    }
}

/// How long the news that this rank stops may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a run that failed waits for the others to end too.
const FAREWELL: Duration = Duration::from_secs(3);

/// The ranks of `MPI_COMM_WORLD`.
#[derive(Debug)]
pub struct MpiPlane {
    rank: usize,
    size: usize,
    version: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    library: Library,
    /// What is on its way in each lane, with its bytes.
    sent: [Vec<Pending>; Lane::COUNT],
    /// Why the run is over, once any rank said so.
    stopped: Option<GroupError>,
    /// Whether this rank has left: nothing may be asked of the library any more.
    left: bool,
}

impl MpiPlane {
    /// Loads an MPI, Open MPI or MPICH, that of the launcher first, and joins its world. Once per process.
    ///
    /// A library waits for ever for ranks that do not come: after `patience`, `late` is called on another
    /// thread, and should end the process.
    ///
    /// # Errors
    /// No library, or one that does not start; a launcher whose ranks this library does not see.
    pub fn join(patience: Duration, late: impl FnOnce() + Send + 'static) -> Result<Self> {
        let launcher = Launcher::find();
        let (joined, watched) = mpsc::channel::<()>();
        thread::spawn(move || {
            if let Err(mpsc::RecvTimeoutError::Timeout) = watched.recv_timeout(patience) {
                late();
            }
        });
        let library = Library::load(launcher.as_ref());
        drop(joined);
        let library = library?;
        let (rank, size) = library.place()?;
        let version = library.version().to_owned();
        if let Some(launcher) = launcher.filter(|launcher| launcher.size != size) {
            return Err(GroupError::Engine(format!(
                "{} started {} ranks, {version} sees {size}: launcher and library do not belong together",
                launcher.name, launcher.size
            )));
        }
        let state = Mutex::new(State { library, sent: <_>::default(), stopped: None, left: false });
        Ok(Self { rank, size, version, state })
    }

    /// The library's name for itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Leaves the world. After a run that went well it waits for the others; else it gives them a moment and
    /// then ends all of them. Other threads that still wait for a message get none.
    pub fn leave(&self, well: bool) {
        if well {
            [Lane::Run, Lane::Weights].into_iter().for_each(|lane| _ = self.flush(lane, Duration::MAX));
        }
        let library = {
            let mut state = self.state();
            state.left = true;
            state.library.clone()
        };
        if well {
            _ = library.finalize();
            return;
        }
        let (last, until) = (library.clone(), Instant::now() + FAREWELL);
        let ended = thread::spawn(move || last.finalize());
        while !ended.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        if !ended.is_finished() {
            library.abort(1);
        }
    }

    /// A thread that panicked in here left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same while this rank is part of the world.
    fn entered(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.left {
            Err(GroupError::Engine("this rank has left the others".to_owned()))
        } else {
            Ok(state)
        }
    }

    /// Tries until it succeeds or time is up: first at once, then in ever longer pauses.
    fn until<T>(
        &self,
        limit: Duration,
        mut attempt: impl FnMut(&mut State) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let begun = Instant::now();
        for tries in 0u32.. {
            let mut state = self.entered()?;
            if let Some(done) = attempt(&mut state)? {
                return Ok(Some(done));
            }
            drop(state);
            let waited = begun.elapsed();
            match waited {
                _ if waited >= limit => break,
                _ if tries < 100 => std::hint::spin_loop(),
                _ if waited < Duration::from_millis(5) => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
        Ok(None)
    }
}

/// The error of a rank that was waited for.
fn late(rank: usize, patience: Duration) -> GroupError {
    GroupError::Late { rank, seconds: patience.as_secs_f64(), about: String::new() }
}

/// A frame: lengths, what it is about, and contents that fit.
fn frame(about: &str, bytes: &[u8]) -> Vec<u8> {
    let mut end = about.len().min(FRAME / 2 - LENGTHS);
    while !about.is_char_boundary(end) {
        end -= 1;
    }
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend((bytes.len() as u64).to_le_bytes());
    frame.extend((end as u32).to_le_bytes());
    frame.extend(&about.as_bytes()[..end]);
    if frame.len() + bytes.len() <= FRAME {
        frame.extend(bytes);
    }
    frame.resize(FRAME, 0);
    frame
}

/// Length of the contents, what they are about, and the contents if the frame holds them.
fn read_frame(frame: &[u8]) -> (usize, String, Vec<u8>) {
    let number = |at: usize, n: usize| {
        frame[at..at + n].iter().rev().fold(0usize, |sum, b| sum << 8 | usize::from(*b))
    };
    let (length, about) = (number(0, 8), number(8, 4).min(FRAME - LENGTHS));
    let text = String::from_utf8_lossy(&frame[LENGTHS..LENGTHS + about]).into_owned();
    let held = frame[LENGTHS + about..].get(..length).map(<[u8]>::to_vec).unwrap_or_default();
    (length, text, held)
}

impl ControlPlane for MpiPlane {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, message: Message) -> Result<()> {
        let Message { lane, about, bytes } = message;
        let (frame, long) = (frame(&about, &bytes), LENGTHS + about.len() + bytes.len() > FRAME);
        let mut state = self.entered()?;
        state.reap()?;
        state.send(to, lane, Tag::Frame(lane), frame)?;
        if long { state.send(to, lane, Tag::Contents(lane), bytes) } else { Ok(()) }
    }

    fn receive(&self, from: usize, lane: Lane, patience: Duration) -> Result<Message> {
        let mut tries = 0u32;
        let arrived = self.until(patience, |state| {
            // Asking for news costs as much as asking for the message.
            tries = tries.wrapping_add(1);
            if tries.is_multiple_of(32) {
                state.stopped()?;
                state.reap()?;
            }
            state.library.arrived(Some(from), Tag::Frame(lane))
        })?;
        if arrived.is_none() {
            return Err(late(from, patience));
        }
        let take = |tag: Tag, length: usize| -> Result<Vec<u8>> {
            let mut pending = self.entered()?.library.receive(from, tag, length)?;
            let done = self.until(patience, |state| {
                state.reap()?;
                Ok(pending.is_done(&state.library)?.then_some(()))
            })?;
            match done {
                Some(()) => Ok(pending.take()),
                None => {
                    pending.abandon();
                    Err(late(from, patience))
                }
            }
        };
        let (length, about, held) = read_frame(&take(Tag::Frame(lane), FRAME)?);
        let bytes = if held.len() == length { held } else { take(Tag::Contents(lane), length)? };
        Ok(Message { lane, about, bytes })
    }

    fn flush(&self, lane: Lane, patience: Duration) -> Result<()> {
        let done = self.until(patience, |state| {
            state.reap()?;
            Ok(state.sent[lane as usize].is_empty().then_some(()))
        })?;
        if done.is_some() {
            return Ok(());
        }
        let silent = self.state().sent[lane as usize].first().map_or(0, Pending::receiver);
        Err(late(silent, patience))
    }

    fn check(&self) -> Result<()> {
        let mut state = self.entered()?;
        state.stopped()?;
        state.reap()
    }

    fn stop(&self, why: &str) {
        let mut end = why.len().min(FRAME - LENGTHS);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let frame = frame("", &why.as_bytes()[..end]);
        for other in (0..self.size).filter(|other| *other != self.rank) {
            _ = self.entered().and_then(|mut state| state.send(other, Lane::Run, Tag::Stop, frame.clone()));
        }
        _ = self.flush(Lane::Run, LAST_WORDS);
    }
}

impl State {
    /// Whether any rank said that it stops. Several threads ask.
    fn stopped(&mut self) -> Result<()> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        let Some(from) = self.library.arrived(None, Tag::Stop)? else { return Ok(()) };
        let mut frame = self.library.receive(from, Tag::Stop, FRAME)?;
        // It has arrived.
        while !frame.is_done(&self.library)? {}
        let (_, _, why) = read_frame(&frame.take());
        let stopped = GroupError::Stopped { rank: from, why: String::from_utf8_lossy(&why).into_owned() };
        self.stopped = Some(stopped.clone());
        Err(stopped)
    }

    fn send(&mut self, to: usize, lane: Lane, tag: Tag, bytes: Vec<u8>) -> Result<()> {
        let pending = self.library.send(to, tag, bytes)?;
        self.sent[lane as usize].push(pending);
        Ok(())
    }

    /// Forgets what has arrived.
    fn reap(&mut self) -> Result<()> {
        let mut failed = None;
        let Self { library, sent, .. } = self;
        let mut is_on_its_way = |pending: &mut Pending| match pending.is_done(library) {
            Ok(done) => !done,
            Err(error) => {
                failed = Some(error);
                true
            }
        };
        sent.iter_mut().for_each(|lane| lane.retain_mut(&mut is_on_its_way));
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The library still reads these bytes.
        self.sent.iter_mut().for_each(|lane| lane.drain(..).for_each(Pending::abandon));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_holds_what_fits() {
        for (about, length) in
            [("", 0), ("step 3", 5), ("ä".repeat(400).as_str(), 3), ("x", 499), ("x", 500), ("", 9000)]
        {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let frame = frame(about, &bytes);
            assert_eq!(frame.len(), FRAME);
            let (read, text, held) = read_frame(&frame);
            assert!(read == length && about.starts_with(&text), "{about:?}, {length}");
            let fits = LENGTHS + text.len() + length <= FRAME;
            assert_eq!(held, if fits { bytes } else { Vec::new() }, "{about:?}, {length}");
        }
    }
}
