//! `inspect`: what a checkpoint is, and what would load it.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline,
};
use serde_json::{Value, json};

use crate::{args::Inspect, failure::bad_input_with, output::Output, summary};

/// The components of a pipeline folder, in the order in which they are used.
const PARTS: [&str; 5] = ["text_encoder", "image_encoder", "transformer", "transformer_2", "vae"];

pub(crate) fn run(args: &Inspect, out: &Output) -> Result<()> {
    let (text, document) = match &args.path {
        None => match pipeline::embedded().first() {
            Some(first) => folder(&(first.folder)(), args.tensors)?,
            None => return Err(bad_input_with("this build has no embedded model", "give a path")),
        },
        Some(path) if path.is_file() => file(path, args.tensors)?,
        Some(path) => folder(&Folder::open(path)?, args.tensors)?,
    };
    out.answer(&text, &document);
    Ok(())
}

fn file(path: &Path, tensors: bool) -> Result<(String, Value)> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let weights = Weights::open_files(&Folder::open(parent)?, &[name], &Device::Cpu, WeightDtype::Keep)?;
    let mut text = format!("{}: safetensors\n", path.display());
    let part = component(&weights, tensors, &mut text);
    Ok((text, json!({ "path": path, "layout": "safetensors", "components": { "file": part } })))
}

fn folder(folder: &Folder, tensors: bool) -> Result<(String, Value)> {
    let mut text = String::new();
    let mut document = json!({ "path": folder.describe(), "components": {} });
    let index: Option<Value> =
        folder.exists("model_index.json").then(|| folder.read_json("model_index.json")).transpose()?;
    let Some(index) = index else {
        if !folder.exists("config.json") {
            let message = format!("{}: neither model_index.json nor config.json", folder.describe());
            return Err(bad_input_with(
                message,
                "give a diffusers folder, one component of it, or a .safetensors file",
            ));
        }
        let config: Value = folder.read_json("config.json")?;
        let class =
            config["_class_name"].as_str().or(config["architectures"][0].as_str()).unwrap_or("?").to_owned();
        text += &format!("{}: one component, {class}\n", folder.describe());
        let weights = Weights::open(folder, &Device::Cpu, WeightDtype::Keep)?;
        document["layout"] = json!("diffusers component");
        document["class"] = json!(class);
        document["config"] = config;
        document["components"]["self"] = component(&weights, tensors, &mut text);
        return Ok((text, document));
    };
    let class = index["_class_name"].as_str().unwrap_or("?").to_owned();
    let loads = pipeline::loaders().iter().any(|l| l.class_name == class);
    text += &format!("{}: diffusers folder, {class}\n", folder.describe());
    document["layout"] = json!("diffusers");
    document["class"] = json!(class);
    let mut missing = Vec::new();
    for part in PARTS {
        let declared = index[part].as_array().is_some_and(|a| a.iter().any(|v| !v.is_null()));
        let sub = folder.sub(part);
        if !sub.exists("config.json") {
            if declared {
                missing.push(format!("{part}/config.json"));
            }
            continue;
        }
        match Weights::open(&sub, &Device::Cpu, WeightDtype::Keep) {
            Ok(weights) => {
                text += &format!("{part}: ");
                document["components"][part] = component(&weights, tensors, &mut text);
            }
            Err(error) => missing.push(format!("{part}: {error}")),
        }
    }
    let model = if loads && missing.is_empty() {
        let pipeline = pipeline::open(folder.clone(), pipeline::LoadOptions::default())?;
        let meta = pipeline.meta();
        text += &format!("loads as {} ({} blocks of width {})\n", meta.name, meta.blocks(), meta.hidden_size);
        Some(meta.name.to_string())
    } else {
        text += if loads { "cannot be loaded as it is\n" } else { "no pipeline of this build loads it\n" };
        None
    };
    for what in &missing {
        text += &format!("missing: {what}\n");
    }
    document["model"] = json!(model);
    document["missing"] = json!(missing);
    Ok((text, document))
}

fn component(weights: &Weights, tensors: bool, text: &mut String) -> Value {
    let dtypes = weights.stored_dtypes();
    let bytes = usize::try_from(weights.total_bytes()).unwrap_or(usize::MAX);
    let list: Vec<String> = dtypes.keys().cloned().collect();
    *text += &format!(
        "{} tensors ({}), {} parameters, {}\n",
        weights.names().count(),
        list.join(", "),
        weights.parameters(),
        summary::bytes(bytes)
    );
    let mut document = json!({ "tensors": weights.names().count(), "dtypes": dtypes, "parameters": weights.parameters(), "bytes": bytes });
    if tensors {
        for name in weights.names() {
            *text += &format!("  {name} {:?}\n", weights.shape(name).unwrap_or_default());
        }
        let shapes: serde_json::Map<String, Value> =
            weights.names().map(|n| (n.to_owned(), json!(weights.shape(n)))).collect();
        document["shapes"] = Value::Object(shapes);
    }
    document
}
