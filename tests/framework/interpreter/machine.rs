//! The rules of hooks, decisions, storage and failures, implemented a second time from the documents: slow,
//! copying whole states wherever something may have to be undone, and sharing no code with the chain.
//!
//! The streams are always separate here: an image and, on models that have one, a text.

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use candle_core::{DType, Error, Result, Tensor};
use magcache_core::{Branch, Step};

use super::rings::{Place, Ring, Stand, When};

/// The streams between two blocks.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) image: Tensor,
    pub(crate) text: Option<Tensor>,
}

/// The output of a module for its input, given its name.
pub(crate) type Inner<'m> =
    &'m mut dyn FnMut(&str, Tensor, &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor>;

/// A model, block by block.
pub(crate) trait Model {
    fn blocks(&self) -> usize;
    fn block(&self, i: usize, x: Flow, step: &Step, branch: Branch, inner: Inner<'_>) -> Result<Flow>;
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) step: usize,
    pub(crate) expert: u8,
    pub(crate) branch: Branch,
    pub(crate) ring: usize,
    pub(crate) blocks: Range<usize>,
    pub(crate) module: Option<String>,
    pub(crate) replaced: bool,
    pub(crate) why: &'static str,
    /// Bytes held by all other slots.
    pub(crate) bytes: usize,
}

/// Reasons that a ring did not decide itself.
const IMPOSED: [&str; 3] = ["forced", "window", "outer-cache"];

/// The owner of a slot: ring, first and last block, expert, branch.
type Key = (usize, usize, usize, u8, String);

/// The content of one slot.
#[derive(Clone, Default)]
struct Slot {
    /// Computed steps that were learned from: step, input and output.
    facts: Vec<(usize, Flow, Flow)>,
    /// Residual of the front blocks at the last fact; `pending` is the one most recently seen.
    anchor: Option<Tensor>,
    pending: Option<Tensor>,
    consecutive: usize,
    /// The output of the conditional branch at a step, and whether all of it was computed.
    lead: Option<(usize, Flow, bool)>,
    written: usize,
    step: usize,
    /// Its pass failed.
    torn: bool,
}

#[derive(Clone, Default)]
struct State {
    slots: BTreeMap<Key, Slot>,
    log: Vec<Line>,
    step: usize,
    /// One past the last step of each expert seen so far.
    ends: BTreeMap<u8, usize>,
    clock: usize,
    evicted: usize,
}

/// A model and the rings around it.
pub(crate) struct Interpreter<'m> {
    pub(crate) model: &'m dyn Model,
    /// Outermost first at each level.
    pub(crate) rings: Vec<Ring>,
    pub(crate) storage: Option<DType>,
    pub(crate) budget: Option<usize>,
    /// Nothing after the last block reads text.
    pub(crate) text_ends: bool,
    state: RefCell<State>,
}

/// One pass.
struct Pass<'p> {
    step: &'p Step,
    branch: Branch,
}

/// What rings surround, and how to run it.
enum Level<'l> {
    Forward(&'l dyn Fn(Flow, bool) -> Result<(Flow, bool)>),
    Blocks,
    Module(&'l str, &'l dyn Fn(&Tensor) -> Result<Tensor>),
}

/// What the replacement is computed from.
enum Basis {
    From(Flow, bool),
    Nobody(&'static str),
}

impl<'m> Interpreter<'m> {
    pub(crate) fn new(model: &'m dyn Model, rings: Vec<Ring>) -> Self {
        Self { model, rings, storage: None, budget: None, text_ends: false, state: RefCell::default() }
    }

    pub(crate) fn log(&self) -> Vec<Line> {
        self.state.borrow().log.clone()
    }

    pub(crate) fn evicted(&self) -> usize {
        self.state.borrow().evicted
    }

    /// Runs `attempt` and rolls back everything that it changed.
    pub(crate) fn undone<R>(&self, attempt: impl FnOnce() -> R) -> R {
        let before = self.state.borrow().clone();
        let out = attempt();
        *self.state.borrow_mut() = before;
        out
    }

