//! The API that a model sees: one forward of one branch at one step.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use candle_core::{Result, Tensor, bail};

use crate::{
    Branch, Cx, HookRegistry, Modules, Next, Output, Signal, Step, Streams,
    chain::{LazyOutput, ModuleRings, Probe, next::At},
    error::count,
    group::{Branches, Group},
    hint::tensor_error,
    log::{DecisionLog, Done},
    state::{HookId, Slots},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    Running,
    Ended { exact: bool },
}

pub(super) struct Open<'s> {
    pub(super) registry: &'s HookRegistry,
    pub(super) slots: &'s mut Slots,
    pub(super) log: &'s mut DecisionLog,
    /// `None` for a pass inside another one: only the end of the outer pass is recorded.
    pub(super) done: Option<&'s mut Done>,
    pub(super) group: Option<&'s Group>,
    pub(super) branches: Option<&'s mut Branches>,
    pub(super) step: Step,
    pub(super) branch: Branch,
    /// Whether a ring around the whole forward requires the blocks to be computed.
    pub(super) forced: bool,
    pub(super) state: State,
}

/// What a model shows of the input of its blocks.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) probe: Probe<'a>,
    /// As [`Cx::grid`].
    pub(super) grid: &'a [usize],
}

/// One forward of one branch at one step; [`Pass::off`] is the plain loop over the blocks.
///
/// A pass that fails, or is dropped before its run ended, counts as neither decided nor run: only a retry of
/// the same pass can use the state it left, and otherwise the next step of that branch computes.
pub struct Pass<'s>(pub(super) Option<Open<'s>>);

