//! The networks of one model, loaded when they are needed.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{Result, Tensor};
use magcache_core::Expert;

use super::{LoadResult, TextContext, WanTransformer, parts::Parts};
use crate::pipeline::TextUses;

/// Loads an expert.
pub(super) type Load = dyn Fn(Expert) -> LoadResult<Arc<WanTransformer>> + Send + Sync;

/// Loads experts of a checkpoint for several denoisers: one that is still in memory is shared.
pub(super) fn shared(parts: Parts) -> Arc<Load> {
    let loaded = Mutex::new((0..parts.source.experts()).map(|_| Weak::new()).collect::<Vec<_>>());
    Arc::new(move |expert: Expert| {
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let place = loaded.get_mut(usize::from(expert.0));
        if let Some(here) = place.as_ref().and_then(|place| place.upgrade()) {
            return Ok(here);
        }
        let config = parts.source.transformer_config(expert).clone();
        let network = WanTransformer::load_in(&parts.network(expert)?, config, &parts.options.residence()?)?;
        let network = Arc::new(network.over(parts.options.plane())?);
        place.into_iter().for_each(|place| *place = Arc::downgrade(&network));
        Ok(network)
    })
}

/// The encoders' outputs for one request, the same for every expert.
#[derive(Clone, Debug)]
pub struct WanPrompts {
    /// Text features `[batch, tokens, text_dim]`, padding rows zero.
    pub cond: Tensor,
    /// Features of the negative prompt, if any expert is guided.
    pub uncond: Option<Tensor>,
    /// Image features `[batch, tokens, image_dim]`, `2 * batch` for first and last frame, in models that
    /// attend to them.
    pub image: Option<Tensor>,
}

/// A network with the prompts prepared for it.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) network: Arc<WanTransformer>,
    pub(super) cond: TextContext,
    pub(super) uncond: Option<TextContext>,
}

/// The experts of a model and which of them are in memory.
pub(super) struct Experts {
    prompts: WanPrompts,
    load: Box<Load>,
    /// Whether an expert stays in memory when another one is needed.
    keep: bool,
    /// One entry per expert.
    ready: Mutex<Vec<Option<Arc<Ready>>>>,
    /// Counts of the experts that were dropped.
    before: Mutex<TextUses>,
}

impl std::fmt::Debug for Experts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Experts").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Experts {
    /// `count` experts, none of them loaded yet. `load` is called again for an expert that was dropped in the
    /// meantime.
    pub(super) fn new(count: usize, prompts: WanPrompts, keep: bool, load: Box<Load>) -> Self {
        Self { prompts, load, keep, ready: Mutex::new(vec![None; count]), before: Mutex::default() }
    }

    /// Networks that are already in memory and stay there.
    pub(super) fn loaded(networks: Vec<Arc<WanTransformer>>, prompts: WanPrompts) -> Result<Self> {
        let ready = networks.into_iter().map(|network| Ok(Some(Arc::new(prompts.prepare(network)?))));
        let ready = Mutex::new(ready.collect::<Result<_>>()?);
        let never = |_| Err(candle_core::Error::msg("an expert that stays was dropped").into());
        Ok(Self { prompts, load: Box::new(never), keep: true, ready, before: Mutex::default() })
    }

    /// The network of `expert`, loaded now if it is not in memory; the others are dropped first unless they
    /// are kept.
    pub(super) fn get(&self, expert: Expert) -> LoadResult<Arc<Ready>> {
        let index = usize::from(expert.0);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let experts = ready.len();
        let Some(place) = ready.get(index) else {
            let message = format!("a step of expert {index}, the model has {experts}");
            return Err(candle_core::Error::msg(message).into());
        };
        if let Some(here) = place {
            return Ok(Arc::clone(here));
        }
        if !self.keep {
            let dropped: TextUses = ready.iter_mut().filter_map(Option::take).map(|ready| ready.uses()).sum();
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) += dropped;
        }
        let network = (self.load)(expert)?;
        let new = Arc::new(self.prompts.prepare(network)?);
        ready[index] = Some(Arc::clone(&new));
        Ok(new)
    }
}

impl Experts {
    /// Counts of all experts together.
    pub(super) fn text_uses(&self) -> TextUses {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uses = *self.before.lock().unwrap_or_else(PoisonError::into_inner);
        uses += ready.iter().flatten().map(|ready| ready.uses()).sum();
        uses
    }
}

impl Ready {
    fn uses(&self) -> TextUses {
        std::iter::once(&self.cond).chain(&self.uncond).map(TextContext::uses).sum()
    }
}

impl WanPrompts {
    fn prepare(&self, network: Arc<WanTransformer>) -> Result<Ready> {
        let context = |text: &Tensor| match &self.image {
            None => network.text_context(text),
            Some(image) => network.image_text_context(text, image),
        };
        let (cond, uncond) = (context(&self.cond)?, self.uncond.as_ref().map(context).transpose()?);
        Ok(Ready { network, cond, uncond })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pipeline::LoadOptions, wan::tiny};

    #[test]
    fn an_expert_in_memory_is_shared_and_another_one_is_not() {
        let load = shared(Parts::open(tiny::wan22_t2v(), LoadOptions::default()).expect("opens"));
        let [high, again, low] = [0, 0, 1].map(|expert| load(Expert(expert)).expect("loads"));
        assert!(Arc::ptr_eq(&high, &again) && !Arc::ptr_eq(&high, &low));
        let gone = Arc::downgrade(&low);
        drop(low);
        assert!(gone.upgrade().is_none(), "nothing else keeps it in memory");
        assert!(load(Expert(1)).is_ok());
    }
}
