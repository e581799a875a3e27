//! The ordered, immutable set of hooks shared by requests.

use std::{ops::Range, sync::Arc};

use crate::{
    BlockHook, ConfigError, Expert, ModelMeta, Step, Strategy,
    chain::{ModuleRings, Ring, shape::Shape},
    log::AuditPolicy,
    snapshot::SnapshotError,
    state::{HookId, StoragePolicy},
    strategy::CacheHook,
};

/// Hooks in order, the first outermost: some around ranges of blocks, some around modules inside the blocks,
/// some around the whole forward.
///
/// Built once and shared in an [`Arc`]; the state of a request lives in its [`Session`](crate::Session).
#[derive(Clone, Debug, Default)]
pub struct HookRegistry {
    blocks: Vec<Ring>,
    modules: Vec<ModuleRings>,
    forward: Vec<Ring>,
    text_ends: bool,
    storage: StoragePolicy,
    audit: AuditPolicy,
    /// `None` if it is for any model.
    shape: Option<Shape>,
}

impl HookRegistry {
    /// A registry for a model of `blocks` blocks.
    pub fn builder(blocks: usize) -> Builder {
        let registry = Self { shape: Some(Shape::of_blocks(blocks)), ..Self::default() };
        Builder { blocks, registry, next: 0 }
    }

    /// A registry for this model: a run of other stacks is an error that names both.
    pub fn for_model(model: &ModelMeta) -> Builder {
        let registry = Self { shape: Some(Shape::of_model(model)), ..Self::default() };
        Builder { blocks: model.blocks(), registry, next: 0 }
    }

    /// The rings around blocks, outermost first.
    pub fn rings(&self) -> &[Ring] {
        &self.blocks
    }

    /// The rings around modules inside the blocks, by module.
    pub fn module_rings(&self) -> &[ModuleRings] {
        &self.modules
    }

    /// The rings around the whole forward (latents in, prediction out), outermost first.
    pub fn forward_rings(&self) -> &[Ring] {
        &self.forward
    }

    /// Whether there is no hook.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Whether no decision depends on a tensor.
    pub fn is_static(&self) -> bool {
        !self.audit.acts() && self.all().all(|ring| ring.hook.is_static())
    }

    /// A hook that rebuilds one guidance branch from another, if there is one.
    pub fn rebuilds_branches(&self) -> Option<HookId> {
        self.all().find(|ring| ring.hook.rebuilds_branches()).map(|ring| ring.id)
    }

    /// The threshold that a hook's accumulated values are compared with at a step, if it is a number.
    pub fn threshold(&self, hook: HookId, step: &Step) -> Option<f64> {
        self.all().find(|ring| ring.id == hook)?.hook.threshold(step)
    }

    /// The rings of every level.
    pub fn all(&self) -> impl Iterator<Item = &Ring> {
        let modules = self.modules.iter().flat_map(|module| &module.rings);
        self.blocks.iter().chain(modules).chain(&self.forward)
    }

    /// The hook with this name.
    pub(crate) fn hook(&self, id: HookId) -> Result<&dyn BlockHook, SnapshotError> {
        let ring = self.all().find(|ring| ring.id == id).ok_or(SnapshotError::NoHook { hook: id.0 })?;
        Ok(ring.hook.as_ref())
    }

    /// Whether nothing after the last block reads the text stream.
    pub(crate) fn text_ends(&self) -> bool {
        self.text_ends
    }

    /// How residuals are stored.
    pub fn storage(&self) -> &StoragePolicy {
        &self.storage
    }

    /// Which reuses are audited.
    pub fn audit(&self) -> &AuditPolicy {
        &self.audit
    }

    /// The stacks that it was built for, if known.
    pub(super) fn shape(&self) -> Option<&Shape> {
        self.shape.as_ref()
    }

    /// The same hooks with one more around all blocks and all hooks around them, such as an observer. The
    /// others keep their ids; the new one's is the next.
    #[must_use]
    pub fn outside(&self, hook: Arc<dyn BlockHook>) -> Arc<Self> {
        let mut registry = self.clone();
        registry.blocks.insert(0, self.around_all(hook));
        Arc::new(registry)
    }

    /// As [`HookRegistry::outside`], inside all other hooks: it sees each part of the blocks that really
    /// runs.
    #[must_use]
    pub fn inside(&self, hook: Arc<dyn BlockHook>) -> Arc<Self> {
        let mut registry = self.clone();
        registry.blocks.push(self.around_all(hook));
        Arc::new(registry)
    }

    fn around_all(&self, hook: Arc<dyn BlockHook>) -> Ring {
        let id = self.all().map(|ring| ring.id.0 + 1).max().unwrap_or(0);
        let blocks = self.shape.as_ref().map_or(usize::MAX, Shape::blocks);
        Ring { at: 0..blocks, id: HookId(id), experts: Vec::new(), hook }
    }

