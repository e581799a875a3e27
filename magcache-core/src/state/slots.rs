//! Mutable state of a request, one slot per hook × range × expert × branch × evaluation.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use crate::{
    Branch, Expert, Step,
    snapshot::{Field, Reader, SnapshotError, Writer},
};

/// Identifies one ring of a registry by its place in the configuration, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HookId(pub u16);

/// Identifies a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The hook.
    pub hook: HookId,
    /// The blocks that the slot can replace.
    pub blocks: Range<usize>,
    /// The network.
    pub expert: Expert,
    /// The guidance branch.
    pub branch: Branch,
    /// The evaluation within a step.
    pub eval: u8,
}

impl Field for HookId {
    fn write(&self, to: &mut Writer<'_>) {
        self.0.write(to);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        u16::read(from).map(Self)
    }
}

crate::fields!(SlotKey { hook, blocks, expert, branch, eval });

#[derive(Debug)]
struct Slot {
    data: Box<dyn Any + Send>,
    bytes: usize,
    stamp: u64,
    /// The step at which it was written.
    step: usize,
    /// Whether its pass failed: then it serves only a retry of that pass.
    torn: bool,
}

/// The slots of one session, with a byte total and an optional budget.
#[derive(Debug, Default)]
pub struct Slots {
    held: HashMap<SlotKey, Slot>,
    /// The end of the phase of each expert seen so far.
    phase_ends: BTreeMap<Expert, usize>,
    budget: Option<usize>,
    /// The current step, as [`Step::place`] counts them.
    step: usize,
    /// The current clip.
    clip: usize,
    bytes: usize,
    peak: usize,
    evicted: usize,
    clock: u64,
    /// Whether any slot may be torn, so that most runs need not search for one.
    torn: bool,
}

impl Slots {
    /// Empty slots. Above `budget` bytes slots are evicted and their next pass computes: first slots that
    /// this step has not used, least recently written first, then the slot being written. So no pass evicts
    /// what another pass of the same step will need; a slot that does not fit is not stored at all.
    pub fn new(budget: Option<usize>) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Moves the slot out; a fresh one if there is none.
    pub fn take<T: Any + Send + Default>(&mut self, key: &SlotKey) -> T {
        self.take_if_there(key).unwrap_or_default()
    }

    /// Moves the slot out; `None` if there is none of this type.
    pub(crate) fn take_if_there<T: Any + Send>(&mut self, key: &SlotKey) -> Option<T> {
        let slot = self.held.remove(key)?;
        self.bytes -= slot.bytes;
        slot.data.downcast::<T>().ok().map(|slot| *slot)
    }

    /// Borrows a slot without removing it; `None` if there is none of this type, or if its pass failed.
    pub fn peek<T: Any + Send>(&self, key: &SlotKey) -> Option<&T> {
        self.held.get(key).filter(|slot| !slot.torn)?.data.downcast_ref()
    }

    /// Stores a slot that holds `bytes` of tensors.
    pub fn put<T: Any + Send>(&mut self, key: SlotKey, slot: T, bytes: usize) {
        self.set_aside(key.clone(), slot, bytes);
        while self.budget.is_some_and(|budget| self.bytes > budget) {
            let unused = self.held.iter().filter(|(_, slot)| slot.bytes > 0 && slot.step != self.step);
            let oldest = unused.min_by_key(|(_, slot)| slot.stamp).map(|(key, _)| key.clone());
            let stored = self.held.contains_key(&key) && bytes > 0;
            let Some(victim) = oldest.or_else(|| stored.then(|| key.clone())) else { break };
            self.remove(&victim);
            self.evicted += 1;
        }
    }

    /// Stores a slot whose pass still runs and will [`Slots::put`] it again; the budget is applied only then.
    pub(crate) fn set_aside<T: Any + Send>(&mut self, key: SlotKey, slot: T, bytes: usize) {
        self.clock += 1;
        let slot = Slot { data: Box::new(slot), bytes, stamp: self.clock, step: self.step, torn: false };
        if let Some(old) = self.held.insert(key, slot) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
    }

    /// Begins a pass at `step`. Drops the slots of another clip, those left by failed passes of earlier
    /// steps, and those of every expert whose phase is over: nothing is reused across these boundaries.
    pub(crate) fn begin(&mut self, step: &Step) {
        if self.clip != step.clip {
            self.clip = step.clip;
            self.phase_ends.clear();
            self.drop_where(|_, _| true);
        }
        if self.step != step.place() {
            self.step = step.place();
            if std::mem::take(&mut self.torn) {
                self.drop_where(|_, slot| slot.torn);
            }
        }
        self.phase_ends.insert(step.expert, step.phase.end);
        let ends = self.phase_ends.iter().filter(|(_, end)| **end <= step.index);
        let over: Vec<Expert> = ends.map(|(expert, _)| *expert).collect();
        if !over.is_empty() {
            self.drop_where(|key, _| over.contains(&key.expert));
        }
    }

