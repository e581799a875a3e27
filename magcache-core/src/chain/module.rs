//! Modules inside a block, which hooks can surround one by one while the rest of the block runs.

use candle_core::{Result, bail};

use super::{ModuleRings, next::At, shape::Shape};
use crate::{Cx, Next, Output, Streams};

/// Runs the modules of a block; see [`Pass::run_modules`](crate::Pass::run_modules).
///
/// A module is a named part of a block (by its name in the checkpoint: `attn1`) whose output a hook can
/// replace. Every block has its own slot for each hook around one of its modules.
#[derive(Debug)]
pub struct Modules<'m>(Option<Inside<'m>>);

#[derive(Debug)]
struct Inside<'m> {
    cx: Cx<'m>,
    modules: &'m [ModuleRings],
    shape: Option<&'m Shape>,
    at: At,
    exact: bool,
    /// Indices in `modules` of those that this block has run.
    ran: Vec<usize>,
}

impl<'m> Modules<'m> {
    /// No hooks: every module runs.
    pub fn off() -> Modules<'static> {
        Modules(None)
    }

    pub(super) fn of(
        cx: &'m mut Cx<'_>,
        modules: &'m [ModuleRings],
        at: At,
        shape: Option<&'m Shape>,
    ) -> Self {
        if at.bare {
            return Self(None);
        }
        Self(Some(Inside { cx: cx.reborrow(None), modules, shape, at, exact: true, ran: Vec::new() }))
    }

    /// Runs the module `name` on `x` through the hooks around it. `f` is the module itself and must return
    /// the same streams as `x`. A module without hooks costs a look at its name.
    ///
    /// A module must not modify its input tensors in place: a hook may still hold them.
    ///
    /// Errors: any error of the module or of a hook; a second run of the module in the same block; a
    /// name that the metadata does not list.
    pub fn module(
        &mut self,
        name: &str,
        x: Streams,
        f: impl Fn(Streams) -> Result<Streams>,
    ) -> Result<Streams> {
        let Some(inside) = &mut self.0 else { return f(x) };
        let mut known = inside.modules.iter().enumerate();
        let Some((place, module)) = known.find(|(_, m)| m.name() == name) else {
            inside.shape.map_or(Ok(()), |shape| shape.check_module(name))?;
            return f(x);
        };
        let At { block, forced, .. } = inside.at;
        if inside.ran.contains(&place) {
            bail!("module {name:?} of block {block} was run twice in one pass");
        }
        inside.ran.push(place);
        let centre = |_: &mut Cx<'_>, _: At, x: Streams| Ok(Output { streams: f(x)?, exact: true });
        let next = Next::new(&module.rings, block..block + 1, &centre);
        let next = if forced { next.forced() } else { next };
        let out = next.run(&mut inside.cx.reborrow(Some(&module.name)), x)?;
        inside.exact &= out.exact;
        Ok(out.streams)
    }

    /// Whether hooks surround the module `name`: if not, a model may run it as a part of a larger operation.
    pub fn surrounds(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|inside| inside.modules.iter().any(|module| module.name() == name))
    }

    /// Marks the modules that this block has run.
    pub(super) fn mark(&self, ran: &mut [bool]) {
        for place in self.0.iter().flat_map(|inside| &inside.ran) {
            ran[*place] = true;
        }
    }

    /// Whether no module's output was replaced.
    pub(crate) fn is_exact(&self) -> bool {
        self.0.as_ref().is_none_or(|inside| inside.exact)
    }
}
