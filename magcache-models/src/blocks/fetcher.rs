//! The thread that fetches ahead.

use std::{
    fmt,
    sync::mpsc::{self, Sender},
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after the other, in the order in which they were asked for: several ranks ask
/// alike, so it is the same on all of them. It ends after what it was asked for when nobody has it any more.
///
/// Cloning copies handles.
#[derive(Clone)]
pub struct Fetcher(Sender<Job>);

impl Fetcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> std::io::Result<Self> {
        let (ask, asked) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("fetcher".to_owned())
            .spawn(move || asked.into_iter().for_each(|job| job()))?;
        Ok(Self(ask))
    }

    /// Asks for something. If the thread is gone, it is dropped.
    pub(super) fn ask(&self, job: impl FnOnce() + Send + 'static) {
        _ = self.0.send(Box::new(job));
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
        f.write_str("Fetcher")
    }
}
