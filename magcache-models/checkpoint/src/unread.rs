//! Tensors that loaded components left unread.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Names of tensors that are shown; the rest are counted.
const SHOWN: usize = 3;

/// Notes for the user on tensors that nothing has read; one handle is shared by all components of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    /// What has been noted before: a component may be loaded again, for instance an expert that waits on
    /// disk.
    told: BTreeSet<String>,
    new: Vec<String>,
}

impl Unread {
    /// Notes the unread tensors of the component in `place`.
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
