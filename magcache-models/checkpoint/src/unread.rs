//! What loaded components left unread.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Names of tensors that are shown; the rest is counted.
const SHOWN: usize = 3;

/// Notes on tensors that nothing has read, for the user: one handle for all components of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    /// A component may be loaded again, an expert that waits on disk for instance.
    told: BTreeSet<String>,
    new: Vec<String>,
}

impl Unread {
    /// Notes what a component in `place` has too many.
    pub(crate) fn note(&self, place: &str, names: &[&str]) {
        let (shown, rest) = names.split_at(names.len().min(SHOWN));
        let (what, verb) = if names.len() == 1 { ("tensor", "is") } else { ("tensors", "are") };
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let (count, shown) = (names.len(), shown.join(", "));
        let note = format!("{place}: {count} {what} that nothing here reads {verb} left out: {shown}{more}");
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.told.insert(note.clone()) {
            notes.new.push(note);
        }
    }

    /// The notes since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}