    /// The same hooks for simulated runs, whose tensors are `unit` times smaller and carry no content:
    /// nothing is audited, and the budget shrinks with the tensors.
    pub(crate) fn unaudited(&self, unit: usize) -> Arc<Self> {
        let budget = self.storage.budget.map(|bytes| bytes / unit.max(1));
        let storage = StoragePolicy { budget, ..self.storage.clone() };
        Arc::new(Self { audit: AuditPolicy::default(), storage, ..self.clone() })
    }

    /// The same hooks with one more innermost ring, around `blocks` blocks and around every module.
    pub(crate) fn around_each(&self, blocks: usize, hook: &Arc<dyn BlockHook>) -> Arc<Self> {
        let ring =
            || Ring { at: 0..blocks, id: HookId(u16::MAX), experts: Vec::new(), hook: Arc::clone(hook) };
        let mut registry = self.clone();
        registry.blocks.push(ring());
        registry.modules.iter_mut().for_each(|module| module.rings.push(ring()));
        Arc::new(registry)
    }
}

/// Collects rings in nesting order.
#[derive(Debug)]
pub struct Builder {
    blocks: usize,
    registry: HookRegistry,
    next: u16,
}

impl Builder {
    /// The name that the next ring will have.
    pub fn next_id(&self) -> HookId {
        HookId(self.next)
    }

    /// Adds a ring around `at`, inside all earlier ones.
    ///
    /// Errors: an empty range, or one that extends past the last block.
    pub fn ring(mut self, at: Range<usize>, hook: Arc<dyn BlockHook>) -> Result<Self, ConfigError> {
        if at.is_empty() || at.end > self.blocks {
            return Err(ConfigError::Range { at, blocks: self.blocks });
        }
        let id = self.take_id();
        self.registry.blocks.push(Ring { at, id, experts: Vec::new(), hook });
        Ok(self)
    }

    /// Adds a strategy around `at`, inside all earlier rings, with its own forecast.
    ///
    /// Errors: as [`Builder::ring`].
    pub fn strategy(self, at: Range<usize>, strategy: Strategy) -> Result<Self, ConfigError> {
        let hook = match strategy.on_tensors() {
            Ok((cache, guards)) => Arc::new(CacheHook::new(self.next_id(), cache, None, guards)),
            Err(hook) => hook,
        };
        self.ring(at, hook)
    }

    /// Adds a ring around the module `name` of every block that has it, inside all earlier ones of that
    /// module. Every block has its own slot.
    #[must_use]
    pub fn module(mut self, name: &str, hook: Arc<dyn BlockHook>) -> Self {
        let id = self.take_id();
        let ring = Ring { at: 0..self.blocks, id, experts: Vec::new(), hook };
        let modules = &mut self.registry.modules;
        match modules.iter_mut().find(|module| module.name() == name) {
            Some(module) => module.rings.push(ring),
            None => modules.push(ModuleRings { name: name.into(), rings: vec![ring] }),
        }
        self
    }

    /// Adds a ring around the whole forward, inside all earlier ones of that level.
    #[must_use]
    pub fn forward(mut self, hook: Arc<dyn BlockHook>) -> Self {
        let id = self.take_id();
        self.registry.forward.push(Ring { at: 0..1, id, experts: Vec::new(), hook });
        self
    }

    /// Restricts the rings added since `first` to the steps of these experts; an empty list means all. In
    /// other steps they are absent.
    #[must_use]
    pub fn only_experts(mut self, first: HookId, experts: &[Expert]) -> Self {
        let HookRegistry { blocks, modules, forward, .. } = &mut self.registry;
        let modules = modules.iter_mut().flat_map(|module| &mut module.rings);
        let rings = blocks.iter_mut().chain(modules).chain(forward);
        rings.filter(|ring| ring.id >= first).for_each(|ring| ring.experts = experts.to_vec());
        self
    }

    /// Declares that nothing after the last block reads the text stream, so its residual is not stored there.
    #[must_use]
    pub fn text_ends(mut self) -> Self {
        self.registry.text_ends = true;
        self
    }

    /// How residuals are stored.
    #[must_use]
    pub fn storage(mut self, storage: StoragePolicy) -> Self {
        self.registry.storage = storage;
        self
    }

    /// Which reuses are audited.
    #[must_use]
    pub fn audit(mut self, audit: AuditPolicy) -> Self {
        self.registry.audit = audit;
        self
    }

    /// The registry.
    pub fn build(self) -> Arc<HookRegistry> {
        Arc::new(self.registry)
    }

    fn take_id(&mut self) -> HookId {
        let id = HookId(self.next);
        self.next += 1;
        id
    }
}
