//! `inspect`: what a checkpoint contains, and which model would load it.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use magcache_core::{Expert, error::count, hint};
use magcache_models::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    flux,
    pipeline::{self, Loader},
    recognise::{self, Part},
    wan::{Layout, WanSource, names},
};
use serde_json::{Value, json};

use crate::{args::Inspect, console::Console, job::model_name, summary};

/// The components of a diffusers folder, in the order of their use.
const PARTS: [&str; 6] =
    ["text_encoder", "text_encoder_2", "image_encoder", "transformer", "transformer_2", "vae"];

const WEIGHTS: [&str; 5] = [".safetensors", ".gguf", ".pth", ".pt", ".bin"];

struct Report {
    text: String,
    document: Value,
    tensors: bool,
}

pub(crate) fn run(args: &Inspect, out: &Console) -> Result<()> {
    let file = args.path.as_deref().filter(|path| path.is_file());
    let folder = match &args.path {
        _ if file.is_some() => None,
        Some(typed) => Some(model_name::folder(typed)?),
        None => Some(model_name::default_folder()?),
    };
    let path = folder.as_ref().map(Folder::describe).or(file.map(|path| path.display().to_string()));
    let path = path.unwrap_or_default();
    let (text, document) = (format!("{path}: "), json!({ "path": path, "components": {} }));
    let mut report = Report { text, document, tensors: args.tensors };
    file.map_or(Ok(()), |path| report.file(path))?;
    folder.map_or(Ok(()), |folder| report.folder(&folder))?;
    out.answer(&report.text, &report.document);
    Ok(())
}

