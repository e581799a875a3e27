//! T5 and UMT5 encoders: hidden states, what a Wan pipeline reads from them, and relative positions. CLIP and
//! Qwen3: what FLUX pipelines read from them.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_models::{
    checkpoint::{WeightDtype, Weights},
    clip::ClipTextEncoder,
    text::{Qwen3Config, Qwen3Encoder, RelativePositions, T5Config, T5Encoder, TextError, TokenizedPrompt},
};
use serde::Deserialize;

use super::{
    case::{Call, Case},
    report::CaseReport,
};
use crate::console::bad_input;

const IDS: &str = "input_ids";

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let report = CaseReport::new(case.label());
    match case.class()?.as_str() {
        "UMT5EncoderModel" | "T5EncoderModel" => t5(case, report),
        "CLIPTextModel" => clip(case, report),
        "Qwen3ForCausalLM" | "Qwen3Model" => qwen3(case, report),
        class => Ok(report.skip(format!("this build has no {class}"))),
    }
}

fn t5(case: &Case, mut report: CaseReport) -> Result<CaseReport> {
    let config = T5Config::read(&case.folder)?;
    let encoder = T5Encoder::load(&Weights::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?, &config)?;
    for call in case.calls() {
        one(case, &encoder, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    positions(case, &encoder, &mut report)?;
    report.finish()
}

fn clip(case: &Case, mut report: CaseReport) -> Result<CaseReport> {
    let encoder = ClipTextEncoder::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?;
    for call in case.calls() {
        let ids = ids(case, call)?;
        let output = encoder.forward(&ids).map_err(refused)?;
        let states = encoder.hidden_states(&ids).map_err(refused)?;
        for (name, key) in &call.outputs {
            let got = match name.as_str() {
                "last_hidden_state" => Some(&output.last_hidden_state),
                "pooler_output" => Some(&output.pooler_output),
                _ => state(name).and_then(|k| states.get(k)),
            };
            compare(case, call, (name, key), got, &mut report)?;
        }
    }
    report.finish()
}

/// Arguments of a call to Qwen3.
#[derive(Deserialize)]
struct Chosen {
    #[serde(default)]
    hidden_states_layers: Vec<usize>,
}

fn qwen3(case: &Case, mut report: CaseReport) -> Result<CaseReport> {
    let config = Qwen3Config::read(&case.folder)?;
    let weights = Weights::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?;
    let every: Vec<usize> = (0..=config.num_hidden_layers).collect();
    let all = Qwen3Encoder::load(&weights, &config, &every)?;
    for call in case.calls() {
        let ids = ids(case, call)?;
        let mask = call.inputs.get("attention_mask").map(|key| case.rows(key)).transpose()?;
        let states = all.hidden_states(&ids, mask.as_deref()).map_err(refused)?;
        for (name, key) in &call.outputs {
            let got = match name.as_str() {
                "prompt_embeds" => {
                    let Chosen { hidden_states_layers } = Chosen::deserialize(&call.args)
                        .map_err(|e| bad_input(format!("call {:?}: {e}", call.name)))?;
                    let encoder = Qwen3Encoder::load(&weights, &config, &hidden_states_layers)?;
                    Some(encoder.forward(&ids, mask.as_deref()).map_err(refused)?)
                }
                _ => state(name).and_then(|k| states.get(k)).cloned(),
            };
            compare(case, call, (name, key), got.as_ref(), &mut report)?;
        }
    }
    report.finish()
}

fn ids(case: &Case, call: &Call) -> Result<Vec<Vec<u32>>> {
    case.required(call, IDS)?;
    Ok(call.inputs.get(IDS).map(|key| case.rows(key)).transpose()?.unwrap_or_default())
}

/// The `k` in `hidden_states.k`.
fn state(output: &str) -> Option<usize> {
    output.strip_prefix("hidden_states.")?.parse().ok()
}

fn compare(
    case: &Case,
    call: &Call,
    (output, key): (&str, &str),
    got: Option<&Tensor>,
    report: &mut CaseReport,
) -> Result<()> {
    match got {
        Some(got) => report.tensors(&call.name, output, got, case.tensor(key)?, call.tolerance()),
        None => {
            report.leave_out(key, "the encoder gives no such output");
            Ok(())
        }
    }
}

fn one(case: &Case, encoder: &T5Encoder, call: &Call, report: &mut CaseReport) -> Result<()> {
    let ids = ids(case, call)?;
    let mask = call.inputs.get("attention_mask").map(|key| case.rows(key)).transpose()?;
    let states = encoder.hidden_states(&ids, mask.as_deref()).map_err(refused)?;
    for (output, key) in &call.outputs {
        let got = match output.as_str() {
            "last_hidden_state" => Some(encoder.forward(&ids, mask.as_deref()).map_err(refused)?),
            "prompt_embeds" => mask.as_ref().map(|mask| prompt_embeds(encoder, &ids, mask)).transpose()?,
            _ => state(output).and_then(|k| states.get(k)).cloned(),
        };
        compare(case, call, (output, key), got.as_ref(), report)?;
    }
    Ok(())
}

fn prompt_embeds(encoder: &T5Encoder, ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Result<Tensor> {
    let prompt = |(input_ids, attention_mask): (&Vec<u32>, &Vec<u32>)| TokenizedPrompt {
        input_ids: input_ids.clone(),
        attention_mask: attention_mask.clone(),
        len: attention_mask.iter().filter(|token| **token != 0).count(),
        truncated: 0,
    };
    let prompts: Vec<_> = ids.iter().zip(mask).map(prompt).collect();
    encoder.prompt_embeds(&prompts).map_err(refused)
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
        match encoder.position_bias(layer, want.dim(candle_core::D::Minus1)?)? {
            Some(got) => report.tensors(NAME, &key, &got, want, 0.0)?,
            None => report.leave_out(key, "the layer has no table of its own"),
        }
    }
    Ok(())
}
