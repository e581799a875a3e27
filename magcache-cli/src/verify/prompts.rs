//! Prompts as the pipelines embed them.

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_models::{
    checkpoint::{Folder, WeightDtype},
    flux::{Flux2TextEncoder, FluxTextEncoder},
    wan::WanTextEncoder,
};
use serde::Deserialize;

use super::{assemble::assemble, case::Case, report::CaseReport};

#[derive(Deserialize)]
struct Args {
    prompts: Vec<String>,
    /// What T5 reads instead, in FLUX.1.
    prompt_2: Option<String>,
    /// Rows of T5's embeddings, in FLUX.1.
    max_sequence_length: Option<usize>,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let whole = assemble(case)?;
    let folder = Folder::open(whole.path())?.computing_with(case.folder.ops());
    case.compare_calls(report, |call, report| {
        let Args { prompts, prompt_2, max_sequence_length } = call.args()?;
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let embed = |prompts: &[&str]| embed(&folder, prompts, prompt_2.as_deref(), max_sequence_length);
        let (embeds, pooled) = embed(&prompts)?;
        call.compare(report, call.tolerance(), "the encoders give no such output", |output| {
            Ok(match output {
                "prompt_embeds" => Some(embeds.clone()),
                "pooled_prompt_embeds" => pooled.clone(),
                _ => None,
            })
        })?;
        if let (Some(key), 2..) = (call.outputs.get("prompt_embeds"), prompts.len()) {
            let alone: Vec<Tensor> = prompts.chunks(1).map(|one| Ok(embed(one)?.0)).collect::<Result<_>>()?;
            let (alone, want) = (Tensor::cat(&alone, 0)?, case.tensor(key)?);
            report.tensors(&call.name, "prompt_embeds one by one", &alone, want, call.tolerance())?;
        }
        Ok(())
    })
}

/// Embeddings `[prompts, tokens, channels]` and, in FLUX.1, pooled ones `[prompts, channels]`.
///
/// `prompt_2` and `rows`: see [`Args`]; only FLUX.1 has them.
pub(super) fn embed(
    model: &Folder,
    prompts: &[&str],
    prompt_2: Option<&str>,
    rows: Option<usize>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (device, dtype) = (&Device::Cpu, WeightDtype::Auto);
    if model.sub("text_encoder_2").exists("config.json") {
        let mut encoder = FluxTextEncoder::load(model, device, dtype)?;
        if let Some(rows) = rows {
            encoder = encoder.with_max_sequence_length(rows)?;
        }
        let tokens = prompts.iter().map(|prompt| encoder.tokenize(prompt, prompt_2));
        let got = encoder.encode_tokens(&tokens.collect::<Result<Vec<_>, _>>()?)?;
        return Ok((got.prompt_embeds, Some(got.pooled_prompt_embeds)));
    }
    let config: serde_json::Value = model.sub("text_encoder").read_json("config.json")?;
    if config["model_type"] == "umt5" {
        return Ok((WanTextEncoder::load(model, device, dtype)?.encode(prompts)?, None));
    }
    let encoder = Flux2TextEncoder::load(model, device, dtype)?;
    let tokens = prompts.iter().map(|prompt| encoder.tokenize(prompt));
    Ok((encoder.encode_tokens(&tokens.collect::<Result<Vec<_>, _>>()?)?, None))
}
