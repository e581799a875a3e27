//! Encoders. T5 and UMT5: hidden states, what a Wan pipeline reads from them, and relative positions. CLIP's
//! two halves and Qwen3: what Wan 2.1 and FLUX pipelines read from them.

use anyhow::Result;
use candle_core::{D, Tensor};
use magcache_models::{
    clip::{ClipTextEncoder, ClipVisionEncoder},
    text::{Qwen3Config, Qwen3Encoder, RelativePositions, T5Config, T5Encoder, TextError, TokenizedPrompt},
};
use serde::Deserialize;

use super::{
    call::Call,
    case::{Case, Named},
    class,
    report::CaseReport,
    z_image,
};
use crate::console::bad_input;

const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const NO_OUTPUT: &str = "the encoder gives no such output";

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    match case.class()?.as_str() {
        "UMT5EncoderModel" | "T5EncoderModel" => t5(case, report),
        "CLIPTextModel" => clip(case, report),
        "CLIPVisionModel" | "CLIPVisionModelWithProjection" => clip_vision(case, report),
        "Qwen3ForCausalLM" | "Qwen3Model" => qwen3(case, report),
        _ => class::of(case, report)?.map_or(Ok(()), |class| (class.calls)(case, report)),
    }
}

fn clip(case: &Case, report: &mut CaseReport) -> Result<()> {
    let encoder = ClipTextEncoder::open(&case.folder, &case.on.device, case.on.dtype())?;
    case.compare_calls(report, |call, report| {
        let ids = ids(call)?;
        let output = encoder.forward(&ids).map_err(refused)?;
        let states = encoder.hidden_states(&ids).map_err(refused)?;
        call.compare(report, call.tolerance(), NO_OUTPUT, |name| {
            Ok(match name {
                "last_hidden_state" => Some(output.last_hidden_state.clone()),
                "pooler_output" => Some(output.pooler_output.clone()),
                _ => state(name, &states),
            })
        })
    })
}

fn clip_vision(case: &Case, report: &mut CaseReport) -> Result<()> {
    let encoder = ClipVisionEncoder::open(&case.folder, &case.on.device, case.on.dtype())?;
    let why = "Wan stops before the last block, which is not loaded";
    case.compare_calls(report, |call, report| {
        let pixels = call.required("pixel_values")?;
        let states = encoder.hidden_states(pixels)?;
        call.compare(report, call.tolerance(), why, |name| match name {
            "image_embeds" => Ok(Some(encoder.forward(pixels)?)),
            _ => Ok(state(name, &states)),
        })
    })
}

/// Arguments of a call to Qwen3.
#[derive(Deserialize)]
pub(super) struct Chosen {
    #[serde(default)]
    hidden_states_layers: Vec<usize>,
    /// Of conversations, whose rows are compared too.
    #[serde(default)]
    pub(super) prompts: Vec<String>,
    #[serde(default)]
    pub(super) templated: Vec<String>,
    #[serde(default)]
    pub(super) max_sequence_length: usize,
}

fn qwen3(case: &Case, report: &mut CaseReport) -> Result<()> {
    let config = Qwen3Config::read(&case.folder)?;
    let weights = case.weights()?;
    let every: Vec<usize> = (0..=config.num_hidden_layers).collect();
    let all = Qwen3Encoder::load(&weights, &config, &every)?;
    case.compare_calls(report, |call, report| {
        let (ids, mask) = (ids(call)?, call.rows(MASK)?);
        let states = all.hidden_states(&ids, mask.as_deref()).map_err(refused)?;
        let args: Chosen = call.args()?;
        let alone = if args.prompts.is_empty() {
            Vec::new()
        } else {
            z_image::prompts(call, &args, &weights, &config, &ids, report)?
        };
        call.compare(report, call.tolerance(), NO_OUTPUT, |name| {
            let place = name.strip_prefix("prompt_embeds.").and_then(|i| i.parse::<usize>().ok());
            if let Some(embeds) = place.and_then(|i| alone.get(i)) {
                return Ok(Some(embeds.clone()));
            }
            if name != "prompt_embeds" {
                return Ok(state(name, &states));
            }
            let Chosen { hidden_states_layers, .. } = &args;
            let encoder = Qwen3Encoder::load(&weights, &config, hidden_states_layers)?;
            Ok(Some(encoder.forward(&ids, mask.as_deref()).map_err(refused)?))
        })
    })
}

