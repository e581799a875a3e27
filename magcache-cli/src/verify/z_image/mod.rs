//! Z-Image: its transformer, whose inputs are lists of images and captions, which are run one by one, and its
//! prompts.

mod generation;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{ModelMeta, Pass, Streams, inventory};
use magcache_models::{
    checkpoint::{Folder, Weights},
    sampler::Request,
    text::{Qwen3Config, Qwen3Thinking, Qwen3Tokenizer, TokenizedPrompt, qwen3_chat},
    z_image::{ZImageConfig, ZImagePrompt, ZImageTextEncoder, ZImageTime, ZImageTransformer},
};

use super::{
    call::Call,
    case::{Case, Named},
    class::Class,
    replay::Grid,
    report::CaseReport,
    setting::Setting,
    text_encoder::Chosen,
    transformer::{Before, Forward, Network, Place, Shown, config, inside},
};
use crate::console::bad_input;

inventory::submit! {
    Class {
        name: <ZImageTransformer as Network>::CLASS,
        calls: check,
        generation: Some(|case, sampling, _| generation::setup(case, sampling)),
    }
}

inventory::submit! {
    Grid {
        cases: "flow_euler_z_image",
        request: |config, steps, tokens| Request::linear_f32(config, steps, config.mu(tokens)),
    }
}

/// The first item of a call is what traces were recorded of.
const FIRST: usize = 0;

fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let model = <ZImageTransformer as Network>::load(&case.folder, &case.on)?;
    case.compare_calls(report, |call, report| {
        let items = (0..call.inputs.len()).take_while(|i| call.inputs.contains_key(&image(*i))).count();
        let known: Vec<String> = (0..items).flat_map(|i| [image(i), caption(i)]).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).chain(["t"]).collect();
        if call.is_unknown(report, &known, ZImageTransformer::CLASS) {
            return Ok(());
        }
        let samples = (0..items).map(|i| Ok(item(&model, call, i)?(&mut Pass::off())?));
        let samples: Vec<Tensor> = samples.collect::<Result<_>>()?;
        call.compare(report, call.tolerance(), "the network gives no such output", |output| {
            let item = output.strip_prefix("sample.").and_then(|i| i.parse::<usize>().ok());
            Ok(item.and_then(|i| samples.get(i).cloned()))
        })?;
        if call.traces().is_empty() {
            return Ok(());
        }
        let seen = inside(&model, call, &item(&model, call, FIRST)?)?;
        call.compare_inside(report, call.tolerance(), &seen)
    })
}

fn image(i: usize) -> String {
    format!("x.{i}")
}

fn caption(i: usize) -> String {
    format!("cap_feats.{i}")
}

/// Latents, timestep and prompt of an item.
fn inputs(model: &ZImageTransformer, call: Call<'_>, i: usize) -> Result<(Tensor, ZImageTime, ZImagePrompt)> {
    // Channels and one frame of rows and columns.
    let latents = call.required(&image(i))?.squeeze(1)?.unsqueeze(0)?;
    let (_, _, height, width) = latents.dims4()?;
    let t = call.required("t")?.to_dtype(DType::F32)?.get(i)?.to_scalar::<f32>()?;
    let prompt = model.prompt(&call.required(&caption(i))?.unsqueeze(0)?, [height / 2, width / 2])?;
    Ok((latents, model.time(t)?, prompt))
}

fn item<'a>(model: &'a ZImageTransformer, call: Call<'a>, i: usize) -> Result<Forward<'a>> {
    let (latents, time, prompt) = inputs(model, call, i)?;
    Ok(Box::new(move |pass| model.forward(&latents, &time, &prompt, pass)?.squeeze(0)?.unsqueeze(1)))
}

/// The prompts of a call as the pipeline reads them: their rows of ids, and the embeddings of each.
pub(super) fn prompts(
    call: Call<'_>,
    args: &Chosen,
    weights: &Weights,
    config: &Qwen3Config,
    ids: &[Vec<u32>],
    report: &mut CaseReport,
) -> Result<Vec<Tensor>> {
    let tokenizer = Qwen3Tokenizer::open(&call.case.folder.sub("tokenizer"), Qwen3Thinking::Free)?;
    let tokenizer = tokenizer.with_max_length(args.max_sequence_length)?;
    let encoder = ZImageTextEncoder::load(tokenizer, weights, config)?;
    let texts: Vec<String> =
        args.prompts.iter().map(|prompt| qwen3_chat(prompt, Qwen3Thinking::Free)).collect();
    report.equal(&call.name, "conversations", &texts, &args.templated);
    let tokens: Vec<TokenizedPrompt> =
        args.prompts.iter().map(|prompt| Ok(encoder.tokenize(prompt)?)).collect::<Result<_>>()?;
    let rows: Vec<&[u32]> = tokens.iter().map(|tokens| tokens.input_ids.as_slice()).collect();
    report.equal(&call.name, "tokens", &rows, &ids.iter().map(Vec::as_slice).collect());
    let embeds = |tokens: &TokenizedPrompt| {
        let embeds = encoder.encode_tokens(tokens).map_err(|error| bad_input(error.to_string()))?;
        Ok(embeds.squeeze(0)?)
    };
    tokens.iter().map(embeds).collect()
}

impl Network for ZImageTransformer {
    const CLASS: &'static str = "ZImageTransformer2DModel";
    const INPUTS: &'static [&'static str] = &[];
    const BEFORE_BLOCKS: Before = Before {
        image: "layers.0.in",
        text: "",
        modulated_input: "layers.0.modulated_input",
        timestep_projection: "layers.0.adaLN_modulation.out",
    };

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        let config = config(folder, ZImageConfig::from_json)?;
        Ok(Self::load(&on.weights(folder)?, config)?)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(self.meta().clone())
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        item(self, call, FIRST)
    }

    fn names(at: Place<'_>, _: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        let module = at.module.map(|module| format!(".{module}")).unwrap_or_default();
        Ok(vec![(format!("layers.{}{module}.out", at.block), y.image()?)])
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        let (latents, time, prompt) = inputs(self, call, FIRST)?;
        let outside = self.outside(&latents, &time, &prompt)?;
        seen.extend(outside.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)));
        // Their last blocks are what is seen of the refiners.
        let last = self.config().n_refiner_layers.saturating_sub(1);
        for refiner in ["noise_refiner", "context_refiner"] {
            if let Some(out) = seen.remove(&format!("{refiner}.out")) {
                seen.insert(format!("{refiner}.{last}.out"), out);
            }
        }
        Ok(())
    }
}