    /// A whole forward. If it fails, nothing is decided, and the next step of its branch finds nothing to
    /// reuse.
    pub(crate) fn forward(
        &self,
        step: &Step,
        branch: Branch,
        x: &Tensor,
        embed: &dyn Fn(&Tensor) -> Result<Flow>,
    ) -> Result<Tensor> {
        let pass = Pass { step, branch };
        let mut state = self.state.borrow_mut();
        if state.step != step.index {
            state.step = step.index;
            state.slots.retain(|_, slot| !slot.torn);
        }
        let State { slots, ends, .. } = &mut *state;
        ends.insert(step.expert.0, step.phase.end);
        slots.retain(|key, _| ends.get(&key.3).is_none_or(|end| step.index < *end));
        let before = state.log.len();
        drop(state);
        let blocks = self.at(&pass, |place| matches!(place, Place::Blocks(_)));
        let entered = RefCell::new(false);
        let centre = |x: Flow, forced: bool| {
            entered.replace(true);
            let all = 0..self.model.blocks();
            let (y, exact) = self.around(&pass, &blocks, &Level::Blocks, all, embed(&x.image)?, forced)?;
            Ok((Flow { text: None, ..y }, exact))
        };
        let forwards = self.at(&pass, |place| *place == Place::Forward);
        let x = Flow { image: x.clone(), text: None };
        let out = self.around(&pass, &forwards, &Level::Forward(&centre), 0..1, x, false);
        let mut failed = self.state.borrow_mut();
        if out.is_err() {
            failed.log.truncate(before);
            let own = |key: &Key| (key.3, &key.4) == (step.expert.0, &branch.to_string());
            failed.slots.iter_mut().filter(|(key, _)| own(key)).for_each(|(_, slot)| slot.torn = true);
        }
        drop(failed);
        let (y, _) = out?;
        if !*entered.borrow() {
            self.tell(&pass, &blocks, &Level::Blocks, 0..self.model.blocks());
        }
        Ok(y.image)
    }

    /// The rings at a level that act in this pass, outermost first.
    fn at(&self, pass: &Pass<'_>, level: impl Fn(&Place) -> bool) -> Vec<usize> {
        let acts = |ring: &Ring| ring.experts.is_empty() || ring.experts.contains(&pass.step.expert.0);
        let all = self.rings.iter().enumerate();
        all.filter(|(_, ring)| level(&ring.place) && acts(ring)).map(|(i, _)| i).collect()
    }

    /// The part of `blocks` that a ring surrounds; an empty range at the start or end if there is none.
    fn part(&self, ring: usize, blocks: &Range<usize>) -> Range<usize> {
        let Place::Blocks(at) = &self.rings[ring].place else { return blocks.clone() };
        let start = at.start.clamp(blocks.start, blocks.end);
        start..at.end.clamp(start, blocks.end)
    }

    /// Runs what lies before the first ring's part, the ring, and what lies after it; without a ring, the
    /// blocks.
    fn around(
        &self,
        pass: &Pass<'_>,
        rings: &[usize],
        level: &Level<'_>,
        blocks: Range<usize>,
        x: Flow,
        forced: bool,
    ) -> Result<(Flow, bool)> {
        if blocks.is_empty() {
            return Ok((x, true));
        }
        let Some((first, inner)) = rings.split_first() else {
            return match level {
                Level::Forward(centre) => centre(x, forced),
                Level::Module(_, f) => Ok((Flow { image: f(&x.image)?, text: None }, true)),
                Level::Blocks => self.blocks(pass, blocks, x, forced),
            };
        };
        let own = self.part(*first, &blocks);
        let (x, a) = self.around(pass, inner, level, blocks.start..own.start, x, forced)?;
        let (x, b) = if own.is_empty() {
            (x, true)
        } else {
            self.ring(pass, (*first, inner), level, own.clone(), x, forced)?
        };
        let (x, c) = self.around(pass, inner, level, own.end..blocks.end, x, forced)?;
        Ok((x, a && b && c))
    }

