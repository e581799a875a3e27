//! Loads the network of a request and reports its progress.

use std::sync::Arc;

use anyhow::Result;
use magcache_models::pipeline::{Denoiser, Request, Stage};

use super::Job;

impl Job {
    /// Loads the network with the prompts of `request`; returns it with notes for the user. `now` is called
    /// with each stage.
    pub(crate) fn load(
        &self,
        request: &Request,
        now: &dyn Fn(&'static str),
    ) -> Result<(Arc<dyn Denoiser>, Vec<String>)> {
        let mut notes = Vec::new();
        let denoiser = self.pipeline.denoiser(request, &|stage| now(name(stage)), &mut notes)?;
        notes.extend(self.pipeline.unread());
        Ok((denoiser, notes))
    }
}

/// The progress label of a stage.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::EncodingPrompt => "encoding the prompt",
        Stage::EncodingImage => "encoding the image",
        Stage::LoadingTransformer => "loading the transformer",
        Stage::LoadingVae => "loading the autoencoder",
    }
}