impl Report {
    fn say(&mut self, line: impl AsRef<str>) {
        self.text += line.as_ref();
        self.text.push('\n');
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.document[key] = value.into();
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let weights = Weights::open_files(&Folder::open(parent)?, &[name], &Device::Cpu, WeightDtype::Keep)?;
        let format = weights.format().name();
        let parts = recognise::parts(&weights);
        let known: Vec<String> = parts.iter().map(Part::describe).collect();
        let older = || names::recognise(weights.names()).or_else(|| flux::native::recognise(weights.names()));
        let part = if known.is_empty() { older().map(str::to_owned) } else { Some(known.join(", ")) };
        self.set("layout", format);
        self.set("part", part.clone());
        self.say(format!("{format}{}", part.map(|part| format!(", {part}")).unwrap_or_default()));
        self.component("file", &weights);
        // What is missing, or belongs to nothing.
        for part in &parts {
            if let Err(error) = recognise::part(&weights, &[part.layout.role]) {
                self.say(hint::told(&error));
                self.set("error", error.to_string());
                break;
            }
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Folder) -> Result<()> {
        if WanSource::detect(folder).is_none() && folder.exists("config.json") {
            return self.one_component(folder);
        }
        let loader = pipeline::loader_of(folder)?;
        if loader.is_none() && !folder.exists("model_index.json") {
            // The error lists what was looked for.
            pipeline::open(folder.clone(), pipeline::LoadOptions::default())?;
        }
        let missing = self.parts(folder);
        let index: Value = folder.read_json("model_index.json").unwrap_or_default();
        let class = |loader: &Loader| match (index["_class_name"].as_str(), WanSource::open(folder.clone())) {
            (Some(class), _) => class.to_owned(),
            (None, Ok(source)) => source.task().class_name().to_owned(),
            (None, Err(_)) => loader.class_names.first().copied().unwrap_or_default().to_owned(),
        };
        let pipeline = loader.map(class);
        self.set("pipeline", pipeline.clone());
        let mut model = None;
        match pipeline {
            None => self.say("no pipeline of this build loads it"),
            Some(_) if !missing.is_empty() => self.say("cannot be loaded as it is"),
            Some(name) => match pipeline::open(folder.clone(), pipeline::LoadOptions::default()) {
                Ok(opened) => {
                    let meta = opened.meta();
                    let (blocks, width) = (meta.blocks(), meta.hidden_size);
                    self.say(format!(
                        "loads as {} ({} of width {width}) in {name}",
                        meta.name,
                        count(blocks, "block")
                    ));
                    model = Some(meta.name.to_string());
                }
                Err(error) => {
                    self.say(format!("{name} does not load it: {}", hint::told(&error)));
                    self.set("error", error.to_string());
                    self.set("hint", hint::of(&error));
                }
            },
        }
        for what in &missing {
            self.say(format!("missing: {what}"));
        }
        self.set("model", model);
        self.set("missing", missing);
        Ok(())
    }

    /// Reports the contents of a model folder; returns what is missing.
    fn parts(&mut self, folder: &Folder) -> Vec<String> {
        let index: Value = folder.read_json("model_index.json").unwrap_or_default();
        let class = index["_class_name"].as_str();
        self.set("class", class);
        self.set("layout", WanSource::detect(folder).map(Layout::name));
        match WanSource::open(folder.clone()) {
            Ok(source) => self.wan(&source).err().iter().map(ToString::to_string).collect(),
            Err(CheckpointError::WrongArchitecture { .. }) => {
                self.say(format!("diffusers folder, {}", class.unwrap_or("?")));
                self.listed(folder, &index)
            }
            // Files of another pipeline.
            Err(_) if class.is_none() && WanSource::detect(folder).is_none() => self.loose(folder),
            Err(error) => {
                let layout = WanSource::detect(folder).map_or("unknown", Layout::name);
                self.say(format!(
                    "{layout} folder{}, incomplete",
                    class.map(|c| format!(", {c}")).unwrap_or_default()
                ));
                let missing = if class.is_some() { self.listed(folder, &index) } else { self.loose(folder) };
                if missing.is_empty() { vec![error.to_string()] } else { missing }
            }
        }
    }

    /// Reports a complete Wan model in either layout.
    fn wan(&mut self, source: &WanSource) -> Result<(), CheckpointError> {
        let (layout, task, experts) = (source.layout().name(), source.task().name(), source.experts());
        let boundary = source.boundary_ratio();
        let two =
            boundary.map(|at| format!(", {experts} experts with the boundary at {at}")).unwrap_or_default();
        self.say(format!("{layout} folder, Wan {task}{two}"));
        let scheduler = source.scheduler();
        self.set("task", task);
        self.set("experts", experts);
        self.set("boundary_ratio", boundary);
        self.set("sampler", scheduler.kind.name());
        let (device, dtype) = (Device::Cpu, WeightDtype::Keep);
        self.component("text_encoder", &source.text_encoder(&device, dtype)?);
        if let Some(image) = source.image_encoder(&device, dtype)? {
            self.component("image_encoder", &image);
        }
        if let Some(speech) = source.speech_encoder(&device, dtype)? {
            self.component("speech_encoder", &speech);
        }
        for (expert, name) in [(0, "transformer"), (1, "transformer_2")].into_iter().take(experts) {
            self.component(name, &source.transformer(Expert(expert), &device, dtype)?);
        }
        self.component("vae", &source.vae(&device, dtype)?);
        Ok(())
    }

    /// Reports the components of a diffusers folder; returns those that its index names but the folder lacks.
    fn listed(&mut self, folder: &Folder, index: &Value) -> Vec<String> {
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
                Ok(weights) => self.component(part, &weights),
                Err(error) => missing.push(format!("{part}: {}", hint::told(&error))),
            }
        }
        missing
    }

    /// Reports the weight files in a folder; returns those that cannot be read.
    fn loose(&mut self, folder: &Folder) -> Vec<String> {
        let mut unreadable = Vec::new();
        let files = folder.files();
        for file in files.iter().filter(|file| WEIGHTS.iter().any(|ending| file.ends_with(ending))) {
            match Weights::open_files(folder, &[file], &Device::Cpu, WeightDtype::Keep) {
                Ok(weights) => self.component(file, &weights),
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        unreadable
    }

    /// Reports a folder with one network of a diffusers or transformers model.
    fn one_component(&mut self, folder: &Folder) -> Result<()> {
        let config: Value = folder.read_json("config.json")?;
        let class =
            config["_class_name"].as_str().or(config["architectures"][0].as_str()).unwrap_or("?").to_owned();
        self.say(format!("one component, {class}"));
        self.set("layout", "diffusers component");
        self.set("class", class);
        self.set("config", config);
        self.component("self", &Weights::open(folder, &Device::Cpu, WeightDtype::Keep)?);
        Ok(())
    }

    fn component(&mut self, name: &str, weights: &Weights) {
        let dtypes = weights.stored_dtypes();
        let bytes = usize::try_from(weights.total_bytes()).unwrap_or(usize::MAX);
        let size = |bytes: &u64| summary::bytes(usize::try_from(*bytes).unwrap_or(usize::MAX));
        let list: Vec<String> = match dtypes.len() {
            1 => dtypes.keys().cloned().collect(),
            _ => dtypes.iter().map(|(name, bytes)| format!("{name} {}", size(bytes))).collect(),
        };
        let (count, parameters) = (weights.names().count(), weights.parameters());
        self.say(format!(
            "{name}: {count} tensors ({}), {parameters} parameters, {}",
            list.join(", "),
            summary::bytes(bytes)
        ));
        let mut document = json!({
            "tensors": count, "dtypes": dtypes, "parameters": parameters, "bytes": bytes,
            "format": weights.format().name(), "file": weights.place(),
        });
        if self.tensors {
            let shape = |name: &str| json!(weights.shape(name).unwrap_or_default());
            for name in weights.names() {
                self.text += &format!("  {name} {}\n", shape(name));
            }
            let shapes: serde_json::Map<String, Value> =
                weights.names().map(|name| (name.to_owned(), shape(name))).collect();
            document["shapes"] = Value::Object(shapes);
        }
        self.document["components"][name] = document;
    }
}
