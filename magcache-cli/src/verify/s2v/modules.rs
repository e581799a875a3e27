//! The parts of the transformer that read sound and motion, one by one.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_models::{
    checkpoint::{WeightDtype, Weights},
    wan::{
        WanConfig, WanRope,
        s2v::{AudioInjector, AudioTokens, CausalAudioEncoder, FramePacker, motion_positions},
    },
};
use serde::Deserialize;

use crate::{
    console::bad_input,
    verify::{call::Call, case::Case, report::CaseReport},
};

/// How much cosines and sines may differ that are stored in f32.
const ANGLES: f64 = 1e-6;

#[derive(Deserialize)]
struct Variants {
    files: BTreeMap<String, Variant>,
}

#[derive(Deserialize)]
struct Variant {
    constructor: Sizes,
}

#[derive(Clone, Deserialize)]
struct Sizes {
    audio_dim: usize,
    num_audio_token: usize,
    enable_adain: bool,
    adain_mode: String,
    dim: usize,
    num_heads: usize,
}

/// Where an injection is recorded.
#[derive(Clone, Deserialize)]
struct Injection {
    frames: usize,
    tokens_per_frame: usize,
    audio_frames: (usize, usize),
    injector: usize,
}

/// The causal audio encoder and the injectors, in the variants that the official code has.
pub(super) fn audio(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Variants { files } = case.read()?;
    let (features, hidden) =
        (of_first(case, "encode_random", "audio_input")?, of_first(case, "inject_0", "hidden_states")?);
    for (name, Variant { constructor: sizes }) in files {
        let folder = case.folder.sub(&name);
        let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep)?;
        // The rest of the network is not in the case's calls.
        weights.spare(&[""]);
        let load = || {
            let encoder = weights.pp("casual_audio_encoder");
            let Sizes { audio_dim, num_audio_token, enable_adain, dim, .. } = sizes;
            CausalAudioEncoder::load(&encoder, audio_dim, num_audio_token, dim, enable_adain)
        };
        let encoder = load().with_context(|| format!("variant {name:?}"))?;
        let heard = encoder.forward(features)?;
        let calls = case.calls().filter(|call| call.name.starts_with(&format!("{name}.")));
        for call in calls {
            let kind = call.name[name.len() + 1..].to_owned();
            if kind.starts_with("encode") {
                let audio =
                    if kind.ends_with("zero") { encoder.forward(&(features * 0.0)?)? } else { heard.clone() };
                encoded(call, &audio, report)?;
            } else {
                injected(case, call, &weights, &sizes, &heard, hidden, report)?;
            }
        }
    }
    Ok(())
}

/// The tensor of the first call with such a name that has one.
fn of_first<'a>(case: &'a Case, call: &str, input: &str) -> Result<&'a Tensor> {
    let mut calls = case.calls().filter(|c| c.name.ends_with(call));
    let found = calls.find_map(|c| c.input(input).transpose());
    found.ok_or_else(|| bad_input(format!("{}: no call {call} has `{input}`", case.place)))?
}

fn encoded(call: Call<'_>, audio: &AudioTokens, report: &mut CaseReport) -> Result<()> {
    call.compare(report, call.tolerance(), "the encoder gives no such output", |output| {
        Ok(match (output, &audio.global) {
            ("audio_emb", _) => Some(audio.local.unsqueeze(0)?),
            ("audio_emb_global", Some(global)) => Some(global.unsqueeze(0)?.unsqueeze(2)?),
            _ => None,
        })
    })
}

fn injected(
    case: &Case,
    call: Call<'_>,
    weights: &Weights,
    sizes: &Sizes,
    heard: &AudioTokens,
    hidden: &Tensor,
    report: &mut CaseReport,
) -> Result<()> {
    // The small ones repeat a call with hidden states of almost no variance, where an epsilon shows.
    let (whole, scale) = match call.name.strip_suffix("_small") {
        Some(name) => (case.calls().find(|c| c.name == name).unwrap_or(call), 0.004),
        None => (call, 1.0),
    };
    let Injection { frames, tokens_per_frame, audio_frames: (first, end), injector } = whole.args()?;
    let adain = sizes.enable_adain && sizes.adain_mode == "attn_norm";
    let layer =
        AudioInjector::load(&weights.pp("audio_injector"), injector, sizes.dim, sizes.num_heads, adain)?;
    let rows = |x: &Tensor| x.narrow(0, first, end.saturating_sub(first));
    let audio =
        AudioTokens { local: rows(&heard.local)?, global: heard.global.as_ref().map(rows).transpose()? };
    let hidden = (hidden * scale)?;
    let video = frames * tokens_per_frame;
    let (_, tokens, inner) = hidden.dims3()?;
    let by_frame = hidden.narrow(1, 0, video)?.reshape((frames, tokens_per_frame, inner))?;
    let attended = layer.forward(&by_frame, &layer.hear(&audio)?)?.reshape((1, video, inner))?;
    let result = Tensor::cat(&[&attended, &hidden.narrow(1, video, tokens - video)?], 1)?;
    call.compare(report, call.tolerance(), "an injector gives no such output", |output| {
        Ok((output == "output").then(|| result.clone()))
    })
}

