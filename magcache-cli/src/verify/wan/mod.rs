//! Wan's transformer.

mod generation;

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::{ModelMeta, Streams, inventory, meta};
use magcache_models::{
    checkpoint::Folder,
    nn::{Linear, Sinusoids},
    wan::{TextContext, WanConfig, WanRope, WanTransformer},
};

use super::{
    call::Call,
    case::{Case, Named},
    class::Class,
    setting::Setting,
    transformer::{Before, Forward, Network, Place, Shown, both_of_a_pair, calls, config},
};

inventory::submit! {
    Class {
        name: <WanTransformer as Network>::CLASS,
        calls: calls::<WanTransformer>,
        generation: Some(|case, sampling, _| generation::setup(case, sampling)),
    }
}

impl Network for WanTransformer {
    const CLASS: &'static str = "WanTransformer3DModel";
    const INPUTS: &'static [&'static str] =
        &["hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"];
    const BEFORE_BLOCKS: Before = Before {
        image: "patch_embedding.out",
        text: "",
        modulated_input: "blocks.0.modulated_input",
        timestep_projection: "timestep_proj",
    };

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        let config = config(folder, WanConfig::from_json)?;
        Ok(Self::load(&on.weights(folder)?, config)?)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(meta::model("wan2.1-t2v")?.clone().with_blocks(&[self.config().num_layers]))
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        let (latents, timestep) = (call.required("hidden_states")?, call.required("timestep")?);
        let context = context(self, call)?;
        Ok(Box::new(move |pass| self.forward(latents, timestep, &context, pass)))
    }

    fn names(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        let block = format!("blocks.{}", at.block);
        let Some(module) = at.module else { return Ok(vec![(format!("{block}.out"), y.image()?)]) };
        Ok(vec![(format!("{block}.{module}.in"), x.image()?), (format!("{block}.{module}.out"), y.image()?)])
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        let (config, latents) = (self.config(), call.required("hidden_states")?);
        let (batch, _, frames, height, width) = latents.dims5()?;
        let [patch_frames, patch_height, patch_width] = config.patch_size;
        let grid = [frames / patch_frames, height / patch_height, width / patch_width];
        let mut add = |name: &str, tensor: Tensor| seen.insert(name.to_owned(), tensor);

        let context = context(self, call)?;
        add("text_embedder.out", context.text().clone());
        if let Some(image) = context.image() {
            add("image_embedder.out", image.clone());
        }
        let rope = WanRope::new(config).table(grid, latents.device())?;
        for (name, half) in [("rope.cos", rope.cos()?), ("rope.sin", rope.sin()?)] {
            add(name, both_of_a_pair(&half)?.unsqueeze(0)?.unsqueeze(2)?);
        }
        let sinusoids = Sinusoids::new(config.freq_dim, latents.device())?;
        let timestep = call.required("timestep")?.to_dtype(latents.dtype())?;
        add("timesteps_proj.out", sinusoids.forward(&timestep)?);
        if let Some((_, key)) = call.traces().iter().find(|(module, _)| module == "blocks.0.ffn.in") {
            add("blocks.0.ffn.out", feed_forward(config, call.case, call.case.tensor(key)?)?);
        }
        // The reference keeps tokens in their spatial layout: `[batch, channels, frames, rows, columns]`.
        if let Some(tokens) = seen.get_mut(Self::BEFORE_BLOCKS.image) {
            let [frames, rows, columns] = grid;
            *tokens = tokens.transpose(1, 2)?.reshape((batch, (), frames, rows, columns))?;
        }
        Ok(())
    }
}

fn context(model: &WanTransformer, call: Call<'_>) -> Result<TextContext> {
    let text = call.required("encoder_hidden_states")?;
    Ok(match call.input("encoder_hidden_states_image")? {
        Some(image) => model.image_text_context(text, image)?,
        None => model.text_context(text)?,
    })
}

/// The first block's feed-forward network by itself, which is no module that hooks could surround.
fn feed_forward(config: &WanConfig, case: &Case, x: &Tensor) -> Result<Tensor> {
    let weights = case.weights()?;
    // The other tensors are read elsewhere.
    weights.spare(&[""]);
    let layers = weights.pp("blocks.0.ffn.net");
    let inner = Linear::load(&layers.pp("0.proj"), config.inner_dim(), config.ffn_dim, true)?;
    let outer = Linear::load(&layers.pp("2"), config.ffn_dim, config.inner_dim(), true)?;
    Ok(outer.forward(&inner.forward_gelu_tanh(x)?)?)
}
