//! Inputs and outputs of modules inside blocks, by the reference's names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Result, Tensor};
use magcache_core::{BlockHook, Cx, Next, Output, Streams};

/// Tensors by the reference's names.
pub(super) type Seen = Arc<Mutex<BTreeMap<String, Tensor>>>;

/// Names the input and output of a module of a block.
pub(super) type Names = fn(Place<'_>, &Streams, &Streams) -> Result<Vec<(String, Tensor)>>;

/// Identifies a module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) block: usize,
    /// Number of blocks in the model's first stack.
    pub(super) first_stack: usize,
    pub(super) module: &'a str,
}

/// Records the inputs and outputs of modules; changes nothing.
#[derive(Debug)]
pub(super) struct ModuleObserver {
    pub(super) first_stack: usize,
    pub(super) names: Names,
    pub(super) seen: Seen,
}

impl BlockHook for ModuleObserver {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let (block, entered) = (next.blocks().start, x.clone());
        let module = cx.module.cloned();
        let output = next.run(cx, x)?;
        if let Some(module) = &module {
            let place = Place { block, first_stack: self.first_stack, module };
            let named = (self.names)(place, &entered, &output.streams)?;
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
        }
        Ok(output)
    }
}

/// The reference repeats a pair's angle for both of its channels: `[tokens, pairs]` becomes
/// `[tokens, 2 * pairs]`.
pub(super) fn both_of_a_pair(half: &Tensor) -> Result<Tensor> {
    let (tokens, pairs) = half.dims2()?;
    half.unsqueeze(2)?.broadcast_as((tokens, pairs, 2))?.reshape((tokens, 2 * pairs))
}
