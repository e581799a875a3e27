//! Mutable state of a request, one slot per hook × range × expert × branch × evaluation.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use crate::{Branch, Expert, HookId, HookRegistry, Reader, SnapshotError, Step, Writer};

/// Whose state a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The hook.
    pub hook: HookId,
    /// The blocks that it stands in for.
    pub blocks: Range<usize>,
    /// The network.
    pub expert: Expert,
    /// The guidance branch.
    pub branch: Branch,
    /// The evaluation within a step.
    pub eval: u8,
}

crate::fields!(SlotKey { hook, blocks, expert, branch, eval });

#[derive(Debug)]
struct Slot {
    data: Box<dyn Any + Send>,
    bytes: usize,
    stamp: u64,
}

/// The slots of one session, with a byte total and an optional budget.
#[derive(Debug, Default)]
pub struct Slots {
    held: HashMap<SlotKey, Slot>,
    /// Behind the last step of each expert seen.
    phase_ends: BTreeMap<Expert, usize>,
    budget: Option<usize>,
    bytes: usize,
    peak: usize,
    evicted: usize,
    clock: u64,
}

impl Slots {
    /// No slots. Above `budget` bytes the slot written longest ago is dropped, and its next pass computes.
    pub fn new(budget: Option<usize>) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Moves the slot out, or a fresh one where there is none. A pass that fails never puts it back, so the
    /// next one starts from nothing and computes.
    pub fn take<T: Any + Send + Default>(&mut self, key: &SlotKey) -> T {
        let Some(slot) = self.held.remove(key) else { return T::default() };
        self.bytes -= slot.bytes;
        slot.data.downcast::<T>().map(|slot| *slot).unwrap_or_default()
    }

    /// Looks at a slot and leaves it where it is; `None` where there is none of this type.
    pub fn peek<T: Any + Send>(&self, key: &SlotKey) -> Option<&T> {
        self.held.get(key)?.data.downcast_ref()
    }

    /// Stores a slot that holds `bytes` of tensors.
    pub fn put<T: Any + Send>(&mut self, key: SlotKey, slot: T, bytes: usize) {
        self.clock += 1;
        let slot = Slot { data: Box::new(slot), bytes, stamp: self.clock };
        if let Some(old) = self.held.insert(key, slot) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        while self.budget.is_some_and(|budget| self.bytes > budget) {
            let oldest = self.held.iter().filter(|(_, s)| s.bytes > 0).min_by_key(|(_, s)| s.stamp);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            self.remove(&key);
            self.evicted += 1;
        }
        self.peak = self.peak.max(self.bytes);
    }

    /// Drops every slot that a pass of `branch` at `step` reads or writes.
    pub fn discard(&mut self, step: &Step, branch: Branch) {
        self.drop_where(|k| k.expert == step.expert && k.branch == branch && k.eval == step.eval);
    }

    /// Drops the slots of every expert whose phase ends at or before `step`: nothing is reused across that boundary.
    pub fn retire_before(&mut self, step: &Step) {
        self.phase_ends.insert(step.expert, step.phase.end);
        let over: Vec<Expert> = self
            .phase_ends
            .iter()
            .filter(|(_, end)| **end <= step.index)
            .map(|(expert, _)| *expert)
            .collect();
        if !over.is_empty() {
            self.drop_where(|k| over.contains(&k.expert));
        }
    }

    fn drop_where(&mut self, unwanted: impl Fn(&SlotKey) -> bool) {
        let keys: Vec<_> = self.held.keys().filter(|k| unwanted(k)).cloned().collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &SlotKey) {
        if let Some(slot) = self.held.remove(key) {
            self.bytes -= slot.bytes;
        }
    }

    /// Writes every slot, through the hook that it belongs to, and every count.
    pub(crate) fn save(&self, hooks: &HookRegistry, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        let mut held: Vec<_> = self.held.iter().collect();
        held.sort_by_key(|(_, slot)| slot.stamp);
        to.field("held", &held.len());
        for (i, (key, slot)) in held.into_iter().enumerate() {
            let mut list = to.at("held");
            let mut to = list.at(&i.to_string());
            to.field("key", key);
            to.field("bytes", &slot.bytes);
            to.field("stamp", &slot.stamp);
            hooks.hook(key.hook)?.save_slot(key, slot.data.as_ref(), &mut to.at("slot"))?;
        }
        let (experts, ends): (Vec<Expert>, Vec<usize>) = self.phase_ends.iter().unzip();
        to.field("experts", &experts);
        to.field("phase_ends", &ends);
        to.field("peak", &self.peak);
        to.field("evicted", &self.evicted);
        to.field("clock", &self.clock);
        Ok(())
    }

    /// Slots of this budget as [`Slots::save`] wrote them.
    pub(crate) fn read(
        budget: Option<usize>,
        hooks: &HookRegistry,
        from: &Reader<'_>,
    ) -> Result<Self, SnapshotError> {
        let mut held = HashMap::new();
        for i in 0..from.field("held")? {
            let from = from.at("held").at(&usize::to_string(&i));
            let key: SlotKey = from.field("key")?;
            let data = hooks.hook(key.hook)?.load_slot(&key, &from.at("slot"))?;
            held.insert(key, Slot { data, bytes: from.field("bytes")?, stamp: from.field("stamp")? });
        }
        let (experts, ends): (Vec<Expert>, Vec<usize>) = (from.field("experts")?, from.field("phase_ends")?);
        Ok(Self {
            bytes: held.values().map(|slot| slot.bytes).sum(),
            held,
            phase_ends: experts.into_iter().zip(ends).collect(),
            budget,
            peak: from.field("peak")?,
            evicted: from.field("evicted")?,
            clock: from.field("clock")?,
        })
    }

    /// The keys of the slots held.
    pub fn keys(&self) -> impl Iterator<Item = &SlotKey> {
        self.held.keys()
    }

    /// Bytes of tensors held now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes held at once.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }

    /// Slots dropped because of the budget.
    pub fn evicted(&self) -> usize {
        self.evicted
    }
}
