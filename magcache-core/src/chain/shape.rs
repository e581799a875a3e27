//! What the metadata says of a model, to be compared with what runs.

use candle_core::Result;

use crate::{ModelMeta, error::count, hint};

/// The stacks and modules that hooks were built for.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The model; empty for hooks that were built for a number of blocks.
    model: String,
    stacks: Vec<(&'static str, usize)>,
    /// `None` if not known.
    modules: Option<Vec<&'static str>>,
}

impl Shape {
    /// Of hooks that are built by hand.
    pub(crate) fn of_blocks(blocks: usize) -> Self {
        Self { model: String::new(), stacks: vec![("blocks", blocks)], modules: None }
    }

    pub(crate) fn of_model(meta: &ModelMeta) -> Self {
        Self {
            model: meta.name.to_string(),
            stacks: meta.stacks.iter().map(|stack| (stack.name, stack.blocks)).collect(),
            modules: Some(meta.modules.to_vec()),
        }
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.stacks.iter().map(|(_, blocks)| blocks).sum()
    }

    /// Whether a model that runs stacks of these sizes is the one that hooks were built for.
    ///
    /// Errors: it is not.
    pub(super) fn check(&self, sizes: &[usize]) -> Result<()> {
        let known: Vec<usize> = self.stacks.iter().map(|(_, blocks)| *blocks).collect();
        // Hooks built by hand, and models that run all stacks as one, know the whole number alone.
        let whole = sizes.len() == 1 || (self.model.is_empty() && known.len() == 1);
        if sizes == known || (whole && sizes.iter().sum::<usize>() == self.blocks()) {
            return Ok(());
        }
        let ran: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let said = |(name, blocks): &(&str, usize)| format!("{name:?} of {}", count(*blocks, "block"));
        let ran = ran.join(" + ");
        if self.model.is_empty() {
            let message = format!("the model runs {ran} blocks, its hooks are built for {}", self.blocks());
            return Err(hint::tensor_error(message, "build them for as many: `HookRegistry::builder(n)`"));
        }
        let said: Vec<String> = self.stacks.iter().map(said).collect();
        let message =
            format!("the model runs {ran} blocks, its metadata {:?} names {}", self.model, said.join(", "));
        let hint = "build the hooks with the sizes of the checkpoint: `meta.with_blocks(&[…])`";
        Err(hint::tensor_error(message, hint))
    }

    /// Whether the metadata lists a module.
    ///
    /// Errors: it does not.
    pub(super) fn check_module(&self, name: &str) -> Result<()> {
        match &self.modules {
            Some(known) if !known.contains(&name) => Err(hint::tensor_error(
                format!("a block runs the module {name:?}, the metadata {:?} lists {known:?}", self.model),
                "list it in the modules of the metadata, so that caches can name it",
            )),
            _ => Ok(()),
        }
    }

    /// The error for a module with hooks that no block ran.
    pub(super) fn idle_module(&self, name: &str) -> candle_core::Error {
        if self.model.is_empty() {
            let message = format!("a hook surrounds the module {name:?}, but no block runs it");
            return hint::tensor_error(message, "run it with `modules.module`, or remove the hook");
        }
        hint::tensor_error(
            format!("a cache surrounds the module {name:?}, but no block of {:?} runs it", self.model),
            "run it with `modules.module`, or remove it from the modules of the metadata",
        )
    }
}