    /// Ends the pass of `branch` at `step`. If it failed, its slots are kept only for a retry within this
    /// step; the next step drops them.
    pub(crate) fn end(&mut self, step: &Step, branch: Branch, failed: bool) {
        self.peak = self.peak.max(self.bytes);
        if failed || self.torn {
            self.torn = true;
            let own = |key: &SlotKey| (key.expert, key.branch, key.eval) == (step.expert, branch, step.eval);
            self.held.iter_mut().filter(|(key, _)| own(key)).for_each(|(_, slot)| slot.torn = failed);
        }
    }

    /// Takes note that all branches together hold so many bytes, those on other ranks included.
    #[cfg(feature = "candle")]
    pub(crate) fn noted(&mut self, bytes: usize) {
        self.peak = self.peak.max(bytes);
    }

    fn drop_where(&mut self, unwanted: impl Fn(&SlotKey, &Slot) -> bool) {
        let unwanted = self.held.iter().filter(|(key, slot)| unwanted(key, slot));
        let keys: Vec<_> = unwanted.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &SlotKey) {
        if let Some(slot) = self.held.remove(key) {
            self.bytes -= slot.bytes;
        }
    }

    /// Writes every slot, its contents with `write`, and every counter.
    pub(crate) fn save(
        &self,
        write: impl Fn(&SlotKey, &dyn Any, &mut Writer<'_>) -> Result<(), SnapshotError>,
        to: &mut Writer<'_>,
    ) -> Result<(), SnapshotError> {
        let mut held: Vec<_> = self.held.iter().collect();
        held.sort_by_key(|(_, slot)| slot.stamp);
        to.field("held", &held.len());
        for (i, (key, slot)) in held.into_iter().enumerate() {
            let mut list = to.at("held");
            let mut to = list.at(&i.to_string());
            to.field("key", key);
            to.field("bytes", &slot.bytes);
            to.field("stamp", &slot.stamp);
            to.field("step", &slot.step);
            to.field("torn", &slot.torn);
            write(key, slot.data.as_ref(), &mut to.at("slot"))?;
        }
        let (experts, ends): (Vec<Expert>, Vec<usize>) = self.phase_ends.iter().unzip();
        to.field("experts", &experts);
        to.field("phase_ends", &ends);
        to.field("step", &self.step);
        to.field("clip", &self.clip);
        to.field("peak", &self.peak);
        to.field("evicted", &self.evicted);
        to.field("clock", &self.clock);
        Ok(())
    }

    /// Reads the slots that [`Slots::save`] wrote, the contents of each with `read`, under this budget.
    pub(crate) fn read(
        budget: Option<usize>,
        read: impl Fn(&SlotKey, &Reader<'_>) -> Result<Box<dyn Any + Send>, SnapshotError>,
        from: &Reader<'_>,
    ) -> Result<Self, SnapshotError> {
        let mut held = HashMap::new();
        for i in 0..from.field("held")? {
            let from = from.at("held").at(&usize::to_string(&i));
            let key: SlotKey = from.field("key")?;
            let slot = Slot {
                data: read(&key, &from.at("slot"))?,
                bytes: from.field("bytes")?,
                stamp: from.field("stamp")?,
                step: from.field("step")?,
                torn: from.field("torn")?,
            };
            held.insert(key, slot);
        }
        let torn = held.values().any(|slot| slot.torn);
        let (experts, ends): (Vec<Expert>, Vec<usize>) = (from.field("experts")?, from.field("phase_ends")?);
        Ok(Self {
            bytes: held.values().map(|slot| slot.bytes).sum(),
            held,
            phase_ends: experts.into_iter().zip(ends).collect(),
            budget,
            step: from.field("step")?,
            clip: from.field("clip")?,
            peak: from.field("peak")?,
            evicted: from.field("evicted")?,
            clock: from.field("clock")?,
            torn,
        })
    }

    /// The keys of the slots held.
    pub fn keys(&self) -> impl Iterator<Item = &SlotKey> {
        self.held.keys()
    }

    /// Bytes of tensors currently held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes held between two passes.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }

    /// Number of slots evicted because of the budget.
    pub fn evicted(&self) -> usize {
        self.evicted
    }
}