    fn blocks(&self, pass: &Pass<'_>, blocks: Range<usize>, x: Flow, forced: bool) -> Result<(Flow, bool)> {
        let (mut x, mut exact) = (x, true);
        for i in blocks {
            let mut module = |name: &str, x: Tensor, f: &dyn Fn(&Tensor) -> Result<Tensor>| {
                let rings = self.at(pass, |place| matches!(place, Place::Module(own) if *own == name));
                let x = Flow { image: x, text: None };
                let (y, really) = self.around(pass, &rings, &Level::Module(name, f), i..i + 1, x, forced)?;
                exact &= really;
                Ok(y.image)
            };
            x = self.model.block(i, x, pass.step, pass.branch, &mut module)?;
        }
        Ok((x, exact))
    }

    /// One ring: decides, and runs or replaces what lies between its front and back.
    fn ring(
        &self,
        pass: &Pass<'_>,
        (ring, inner): (usize, &[usize]),
        level: &Level<'_>,
        own: Range<usize>,
        x: Flow,
        forced: bool,
    ) -> Result<(Flow, bool)> {
        let Ring { front, back, .. } = self.rings[ring];
        if forced || front + back >= own.len() {
            let why = if forced { "forced" } else { "window" };
            self.note(pass, ring, level, &own, false, why);
            return self.around(pass, inner, level, own, x, forced);
        }
        let middle = own.start + front..own.end - back;
        let (fronted, _) = self.around(pass, inner, level, own.start..middle.start, x.clone(), true)?;
        let key = |branch: Branch| (ring, middle.start, middle.end, pass.step.expert.0, branch.to_string());
        let basis = self.basis(pass, ring, &key(Branch::Cond), &fronted);
        let mut slot = self.state.borrow_mut().slots.remove(&key(pass.branch)).unwrap_or_default();
        let text = !matches!(level, Level::Blocks) || middle.end < self.model.blocks() || !self.text_ends;
        let (why, guess) = match &basis {
            Basis::Nobody(why) => (*why, None),
            Basis::From(base, _) => {
                let (replaces, why) = self.verdict(pass, ring, &middle, &mut slot, &x, base)?;
                let guess = if replaces { self.guess(pass, ring, &slot, base, text)? } else { None };
                (if replaces && guess.is_none() { "no-history" } else { why }, guess)
            }
        };
        self.note(pass, ring, level, &middle, guess.is_some(), why);
        slot.consecutive = if guess.is_some() { slot.consecutive + 1 } else { slot.consecutive };
        self.keep(pass, key(pass.branch), slot, guess.is_some());
        let (y, exact) = if let Some(guess) = guess {
            self.tell(pass, inner, level, middle.clone());
            (guess, false)
        } else {
            let (y, exact) = self.around(pass, inner, level, middle.clone(), fronted, false)?;
            let mut slot = self.state.borrow_mut().slots.remove(&key(pass.branch)).unwrap_or_default();
            slot.consecutive = 0;
            match basis {
                Basis::Nobody("leads") => slot.lead = Some((pass.step.index, y.clone(), exact)),
                Basis::From(base, true) if exact => {
                    slot.facts.push((pass.step.index, base, y.clone()));
                    slot.anchor = slot.pending.take();
                }
                _ => {}
            }
            self.keep(pass, key(pass.branch), slot, true);
            (y, exact)
        };
        let (y, after) = self.around(pass, inner, level, middle.end..own.end, y, true)?;
        Ok((y, exact && after))
    }

    fn basis(&self, pass: &Pass<'_>, ring: usize, cond: &Key, fronted: &Flow) -> Basis {
        if !self.rings[ring].leader {
            return Basis::From(fronted.clone(), true);
        }
        if pass.branch == Branch::Cond {
            return Basis::Nobody("leads");
        }
        let state = self.state.borrow();
        let lead = state.slots.get(cond).filter(|slot| !slot.torn).and_then(|slot| slot.lead.clone());
        match lead {
            Some((step, y, exact)) if step == pass.step.index => Basis::From(y, exact),
            _ => Basis::Nobody("no-leader"),
        }
    }

