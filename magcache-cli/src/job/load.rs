//! The network of a request, and what is said while it is made ready.

use std::sync::Arc;

use anyhow::Result;
use magcache_models::pipeline::{Denoiser, Request, Stage};

use super::Job;

impl Job {
    /// The network with the prompts of `request`, and what the user should know of it. `now` is told what is being done.
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

/// What a stage is called in progress.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::EncodingPrompt => "encoding the prompt",
        Stage::EncodingImage => "encoding the image",
        Stage::LoadingTransformer => "loading the transformer",
        Stage::LoadingVae => "loading the autoencoder",
    }
}
