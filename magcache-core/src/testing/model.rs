//! Checks for model crates.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use candle_core::{Result, Tensor};

use super::expect::{same_bits, same_streams};
use crate::{BlockHook, Branch, Cx, HookRegistry, ModelMeta, Next, Output, Pass, Step, Streams};

/// Runs [`check_off_is_plain`] and [`check_blocks_pure`]; `forward` is one forward of the model on fixed
/// inputs.
///
/// # Panics
///
/// If a rule is broken, with its name.
pub fn check_model(blocks: usize, forward: impl Fn(&mut Pass<'_>) -> Result<Tensor>) {
    check_off_is_plain(blocks, &forward);
    check_blocks_pure(blocks, &forward);
}

/// Checks that a session without hooks gives the same bits as no session.
///
/// # Panics
///
/// If it does not, or if the forward fails.
pub fn check_off_is_plain(blocks: usize, forward: impl Fn(&mut Pass<'_>) -> Result<Tensor>) {
    let rule = "rule `off is the plain loop`";
    let off = ok(rule, forward(&mut Pass::off()));
    let mut session = HookRegistry::builder(blocks).build().session();
    let empty = ok(rule, forward(&mut session.pass(&Step::plain(0, 1), Branch::Cond)));
    assert!(same_bits(&off, &empty), "{rule}: a session without hooks gives another output than no session");
}

/// Checks that no block modifies its input tensors in place, and that the model runs each of its `blocks`
/// blocks once through the pass.
///
/// # Panics
///
/// If not, with the index of the block, or if the forward fails.
pub fn check_blocks_pure(blocks: usize, forward: impl Fn(&mut Pass<'_>) -> Result<Tensor>) {
    let rule = "rule `blocks are pure`";
    let ran: Arc<Vec<AtomicUsize>> = Arc::new((0..blocks).map(|_| AtomicUsize::new(0)).collect());
    let mut builder = HookRegistry::builder(blocks);
    for i in 0..blocks {
        builder = match builder.ring(i..i + 1, Arc::new(Watch::new("block", i, &ran))) {
            Ok(builder) => builder,
            Err(e) => panic!("{rule}: {e}"),
        };
    }
    let mut session = builder.build().session();
    ok(rule, forward(&mut session.pass(&Step::plain(0, 1), Branch::Cond)));
    for (i, n) in ran.iter().enumerate() {
        let n = n.load(Ordering::Relaxed);
        assert!(n == 1, "{rule}: block {i} of {blocks} ran {n} times in one forward; the metadata says once");
    }
}

/// Checks that every module named in the metadata runs in some block, that none modifies its input in place,
/// and that a hook around each that replaces nothing changes no bit of the output.
///
/// # Panics
///
/// If not, with the module, or if the forward fails.
pub fn check_modules(meta: &ModelMeta, forward: impl Fn(&mut Pass<'_>) -> Result<Tensor>) {
    let rule = "rule `modules are where the metadata says`";
    // A module that no block runs, or that the metadata does not list, is an error of the pass.
    let mut builder = HookRegistry::for_model(meta);
    for (i, name) in meta.modules.iter().enumerate() {
        builder = builder.module(name, Arc::new(Watch::new("module", i, &Arc::default())));
    }
    let mut session = builder.build().session();
    let watched = ok(rule, forward(&mut session.pass(&Step::plain(0, 1), Branch::Cond)));
    let off = ok(rule, forward(&mut Pass::off()));
    assert!(same_bits(&off, &watched), "{rule}: hooks that replace nothing change the output");
}

fn ok<T>(rule: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{rule}: the forward failed: {e}"))
}

/// Compares the input of a block, or of a module of every block, before and after it ran.
#[derive(Debug)]
struct Watch {
    what: &'static str,
    place: usize,
    ran: Arc<Vec<AtomicUsize>>,
}

impl Watch {
    fn new(what: &'static str, place: usize, ran: &Arc<Vec<AtomicUsize>>) -> Self {
        Self { what, place, ran: Arc::clone(ran) }
    }
}

impl BlockHook for Watch {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        if let Some(n) = self.ran.get(self.place) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        let before = x.map(Tensor::copy)?;
        let out = next.run(cx, x.clone())?;
        let pure = same_streams(&before, &x, true)?;
        let Self { what, place, .. } = self;
        assert!(pure, "rule `blocks are pure`: {what} {place} changed its input in place");
        Ok(out)
    }
}