#[derive(Deserialize)]
struct Motion {
    coarse_positions: Vec<Coarse>,
}

#[derive(Deserialize)]
struct Coarse {
    tokens: usize,
    #[serde(rename = "2x")]
    half: Vec<i32>,
    #[serde(rename = "4x")]
    quarter: Vec<i32>,
}

#[derive(Deserialize)]
struct Packing {
    latents: usize,
    add_last_motion: usize,
    drop_mode: String,
}

#[derive(Deserialize)]
struct Table {
    latent_height: usize,
    latent_width: usize,
    head_dim: usize,
}

/// The tokens of the past, and the positions of them all.
pub(super) fn motion(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Motion { coarse_positions } = case.read()?;
    let weights = Weights::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?;
    let [inner, channels, ..] = weights.axes::<5>("frame_packer.proj.weight")?;
    let packer = FramePacker::load(&weights.pp("frame_packer"), channels, inner)?;
    let all = of_first(case, "t19", "motion_latents")?.unsqueeze(0)?;
    case.compare_calls(report, |call, report| {
        if call.name.starts_with("motioner") {
            report.leave_out(&call.name, "no weights of this part were published");
            return Ok(());
        }
        if call.name.starts_with("rope") {
            return angles(call, report);
        }
        let Packing { latents, add_last_motion, drop_mode } = call.args()?;
        packed(call, &packer, &all, (latents, add_last_motion, &drop_mode), report)
    })?;
    for Coarse { tokens, half, quarter } in coarse_positions {
        let positions = motion_positions([tokens, 4]);
        let rows = |time: i32| {
            let mut rows: Vec<i32> =
                positions.iter().filter(|[t, ..]| *t == time).map(|[_, row, _]| *row).collect();
            rows.dedup();
            rows
        };
        report.equal("positions", &format!("of {tokens} tokens"), &(rows(-3), rows(-19)), &(half, quarter));
    }
    Ok(())
}

/// The published pipeline always shows the last latents. Without them, their place is empty ("padd") or has
/// no tokens ("drop"): what the packer makes of the others does not change.
fn packed(
    call: Call<'_>,
    packer: &FramePacker,
    all: &Tensor,
    (latents, last, mode): (usize, usize, &str),
    report: &mut CaseReport,
) -> Result<()> {
    let first = all.dim(2)?.saturating_sub(latents);
    let mut motion = all.narrow(2, first, latents)?;
    if mode == "padd" {
        let hidden = [3, 1, 0].get(last).copied().unwrap_or_default().min(latents);
        let kept = motion.narrow(2, 0, latents - hidden)?;
        let empty = motion.narrow(2, latents - hidden, hidden)?.zeros_like()?;
        motion = Tensor::cat(&[kept, empty], 2)?;
    }
    let tokens = packer.forward(&motion)?;
    let (_, count, _) = tokens.dims3()?;
    let (_, _, _, height, width) = motion.dims5()?;
    let (newest, before) = (height * width / 4, height * width / 16);
    let dropped = match (mode, last) {
        ("drop", 1) => newest,
        ("drop", 0) => newest + before,
        _ => 0,
    };
    let tokens = tokens.narrow(1, dropped, count - dropped)?;
    call.compare(report, call.tolerance(), "the packer gives no such output", |output| {
        Ok((output == "tokens").then(|| tokens.clone()))
    })
}

fn angles(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let Table { latent_height, latent_width, head_dim } = call.args()?;
    let config = WanConfig { attention_head_dim: head_dim, ..WanConfig::default() };
    let positions = motion_positions([latent_height / 2, latent_width / 2]);
    let table = WanRope::new(&config).table_at(positions.into_iter(), &Device::Cpu)?;
    call.compare(report, ANGLES, "the table has no such part", |output| {
        Ok(match output {
            "cos" => Some(table.cos()?),
            "sin" => Some(table.sin()?),
            _ => None,
        })
    })
}
