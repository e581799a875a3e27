//! Weights as they are published: adapters, quantised files, single files. Every call of a case names its
//! file and, where there are several spellings of one thing, all of them.

mod decoded;
mod networks;
mod refused;

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    autoencoder::{ImageVae, ImageVaeConfig, VideoVaeConfig},
    checkpoint::{Adapter, Folder, Ops, WeightDtype},
    clip::{ClipTextConfig, ClipTextEncoder},
    recognise,
    text::{T5Config, T5Encoder, T5File, open_t5_as},
};
use serde::Deserialize;

use super::{
    call::Call,
    case::{Case, Named},
    report::CaseReport,
    text_encoder, vae,
};

/// The groups of such cases.
pub(super) const GROUPS: [&str; 4] = ["lora", "gguf", "fp8", "single_file"];

/// How much two ports of a video autoencoder may differ, in units of what its reference operations make of
/// the last bits of its input. With the two channels of the recorded ones, norms amplify rounding: the
/// reference's own runs in f32 and in f64 are up to 1e-3 apart, and its runs on two machines are not equal.
const ROUNDINGS: f64 = 4.0;

/// Where a call's weights come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    /// A file with the model.
    model_file: Option<String>,
    /// Files with the same model.
    model_alternatives: Vec<String>,
    /// The part of the file, or of the case's folder.
    component: Option<String>,
    /// Adapters of the model.
    loras: Vec<Lora>,
    /// Files with the same adapter as the only one of these.
    alternatives: Vec<String>,
    /// `skip`: what has no place in the model is left out.
    unmatched: Option<String>,
    /// Another call, whose outputs have the same bits.
    same_bits_as: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Lora {
    file: String,
    strength: f64,
}

impl Source {
    /// Files of the model, each of which gives the call's outputs; none for the model in the folder.
    fn files(&self) -> Vec<Option<&str>> {
        let others = self.model_alternatives.iter().map(String::as_str);
        let mut all: Vec<&str> = self.model_file.as_deref().into_iter().chain(others).collect();
        all.dedup();
        if all.is_empty() { vec![None] } else { all.into_iter().map(Some).collect() }
    }

    /// Lists of adapters, each of which gives the call's outputs.
    fn adapters(&self, folder: &Path) -> Vec<Vec<Adapter>> {
        let skip_unknown = self.unmatched.as_deref() == Some("skip");
        let adapter = |file: &str, strength: f64| Adapter {
            path: folder.join(file),
            folder: None,
            strength,
            skip_unknown,
        };
        match self.loras.as_slice() {
            [one] if !self.alternatives.is_empty() => {
                self.alternatives.iter().map(|file| vec![adapter(file, one.strength)]).collect()
            }
            all => vec![all.iter().map(|lora| adapter(&lora.file, lora.strength)).collect()],
        }
    }
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    case.compare_calls(report, |call, report| {
        match (call.name.as_str(), call.source.component.as_deref()) {
            ("dequantize", _) => decoded::tensors(call, report),
            (_, Some("text_encoder")) => clip(call, report),
            (_, Some("text_encoder_2")) => t5(call, report),
            (_, Some("vae")) => image_vae(call, report),
            _ => match networks::class(call)?.as_str() {
                "UMT5EncoderModel" | "T5EncoderModel" => t5(call, report),
                class if vae::CLASSES.contains(&class) => video_vae(call, report),
                _ => networks::check(call, report),
            },
        }
    })?;
    decoded::tables(case, report)?;
    networks::same_bits(case, report)?;
    decoded::texts(case, report)?;
    refused::check(case, report)
}

/// The name of a file among several, for reports.
fn label(call: Call<'_>, file: &str) -> String {
    format!("{} ({file})", call.name)
}

fn t5(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let config = T5Config::read(&folder_of(call))?;
    for file in call.source.files().into_iter().flatten() {
        for dtype in networks::POLICIES {
            let T5File { config, weights, .. } =
                open_t5_as(&call.case.folder, file, Some(config.clone()), &Device::Cpu, dtype)?;
            let encoder = T5Encoder::load(&weights, &config)?;
            let seen = text_encoder::t5_outputs(&encoder, call)?;
            decoded::compare(call, report, &label(call, file), &weights, &seen)?;
        }
    }
    Ok(())
}

fn clip(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let config = ClipTextConfig::read(&call.case.folder.sub("text_encoder"))?;
    for file in call.source.files().into_iter().flatten() {
        let weights = recognise::open(
            &call.case.folder,
            file,
            recognise::Role::TextEncoderClip,
            &Device::Cpu,
            WeightDtype::Keep,
        )?;
        let encoder = ClipTextEncoder::load(&weights, &config)?;
        let output = encoder.forward(&call.rows("input_ids")?.unwrap_or_default())?;
        let seen = Named::from([
            ("last_hidden_state".to_owned(), output.last_hidden_state),
            ("pooler_output".to_owned(), output.pooler_output),
        ]);
        decoded::compare(call, report, &label(call, file), &weights, &seen)?;
    }
    Ok(())
}

fn image_vae(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let config = ImageVaeConfig::read(&call.case.folder.sub("vae"))?;
    for file in call.source.files().into_iter().flatten() {
        let vae = ImageVae::open_file(&call.case.folder, file, &config, &Device::Cpu)?;
        let decoded = vae.decode(&vae.denormalize(call.required("latents")?)?, None)?;
        let seen = Named::from([("sample".to_owned(), decoded)]);
        call.compare(report, call.tolerance(), "not an output", |output| Ok(seen.get(output).cloned()))?;
    }
    Ok(())
}

fn video_vae(call: Call<'_>, report: &mut CaseReport) -> Result<()> {
    let config = VideoVaeConfig::read(&call.case.folder)?;
    for file in call.source.files().into_iter().flatten() {
        let open = |ops| {
            let folder = call.case.folder.clone().computing_with(ops);
            magcache_models::wan::open_vae_file(&folder, file, Some(&config), &Device::Cpu)
        };
        let vae = open(call.case.folder.ops())?;
        let rounding = vae::of_rounding(&open(Ops::Reference)?, call)?;
        vae::one(&vae, call, report, ROUNDINGS * rounding)?;
    }
    Ok(())
}

/// The folder that a call's configuration is in.
fn folder_of(call: Call<'_>) -> Folder {
    match &call.source.component {
        Some(component) if call.case.folder.sub(component).exists("config.json") => {
            call.case.folder.sub(component)
        }
        _ => call.case.folder.clone(),
    }
}
