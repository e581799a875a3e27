//! T5 and UMT5 encoders: hidden states, what a Wan pipeline reads of them, and relative positions.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_models::{
    checkpoint::{WeightDtype, Weights},
    text::{RelativePositions, T5Config, T5Encoder, TextError, TokenizedPrompt},
};

use super::{
    case::{Call, Case},
    report::CaseReport,
};
use crate::failure::bad_input;

const CLASSES: [&str; 2] = ["UMT5EncoderModel", "T5EncoderModel"];

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let class = case.class()?;
    if !CLASSES.contains(&class.as_str()) {
        return Ok(report.skip(format!("this build has no {class}")));
    }
    let config = T5Config::read(&case.folder)?;
    let encoder = T5Encoder::load(&Weights::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?, &config)?;
    for call in case.calls() {
        one(case, &encoder, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    positions(case, &encoder, &mut report)?;
    report.finish()
}

fn one(case: &Case, encoder: &T5Encoder, call: &Call, report: &mut CaseReport) -> Result<()> {
    case.required(call, "input_ids")?;
    let rows = |name: &str| call.inputs.get(name).map(|key| case.rows(key)).transpose();
    let (ids, mask) = (rows("input_ids")?.unwrap_or_default(), rows("attention_mask")?);
    let states = encoder.hidden_states(&ids, mask.as_deref()).map_err(refused)?;
    for (output, key) in &call.outputs {
        let state = output.strip_prefix("hidden_states.").and_then(|k| k.parse::<usize>().ok());
        let got = match (output.as_str(), state) {
            (_, Some(k)) => states.get(k).cloned(),
            ("last_hidden_state", _) => Some(encoder.forward(&ids, mask.as_deref()).map_err(refused)?),
            ("prompt_embeds", _) => {
                mask.as_ref().map(|mask| prompt_embeds(encoder, &ids, mask)).transpose()?
            }
            _ => None,
        };
        match got {
            Some(got) => report.tensors(&call.name, output, &got, case.tensor(key)?, call.tolerance())?,
            None => report.leave_out(key, "the encoder gives no such output"),
        }
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

/// The recorded ids or masks do not fit the encoder.
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
