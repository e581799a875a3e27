//! Guidance branches that run side by side, each on ranks of its own.

use candle_core::Result;

use super::Group;
use crate::{
    Branch, Step, hint,
    log::{DecisionLog, Record},
    snapshot::{Snapshot, SnapshotError},
};

/// What the messages between branches are.
const ABOUT: &str = "the decisions of another branch";

/// The ranks that have the same tokens as this one, each of another branch, in the order of the branches.
///
/// A branch that others follow says what it decided as soon as it is final, and every branch says at its end
/// all that it decided: so after each step all have one log, that of branches which ran in turns.
#[derive(Debug)]
pub(crate) struct Branches {
    group: Group,
    /// What those before this one decided in this pass, once they ended.
    ended: Vec<Option<Told>>,
    /// Bytes of the slots when the pass began.
    pub(crate) began: usize,
}

/// What a branch says at its end.
#[derive(Debug, Default)]
struct Told {
    records: Vec<Record>,
    /// Bytes of its slots when the pass began and when it ended.
    began: usize,
    held: usize,
}

crate::fields!(Told { records, began, held });

impl Branches {
    pub(crate) fn new(group: Group) -> Self {
        let ended = (0..group.size()).map(|_| None).collect();
        Self { group, ended, began: 0 }
    }

    /// Tells the others a decision that they follow.
    pub(crate) fn tell(&self, record: &Record) -> Result<()> {
        let told = Told { records: vec![record.clone()], ..Told::default() };
        self.send(0, &told)
    }

    /// Waits until a decision is in the log, or its branch has ended without it.
    pub(crate) fn hear(&mut self, log: &mut DecisionLog, is_it: impl Fn(&Record) -> bool) -> Result<()> {
        for place in 0..self.group.place() {
            while self.ended[place].is_none() && !log.records().iter().rev().any(&is_it) {
                let (last, told) = self.receive(place)?;
                told.records.iter().cloned().for_each(|record| _ = log.push(record));
                if last {
                    self.ended[place] = Some(told);
                }
            }
        }
        Ok(())
    }

    /// Ends the pass of `branch` at `step`: the log then has the decisions of all branches, in order. Returns
    /// the bytes that all of them hold.
    pub(crate) fn join(
        &mut self,
        log: &mut DecisionLog,
        step: &Step,
        branch: Branch,
        held: usize,
    ) -> Result<usize> {
        let own = |r: &Record| (r.step, r.eval, r.branch) == (step.place(), step.eval, branch);
        let records = log.records().iter().filter(|r| own(r)).cloned().collect();
        let mine = Told { records, began: self.began, held };
        self.send(1, &mine)?;
        let mut all = Vec::with_capacity(self.group.size());
        for place in 0..self.group.size() {
            let mut told = self.ended[place].take();
            while told.is_none() && place != self.group.place() {
                let (last, heard) = self.receive(place)?;
                told = last.then_some(heard);
            }
            all.extend(told);
        }
        all.insert(self.group.place(), mine);
        let bytes = |all: &[Told], of: fn(&Told) -> usize| all.iter().map(of).sum::<usize>();
        let mut records = Vec::new();
        for (place, told) in all.iter().enumerate() {
            // In turns, the branches before it would have ended and those after it not begun.
            let others = bytes(&all[..place], |told| told.held) + bytes(&all[place + 1..], |told| told.began);
            let counted = |record: &Record| Record { bytes: record.bytes + others, ..record.clone() };
            records.extend(told.records.iter().map(counted));
        }
        log.replace(step, records);
        Ok(bytes(&all, |told| told.held))
    }

    fn send(&self, last: u8, told: &Told) -> Result<()> {
        let mut snapshot = Snapshot::default();
        snapshot.writer().field("told", told);
        let mut bytes = vec![last];
        bytes.extend(snapshot.to_text().into_bytes());
        let others = (0..self.group.size()).filter(|place| *place != self.group.place());
        // Only later branches follow.
        for place in others.filter(|place| last == 1 || *place > self.group.place()) {
            self.group.send(ABOUT, place, bytes.clone()).map_err(hint::wrap)?;
        }
        Ok(())
    }

    fn receive(&self, place: usize) -> Result<(bool, Told)> {
        let bytes = self.group.receive(ABOUT, place).map_err(hint::wrap)?;
        let (last, text) = bytes.split_first().unwrap_or((&1, &[]));
        let read = || -> std::result::Result<Told, SnapshotError> {
            Snapshot::of_text(&String::from_utf8_lossy(text)).values_reader().field("told")
        };
        Ok((*last == 1, read().map_err(hint::wrap)?))
    }
}