impl Pass<'_> {
    /// A pass without session and hooks: [`Pass::run`] is the plain loop and never calls the probe.
    pub fn off() -> Pass<'static> {
        Pass(None)
    }

    /// Runs blocks `0..blocks` on `x` through the hooks.
    ///
    /// A block must not modify its input tensors in place: a hook, or the caller, may still hold them.
    ///
    /// Errors: any error of a block, a hook or the probe; a second run of the same pass; a step past the end
    /// of the run.
    pub fn run(
        &mut self,
        blocks: usize,
        probe: Probe<'_>,
        x: Streams,
        block: impl Fn(usize, Streams) -> Result<Streams>,
    ) -> Result<Streams> {
        self.run_modules(blocks, probe, x, |i, x, _| block(i, x))
    }

    /// As [`Pass::run`], for blocks that run parts of themselves through `modules` so that hooks can surround
    /// those parts: `modules.module("attn1", x, |x| …)`. The names belong in
    /// [`ModelMeta::modules`](crate::ModelMeta).
    ///
    /// Errors: as [`Pass::run`], and as [`Modules::module`].
    pub fn run_modules(
        &mut self,
        blocks: usize,
        probe: Probe<'_>,
        x: Streams,
        block: impl Fn(usize, Streams, &mut Modules<'_>) -> Result<Streams>,
    ) -> Result<Streams> {
        Ok(self.run_stacks(&[blocks], Shown { probe, grid: &[] }, x, block)?.added()?.streams)
    }

    /// Runs stacks of these sizes, whose blocks are counted from 0 in the order in which they run.
    pub(super) fn run_stacks(
        &mut self,
        sizes: &[usize],
        shown: Shown<'_>,
        x: Streams,
        block: impl Fn(usize, Streams, &mut Modules<'_>) -> Result<Streams>,
    ) -> Result<LazyOutput> {
        let blocks = sizes.iter().sum();
        let Some(open) = &mut self.0 else {
            let mut off = Modules::off();
            let streams = (0..blocks).try_fold(x, |x, i| block(i, x, &mut off))?;
            return Ok(Output { streams, exact: true }.into());
        };
        open.registry.shape().map_or(Ok(()), |shape| shape.check(sizes))?;
        open.start()?;
        let Open { registry, slots, log, group, branches, step, branch, forced, state, .. } = open;
        let (rings, shape) = (registry.module_rings(), registry.shape());
        let ran = RefCell::new(vec![false; rings.len()]);
        let block = |cx: &mut Cx<'_>, at: At, x: Streams| {
            let mut modules = Modules::of(cx, rings, at, shape);
            let streams = block(at.block, x, &mut modules)?;
            modules.mark(&mut ran.borrow_mut());
            Ok(Output { streams, exact: modules.is_exact() })
        };
        let mut cx = Cx {
            step,
            branch: *branch,
            hook: HookId(0),
            module: None,
            probe: Some(shown.probe),
            grid: shown.grid,
            slots,
            log,
            storage: registry.storage(),
            audit: registry.audit(),
            group: *group,
            split: true,
            branches: branches.as_deref_mut(),
        };
        let next = Next::new(registry.rings(), 0..blocks, &block).over(rings);
        let next = if registry.text_ends() { next.text_ends() } else { next };
        let out = if *forced { next.forced() } else { next }.run_lazy(&mut cx, x)?;
        let idle = rings.iter().zip(ran.into_inner()).find(|(_, ran)| out.exact && !ran);
        if let (Some((module, _)), Some(shape)) = (idle, shape) {
            return Err(shape.idle_module(module.name()));
        }
        *state = State::Ended { exact: out.exact };
        Ok(out)
    }

    /// Runs the whole forward of a model (latents in, prediction out) through the hooks of that level.
    /// `forward` receives the pass for its blocks.
    ///
    /// Errors: as [`Pass::run`].
    pub fn forward(
        &mut self,
        x: Tensor,
        forward: impl Fn(Tensor, &mut Pass<'_>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(open) = &mut self.0 else { return forward(x, &mut Pass::off()) };
        if open.registry.forward_rings().is_empty() {
            let y = forward(x, self)?;
            self.check_blocks_ran()?;
            return Ok(y);
        }
        open.start()?;
        let Open { registry, slots, log, group, branches, step, branch, state, .. } = open;
        let (registry, group) = (*registry, *group);
        let entered = Cell::new(false);
        let block = |cx: &mut Cx<'_>, at: At, x: Streams| {
            if at.bare {
                let y = forward(x.into_image()?, &mut Pass::off())?;
                return Ok(Output { streams: Streams::Image(y), exact: true });
            }
            entered.set(true);
            let Cx { step, branch, slots, log, branches, .. } = cx;
            let (step, branch, forced) = (step.clone(), *branch, at.forced);
            let (done, state, branches) = (None, State::Fresh, branches.as_deref_mut());
            let inner = Open { registry, slots, log, done, group, branches, step, branch, forced, state };
            let mut pass = Pass(Some(inner));
            let y = forward(x.into_image()?, &mut pass)?;
            pass.check_blocks_ran()?;
            Ok(Output { streams: Streams::Image(y), exact: pass.was_exact() })
        };
        let mut cx = Cx {
            step,
            branch: *branch,
            hook: HookId(0),
            module: None,
            probe: None,
            grid: &[],
            slots,
            log,
            storage: registry.storage(),
            audit: registry.audit(),
            group,
            split: false,
            branches: branches.as_deref_mut(),
        };
        let out = Next::new(registry.forward_rings(), 0..1, &block).run(&mut cx, Streams::Image(x))?;
        if !entered.get() {
            let nothing = |_: &mut Cx<'_>, _: At, x: Streams| Ok(Output { streams: x, exact: false });
            let modules = registry.module_rings();
            let inside = registry.rings().iter().chain(modules.iter().flat_map(ModuleRings::rings));
            let blocks = inside.map(|ring| ring.at.end).max().unwrap_or(0);
            Next::new(registry.rings(), 0..blocks, &nothing).over(modules).skip(&mut cx);
        }
        *state = State::Ended { exact: out.exact };
        out.streams.into_image()
    }

    /// An error if caches surround blocks that the forward never handed to its pass: they would do nothing.
    fn check_blocks_ran(&self) -> Result<()> {
        match &self.0 {
            Some(Open { state: State::Fresh, registry, .. }) if !registry.rings().is_empty() => {
                Err(tensor_error(
                    "a cache surrounds blocks, but the forward handed none to its pass",
                    "run them with the pass that the forward is given, or use a cache `at = \"forward\"`",
                ))
            }
            _ => Ok(()),
        }
    }

    fn was_exact(&self) -> bool {
        !matches!(self.0, Some(Open { state: State::Ended { exact: false }, .. }))
    }
}

impl Open<'_> {
    fn start(&mut self) -> Result<()> {
        if self.state != State::Fresh {
            bail!("a pass is one forward: it was run twice");
        }
        let Step { index, total, .. } = self.step;
        if index >= total {
            let message = format!("a pass at step {index} of a run of {}", count(total, "step"));
            return Err(tensor_error(message, format!("its steps are 0..{total}: `run.steps()` ends there")));
        }
        self.state = State::Running;
        Ok(())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let Some(done) = &mut self.done else { return };
        self.log.begin(false);
        if self.state != State::Fresh {
            let failed = self.state == State::Running;
            done.note(&self.step, self.branch, failed);
            self.slots.end(&self.step, self.branch, failed);
            self.log.end(&self.step, self.branch, failed);
        }
    }
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Pass::off()"),
            Some(open) => {
                let mut out = f.debug_struct("Pass");
                out.field("step", &open.step).field("branch", &open.branch).finish_non_exhaustive()
            }
        }
    }
}

/// A probe for models without signals.
///
/// Errors: always.
pub fn no_signals(signal: Signal, _: &Streams) -> Result<Tensor> {
    Err(tensor_error(
        format!("this model does not show its {}", signal.as_str()),
        "show it with `Stacks::signals`, or remove it from the signals of the metadata",
    ))
}
