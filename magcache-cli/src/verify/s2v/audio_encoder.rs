//! wav2vec 2.0, its features at the video's rate, and the windows of the clips.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, IndexOp, Tensor};
use magcache_audio::{Recording, resample};
use magcache_models::{
    checkpoint::WeightDtype,
    wan::s2v::{AudioEmbedding, AudioWindows, FPS, feature_frames, features},
    wav2vec2::{SAMPLE_RATE, Wav2Vec2Encoder, Wav2Vec2Processor, WaveformError},
};
use serde::Deserialize;

use crate::{
    console::bad_input,
    verify::{
        call::Call,
        case::{Case, Named},
        report::CaseReport,
    },
};

/// How much normalised samples may differ: numpy adds up in f32.
const NORMALISED: f64 = 1e-6;

/// How much resampled samples may differ, and the first two of them.
const RESAMPLED: f64 = 1e-4;
const RESAMPLED_START: f64 = 2e-3;

const NO_NEIGHBOURS: &str = "frames with their neighbours, which no pipeline asks for";

#[derive(Deserialize)]
struct Tables {
    bucket_table: Vec<Bucket>,
    length_table: Vec<Length>,
    frames_where_float_truncation_loses_one: Truncated,
}

#[derive(Deserialize)]
struct Bucket {
    audio_frames: usize,
    fps: usize,
    batch_frames: usize,
    m: usize,
    num_repeat: usize,
    indices: serde_json::Value,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Length {
    samples: usize,
    wav2vec2_frames: usize,
    frames_30: usize,
}

#[derive(Deserialize)]
struct Truncated {
    #[serde(rename = "T")]
    first: Vec<usize>,
    count_up_to_30000: usize,
}

/// Arguments of a call with a file.
#[derive(Deserialize)]
struct Speech {
    file: String,
    rate: usize,
    channels: usize,
    num_repeat: usize,
    batch_frames: usize,
}

/// Arguments of a call that changes the rate.
#[derive(Deserialize)]
struct Rate {
    rate: u32,
}

struct Parts {
    encoder: Wav2Vec2Encoder,
    processor: Wav2Vec2Processor,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let parts = Parts {
        encoder: Wav2Vec2Encoder::open(&case.folder, &Device::Cpu, WeightDtype::Keep)?,
        processor: Wav2Vec2Processor::read(&case.folder)?,
    };
    case.compare_calls(report, |call, report| {
        if call.inputs.contains_key("input_values") {
            states(&parts.encoder, call, report)
        } else if call.args.contains_key("file") {
            file(&parts, call, report)
        } else if call.inputs.contains_key("waveform") {
            rate(call, report)
        } else {
            report.leave_out(&call.name, NO_NEIGHBOURS);
            Ok(())
        }
    })?;
    tables(case, &parts.encoder, report)
}

fn refused(error: WaveformError) -> anyhow::Error {
    bad_input(error.to_string())
}

/// Every hidden state, and what is computed on the way.
fn states(encoder: &Wav2Vec2Encoder, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let mut seen = Named::new();
    let mut inside = |module: &str, x: &Tensor| seen.insert(module.to_owned(), x.clone());
    let states = encoder
        .observed(call.required("input_values")?, |module, x| drop(inside(module, x)))
        .map_err(refused)?;
    call.compare(report, call.tolerance(), "the encoder gives no such output", |output| {
        let index = output.strip_prefix("hidden_states.").and_then(|i| i.parse::<usize>().ok());
        Ok(index.and_then(|index| states.get(index).cloned()))
    })?;
    if let Some(last) = seen.remove("unnormed") {
        seen.insert(format!("hidden_states.{}.unnormed", states.len() - 1), last);
    }
    // The reference has the channels of a convolution first.
    for (module, x) in &mut seen {
        if module.starts_with("conv_layers.") {
            *x = x.transpose(1, 2)?;
        }
    }
    call.compare_inside(report, call.tolerance(), &seen)
}

/// A recording, from the file to the windows of its clips.
fn file(parts: &Parts, call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let (args, case, tolerance): (Speech, _, _) = (call.args()?, call.case, call.tolerance());
    let stored = Recording::read(&case.path().join(&args.file), None)?;
    report.equal(
        &call.name,
        "rate and channels",
        &(stored.rate as usize, stored.channels),
        &(args.rate, args.channels),
    );
    let want = |output: &str| call.outputs.get(output).map(|key| case.tensor(key)).transpose();
    let heard = stored.mono_at(SAMPLE_RATE as u32);
    let waveform = match want("waveform")? {
        // Features magnify what resampling changes: they are compared on the recorded samples.
        Some(recorded) => {
            resampled(call, "waveform", &heard, recorded, report)?;
            recorded.to_vec1()?
        }
        None => heard,
    };
    let input_values = parts.processor.input_values(&waveform, &Device::Cpu).map_err(refused)?;
    if let Some(head) = want("input_values_head")? {
        let own = input_values.i((0, ..head.dim(0)?))?;
        report.tensors(&call.name, "input_values_head", &own, head, NORMALISED)?;
    }
    let states = parts.encoder.hidden_states(&input_values).map_err(refused)?;
    let own = Tensor::stack(&states.iter().map(features).collect::<Result<Vec<_>, _>>()?, 0)?;
    if let Some(recorded) = want("features")? {
        report.tensors(&call.name, "features", &own, recorded, tolerance)?;
    }
    let whole = embedding(parts, &waveform, args.batch_frames)?;
    report.equal(&call.name, "clips", &whole.clips(), &args.num_repeat);
    let Some(recorded) = want("audio_emb")? else { return Ok(()) };
    report.tensors(&call.name, "audio_emb", whole.values(), recorded, tolerance)?;
    if let Some(features) = want("features")? {
        let windows = AudioWindows::new(features.dim(1)?, FPS, args.batch_frames);
        let layers = (0..features.dim(0)?).map(|layer| windows.gather(&features.get(layer)?)?.t());
        let gathered = Tensor::stack(&layers.collect::<Result<Vec<_>, _>>()?, 0)?.unsqueeze(0)?;
        report.tensors(&call.name, "audio_emb of the features", &gathered, recorded, 0.0)?;
    }
    Ok(())
}

fn embedding(parts: &Parts, waveform: &[f32], infer_frames: usize) -> Result<AudioEmbedding> {
    AudioEmbedding::encode(&parts.processor, &parts.encoder, waveform, infer_frames, None).map_err(refused)
}

/// Another rate alone.
fn rate(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    const OUTPUT: &str = "waveform_16k";
    let Rate { rate } = call.args()?;
    let own = resample(&call.required("waveform")?.to_vec1::<f32>()?, rate, SAMPLE_RATE as u32);
    match call.outputs.get(OUTPUT) {
        Some(key) => resampled(call, OUTPUT, &own, call.case.tensor(key)?, report),
        None => Ok(()),
    }
}

/// Compares samples, the first two apart.
fn resampled(
    call: Call<'_>,
    output: &str,
    own: &[f32],
    recorded: &Tensor,
    report: &mut CaseReport,
) -> Result<()> {
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    let (own, want) = (wide(own), wide(&recorded.to_vec1::<f32>()?));
    let (start, rest) = (own.split_at(own.len().min(2)), want.split_at(want.len().min(2)));
    report.numbers(&call.name, &format!("{output}, first two samples"), start.0, rest.0, RESAMPLED_START);
    report.numbers(&call.name, output, start.1, rest.1, RESAMPLED);
    Ok(())
}

/// Lengths and windows of many recordings.
fn tables(case: &Case, encoder: &Wav2Vec2Encoder, report: &mut CaseReport) -> Result<()> {
    let Tables { bucket_table, length_table, frames_where_float_truncation_loses_one: odd } = case.read()?;
    let mut wrong = BTreeMap::new();
    let (own, others): (Vec<_>, Vec<_>) = bucket_table.iter().partition(|row| row.m == 0);
    for row in &own {
        let windows = AudioWindows::new(row.audio_frames, row.fps, row.batch_frames);
        let feature = |frame| windows.feature(frame).map_or(serde_json::json!(-1), Into::into);
        let indices: serde_json::Value = (0..windows.frames()).map(feature).collect();
        if (windows.clips(), &indices) != (row.num_repeat, &row.indices) {
            wrong.insert(
                row.audio_frames,
                format!("got {} clips, expected {}", windows.clips(), row.num_repeat),
            );
        }
    }
    let first = wrong.first_key_value().map(|(frames, what)| format!("{frames} features: {what}"));
    report.count("tables", "windows", wrong.len(), own.len(), first);
    for row in others {
        report.leave_out(format!("windows of {} features, m {}", row.audio_frames, row.m), NO_NEIGHBOURS);
    }
    let length = |row: &Length| {
        let wav2vec2_frames = encoder.config().states(row.samples);
        Length { samples: row.samples, wav2vec2_frames, frames_30: feature_frames(wav2vec2_frames) }
    };
    report.equal("tables", "lengths", &length_table.iter().map(length).collect(), &length_table);
    let lost: Vec<usize> = (1..=30_000).filter(|t| feature_frames(*t) != t * 30 / 50).collect();
    let own = (lost.get(..odd.first.len()), lost.len());
    report.equal("tables", "truncated lengths", &own, &(Some(&odd.first[..]), odd.count_up_to_30000));
    Ok(())
}