fn t5(case: &Case, report: &mut CaseReport) -> Result<()> {
    let config = T5Config::read(&case.folder)?;
    let encoder = T5Encoder::load(&case.weights()?, &config)?;
    case.compare_calls(report, |call, report| {
        let (ids, mask) = (ids(call)?, call.rows(MASK)?);
        let states = encoder.hidden_states(&ids, mask.as_deref()).map_err(refused)?;
        let prompts: Vec<_> = ids.iter().zip(mask.iter().flatten()).map(prompt).collect();
        call.compare(report, call.tolerance(), NO_OUTPUT, |name| {
            Ok(match name {
                "last_hidden_state" => Some(encoder.forward(&ids, mask.as_deref()).map_err(refused)?),
                "prompt_embeds" if mask.is_some() => Some(encoder.prompt_embeds(&prompts).map_err(refused)?),
                _ => state(name, &states),
            })
        })?;
        let Some(key) = call.outputs.get("prompt_embeds").filter(|_| mask.is_some()) else { return Ok(()) };
        // A short prompt alone is computed without its padding.
        let alone = prompts.chunks(1).map(|prompt| encoder.prompt_embeds(prompt).map_err(refused));
        let alone = Tensor::cat(&alone.collect::<Result<Vec<_>>>()?, 0)?;
        report.tensors(&call.name, "prompt_embeds one by one", &alone, case.tensor(key)?, call.tolerance())
    })?;
    positions(case, &encoder, report)
}

/// What a call of T5 gives: its last hidden states and, with a mask, what Wan reads.
pub(super) fn t5_outputs(encoder: &T5Encoder, call: Call<'_>) -> Result<Named> {
    let (ids, mask) = (ids(call)?, call.rows(MASK)?);
    let last = encoder.forward(&ids, mask.as_deref()).map_err(refused)?;
    let mut seen = Named::from([("last_hidden_state".to_owned(), last)]);
    if let Some(mask) = &mask {
        let prompts: Vec<_> = ids.iter().zip(mask).map(prompt).collect();
        seen.insert("prompt_embeds".to_owned(), encoder.prompt_embeds(&prompts).map_err(refused)?);
    }
    Ok(seen)
}

fn prompt((input_ids, attention_mask): (&Vec<u32>, &Vec<u32>)) -> TokenizedPrompt {
    TokenizedPrompt {
        input_ids: input_ids.clone(),
        attention_mask: attention_mask.clone(),
        len: attention_mask.iter().filter(|token| **token != 0).count(),
        truncated: 0,
    }
}

fn ids(call: Call<'_>) -> Result<Vec<Vec<u32>>> {
    call.required(IDS)?;
    Ok(call.rows(IDS)?.unwrap_or_default())
}

/// The state `k` for the output `hidden_states.k`.
fn state(output: &str, states: &[Tensor]) -> Option<Tensor> {
    let k: usize = output.strip_prefix("hidden_states.")?.parse().ok()?;
    states.get(k).cloned()
}

/// Wraps an error about recorded ids or masks that do not fit the encoder.
fn refused(error: TextError) -> anyhow::Error {
    bad_input(error.to_string())
}

/// `buckets` `[length, length]` and `bias.N` `[1, heads, length, length]`, which belong to no call.
fn positions(case: &Case, encoder: &T5Encoder, report: &mut CaseReport) -> Result<()> {
    const NAME: &str = "positions";
    if case.has("buckets") {
        let want = case.tensor("buckets")?;
        let (queries, keys) = want.dims2()?;
        let positions = RelativePositions::new(encoder.config());
        let tokens = |n: usize| 0..i64::try_from(n).unwrap_or(i64::MAX);
        let rows = tokens(queries)
            .flat_map(|query| tokens(keys).map(move |key| i64::from(positions.bucket(key - query))));
        let got = Tensor::from_iter(rows, want.device())?.reshape((queries, keys))?;
        report.tensors(NAME, "buckets", &got, want, 0.0)?;
    }
    for layer in 0..encoder.config().num_layers {
        let key = format!("bias.{layer}");
        if !case.has(&key) {
            continue;
        }
        let want = case.tensor(&key)?;
        match encoder.position_bias(layer, want.dim(D::Minus1)?)? {
            Some(got) => report.tensors(NAME, &key, &got, want, 0.0)?,
            None => report.leave_out(key, "the layer has no table of its own"),
        }
    }
    Ok(())
}
