//! The thread that fetches ahead.

use std::{
    fmt,
    sync::mpsc::{self, Sender},
    thread,
};

use super::Traffic;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after the other, in the order in which they were asked for: several ranks ask
/// alike, so it is the same on all of them. It ends after what it was asked for when nobody has it any more.
///
/// Cloning copies handles.
#[derive(Clone)]
pub struct Fetcher {
    jobs: Sender<Job>,
    traffic: Traffic,
}

impl Fetcher {
    /// Starts the thread, whose fetches are counted in `traffic`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(traffic: Traffic) -> std::io::Result<Self> {
        let (jobs, asked) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("fetcher".to_owned())
            .spawn(move || asked.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs, traffic })
    }

    /// Asks for a block of so many stored bytes.
    pub(super) fn fetch(&self, bytes: u64, job: impl FnOnce() + Send + 'static) {
        self.traffic.add(bytes);
        self.ask(job);
    }

    /// Asks for something. If the thread is gone, it is dropped.
    fn ask(&self, job: impl FnOnce() + Send + 'static) {
        _ = self.jobs.send(Box::new(job));
    }

    /// Waits until everything that was asked for is done.
    pub fn settle(&self) {
        let (done, wait) = mpsc::channel::<()>();
        self.ask(move || drop(done));
        _ = wait.recv();
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}