    /// Whether to replace, and the reason.
    fn verdict(
        &self,
        pass: &Pass<'_>,
        ring: usize,
        middle: &Range<usize>,
        slot: &mut Slot,
        x: &Flow,
        fronted: &Flow,
    ) -> Result<(bool, &'static str)> {
        let (step, own, state) = (pass.step, &self.rings[ring], self.state.borrow());
        let said = if own.follows && !matches!(pass.branch, Branch::Cond | Branch::Batched) {
            let leads = |line: &&Line| {
                let whole = line.blocks.start <= middle.start && middle.end <= line.blocks.end;
                let here = (line.ring, line.step, line.branch) == (ring, step.index, Branch::Cond);
                whole && here && !IMPOSED.contains(&line.why)
            };
            let leader = state.log.iter().rev().find(leads);
            leader.map_or((false, "no-leader"), |line| (line.replaced, "followed"))
        } else {
            match &own.when {
                When::Steps(cond, others) => {
                    let steps = if pass.branch == Branch::Cond { cond } else { others };
                    (steps.contains(&step.index), "scheduled")
                }
                When::Near(threshold) => {
                    let now = (&fronted.image - &x.image)?;
                    let verdict = match &slot.anchor {
                        None => (false, "no-history"),
                        Some(anchor) if distance(&now, anchor)? < *threshold => (true, "under-threshold"),
                        Some(_) => (false, "over-threshold"),
                    };
                    slot.pending = Some(now);
                    verdict
                }
            }
        };
        let counted = |line: &&Line| {
            let here = (line.ring, &line.blocks, line.expert) == (ring, middle, step.expert.0);
            here && line.branch == pass.branch && line.replaced && line.why != "outer-cache"
        };
        let total = state.log.iter().filter(counted).count();
        Ok(if step.index - step.phase.start < own.warmup.max(1) {
            (false, "warmup")
        } else if step.index + own.last_steps >= step.total {
            (false, "last-steps")
        } else if own.max_skips.is_some_and(|most| slot.consecutive >= most) {
            (false, "skip-cap")
        } else if own.max_total.is_some_and(|most| total >= most) {
            (false, "total-skip-cap")
        } else {
            said
        })
    }

    /// The replacement that follows from the facts.
    fn guess(
        &self,
        pass: &Pass<'_>,
        ring: usize,
        slot: &Slot,
        base: &Flow,
        text: bool,
    ) -> Result<Option<Flow>> {
        let Some((newest, x, y)) = slot.facts.last() else { return Ok(None) };
        let added = |x: &Tensor, y: &Tensor| y - x;
        let stand = self.rings[ring].stand;
        let one = |pick: &dyn Fn(&Flow) -> Option<Tensor>, base: &Tensor| -> Result<Tensor> {
            let of = |flow: &Flow| pick(flow).ok_or_else(|| Error::msg("a stream is missing"));
            let residual = added(&of(x)?, &of(y)?)?;
            match (stand, slot.facts.iter().rev().nth(1)) {
                (Stand::Output, _) => self.stored(&of(y)?),
                (Stand::Line, Some((older, x0, y0))) => {
                    let before = self.stored(&added(&of(x0)?, &of(y0)?)?)?;
                    let slope =
                        self.stored(&(&residual - before)?.affine(1.0 / (newest - older) as f64, 0.0)?)?;
                    let ahead = (pass.step.index - newest) as f64;
                    base + (self.stored(&residual)? + slope.affine(ahead, 0.0)?)?
                }
                _ => base + self.stored(&residual)?,
            }
        };
        let image = one(&|flow| Some(flow.image.clone()), &base.image)?;
        let text = match &base.text {
            Some(own) if text => Some(one(&|flow| flow.text.clone(), own)?),
            own => own.clone(),
        };
        Ok(Some(Flow { image, text }))
    }

    /// A tensor after a round trip through the storage dtype.
    fn stored(&self, t: &Tensor) -> Result<Tensor> {
        self.storage.map_or_else(|| Ok(t.clone()), |dtype| t.to_dtype(dtype)?.to_dtype(DType::F32))
    }

