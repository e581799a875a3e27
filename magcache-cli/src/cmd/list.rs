//! `list`: what this build has, from the registries.

use anyhow::Result;
use magcache_core::{ConfigError, meta, nearest};
use magcache_models::{pipeline, sampler::SamplerKind};
use serde_json::json;

use crate::{args::List, output::Output};

pub(crate) fn run(args: &List, out: &Output) -> Result<()> {
    match &args.example {
        Some(name) => example(name, out),
        None => {
            everything(out);
            Ok(())
        }
    }
}

fn example(name: &str, out: &Output) -> Result<()> {
    let known = meta::strategies();
    let Some(info) = known.iter().find(|s| s.name == name) else {
        return Err(ConfigError::UnknownName {
            place: "--example".to_owned(),
            kind: "strategy",
            name: name.to_owned(),
            nearest: nearest(name, known.iter().map(|s| s.name)),
        }
        .into());
    };
    let lines = info.example.lines().map(str::trim_end).filter(|l| !l.trim().is_empty());
    let indent = lines.clone().map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    let body: Vec<&str> = lines.map(|l| l.get(indent..).unwrap_or(l)).collect();
    let text = format!("[[cache]]\n{}\n", body.join("\n"));
    out.answer(&text, &json!({ "strategy": name, "example": text }));
    Ok(())
}

fn everything(out: &Output) {
    let row = |name: &str, what: &str, origin: &str| format!("  {name:<22} {what}  [{origin}]\n");
    let mut text = out.paint("strategies", 1) + "\n";
    for s in meta::strategies() {
        text += &row(s.name, s.summary, s.origin);
    }
    text += &(out.paint("models", 1) + "\n");
    for m in meta::models() {
        let embedded = pipeline::embedded().iter().any(|e| e.name == m.name);
        let here = if embedded { " (in this program)" } else { "" };
        text += &row(&m.name, &format!("{}{here}", m.summary), m.origin);
    }
    text += &(out.paint("profiles", 1) + "\n");
    for p in meta::profiles() {
        let summary = magcache_core::Profile::find(p.name).map(|p| p.summary).unwrap_or_default();
        text += &row(p.name, &summary, p.origin);
    }
    text += &(out.paint("samplers", 1) + "\n");
    for kind in SamplerKind::ALL {
        text += &format!("  {}\n", kind.name());
    }
    text += &(out.paint("pipelines", 1) + "\n");
    for l in pipeline::loaders() {
        let layouts = if l.looks_for.is_empty() { "diffusers folder" } else { "diffusers or native folder" };
        for class in l.class_names {
            text += &row(class, layouts, l.origin);
        }
    }
    let document = json!({
        "strategies": meta::strategies().iter().map(|s| json!({
            "name": s.name, "summary": s.summary, "paper": s.paper, "origin": s.origin,
        })).collect::<Vec<_>>(),
        "models": meta::models().iter().map(|m| json!({
            "name": m.name, "summary": m.summary, "blocks": m.blocks(), "profiles": m.profiles, "origin": m.origin,
        })).collect::<Vec<_>>(),
        "profiles": meta::profiles().iter().map(|p| json!({
            "name": p.name, "origin": p.origin,
        })).collect::<Vec<_>>(),
        "samplers": SamplerKind::ALL.map(SamplerKind::name),
        "pipelines": pipeline::loaders().iter().flat_map(|l| l.class_names).collect::<Vec<_>>(),
    });
    out.answer(&text, &document);
}
