//! `list`: what this build contains, from the registries.

mod reference;

use anyhow::Result;
use magcache_core::{ConfigError, error::nearest, meta};
use magcache_models::{pipeline, sampler::SamplerKind};
use serde_json::json;

use self::reference::Section;
use crate::{args::List, console::Console, job::model_name};

pub(crate) fn run(args: &List, out: &Console) -> Result<()> {
    match (&args.example, &args.keys) {
        (Some(name), _) => example(name, out),
        (None, Some(name)) => keys(name, args.markdown, out),
        (None, None) => {
            everything(out);
            Ok(())
        }
    }
}

/// Prints the sections with this name, written plainly or in brackets as in a file; all sections if the name
/// is empty.
fn keys(name: &str, markdown: bool, out: &Console) -> Result<()> {
    let name = name.trim_matches(['[', ']']);
    let all = reference::sections();
    let found: Vec<&Section> = all.iter().filter(|s| name.is_empty() || s.name == name).collect();
    if found.is_empty() {
        return Err(ConfigError::UnknownName {
            place: "--keys".to_owned(),
            kind: "strategy, forecast or table",
            name: name.to_owned(),
            nearest: nearest(name, all.iter().map(|s| s.name.as_str())),
        }
        .into());
    }
    let bold = |text: &str| out.paint(text, 1);
    let sections: Vec<String> = found.iter().map(|section| section.text(bold)).collect();
    let text = if markdown { reference::page() } else { sections.join("\n") };
    out.answer(&text, &json!(found.iter().map(|section| section.json()).collect::<Vec<_>>()));
    Ok(())
}

fn example(name: &str, out: &Console) -> Result<()> {
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

fn everything(out: &Console) {
    let row = |name: &str, what: &str, origin: &str| format!("  {name:<22} {what}  [{origin}]\n");
    let mut text = out.paint("strategies", 1) + "\n";
    for s in meta::strategies() {
        text += &row(s.name, s.summary, s.origin);
    }
    text += &(out.paint("forecasts", 1) + "\n");
    for f in meta::forecasts() {
        text += &row(f.name, f.summary, f.origin);
    }
    text += &(out.paint("models", 1) + "\n");
    for m in meta::models() {
        let embedded = model_name::embedded(&m.name);
        let here = if embedded.is_some() { " (in this program)" } else { "" };
        text += &row(&m.name, &format!("{}{here}", m.summary), m.origin);
        text += &embedded.map(|e| format!("  {:<22} prompts: {}\n", "", e.prompts)).unwrap_or_default();
    }
    text += &(out.paint("profiles", 1) + "\n");
    for p in meta::profiles() {
        let summary = magcache_core::profile::Profile::find(p.name).map(|p| p.summary).unwrap_or_default();
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
        "forecasts": meta::forecasts().iter().map(|f| json!({
            "name": f.name, "summary": f.summary, "paper": f.paper, "origin": f.origin,
        })).collect::<Vec<_>>(),
        "models": meta::models().iter().map(|m| json!({
            "name": m.name, "summary": m.summary, "blocks": m.blocks(), "profiles": m.profiles, "origin": m.origin,
            "prompts": model_name::embedded(&m.name).map(|e| e.prompts),
        })).collect::<Vec<_>>(),
        "profiles": meta::profiles().iter().map(|p| json!({
            "name": p.name, "origin": p.origin,
        })).collect::<Vec<_>>(),
        "samplers": SamplerKind::ALL.map(SamplerKind::name),
        "pipelines": pipeline::loaders().iter().flat_map(|l| l.class_names).collect::<Vec<_>>(),
    });
    out.answer(&text, &document);
}