    /// Puts a slot back; at the end of its pass, slots are evicted until the budget is met.
    fn keep(&self, pass: &Pass<'_>, key: Key, slot: Slot, end: bool) {
        let mut state = self.state.borrow_mut();
        state.clock += 1;
        let slot = Slot { written: state.clock, step: pass.step.index, torn: false, ..slot };
        state.slots.insert(key.clone(), slot);
        while let Some(budget) = self.budget.filter(|_| end) {
            let bytes: Vec<(Key, usize)> =
                state.slots.iter().map(|(key, slot)| (key.clone(), self.bytes(key, slot))).collect();
            if bytes.iter().map(|(_, bytes)| bytes).sum::<usize>() <= budget {
                break;
            }
            let full = bytes.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(key, _)| key);
            let full: Vec<Key> = full.collect();
            let idle = full.iter().filter(|key| state.slots[*key].step != pass.step.index);
            let victim =
                idle.min_by_key(|key| state.slots[*key].written).or(full.iter().find(|k| **k == key));
            let Some(victim) = victim.cloned() else { break };
            state.slots.remove(&victim);
            state.evicted += 1;
        }
    }

    fn bytes(&self, key: &Key, slot: &Slot) -> usize {
        let of = |t: &Tensor, each: usize| t.elem_count() * each;
        let narrow = self.storage.map_or(4, |dtype| dtype.size_in_bytes());
        let blocks = matches!(self.rings[key.0].place, Place::Blocks(_));
        let text = !blocks || key.2 < self.model.blocks() || !self.text_ends;
        let flow = |flow: &Flow, each: usize, text: bool| {
            of(&flow.image, each) + flow.text.as_ref().filter(|_| text).map_or(0, |t| of(t, each))
        };
        let held = if self.rings[key.0].stand == Stand::Line { 2 } else { 1 };
        let facts: usize = slot.facts.iter().rev().take(held).map(|(_, _, y)| flow(y, narrow, text)).sum();
        let state: usize = [&slot.anchor, &slot.pending].into_iter().flatten().map(|t| of(t, 4)).sum();
        facts + state + slot.lead.as_ref().map_or(0, |(_, y, _)| flow(y, 4, true))
    }

    /// Notifies every ring inside that what it surrounds was replaced.
    fn tell(&self, pass: &Pass<'_>, rings: &[usize], level: &Level<'_>, blocks: Range<usize>) {
        let Some((first, inner)) = rings.split_first() else {
            if let Level::Blocks = level {
                self.tell_modules(pass, blocks);
            }
            return;
        };
        let own = self.part(*first, &blocks);
        self.tell(pass, inner, level, blocks.start..own.start);
        if !own.is_empty() {
            self.note(pass, *first, level, &own, true, "outer-cache");
            self.tell(pass, inner, level, own.clone());
        }
        self.tell(pass, inner, level, own.end..blocks.end);
    }

    fn tell_modules(&self, pass: &Pass<'_>, blocks: Range<usize>) {
        let mut names: Vec<&str> = Vec::new();
        for ring in &self.rings {
            if let Place::Module(name) = ring.place
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        for block in blocks {
            for name in &names {
                let rings = self.at(pass, |place| matches!(place, Place::Module(own) if own == name));
                let nothing = |x: &Tensor| Ok(x.clone());
                self.tell(pass, &rings, &Level::Module(name, &nothing), block..block + 1);
            }
        }
    }

    fn note(
        &self,
        pass: &Pass<'_>,
        ring: usize,
        level: &Level<'_>,
        blocks: &Range<usize>,
        replaced: bool,
        why: &'static str,
    ) {
        let module = if let Level::Module(name, _) = level { Some((*name).to_owned()) } else { None };
        let (step, expert, branch) = (pass.step.index, pass.step.expert.0, pass.branch);
        let bytes = self.state.borrow().slots.iter().map(|(key, slot)| self.bytes(key, slot)).sum();
        let line = Line { bytes, step, expert, branch, ring, blocks: blocks.clone(), module, replaced, why };
        self.state.borrow_mut().log.push(line);
    }
}

/// `mean|a − b| / mean|b|` of one row.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let sum = |t: &Tensor| t.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>();
    Ok(sum(&(a - b)?)? / sum(b)?)
}
