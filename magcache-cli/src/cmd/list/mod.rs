//! `list`: what this build contains, from the registries.

mod reference;

use anyhow::{Error, Result};
use magcache_core::{
    ConfigError, ModelMeta,
    error::{count, nearest},
    meta,
    profile::Profile,
};
use magcache_hub::{Downloaded, Hub, downloaded};
use magcache_models::{
    pipeline::{self, Loader},
    sampler::SamplerKind,
};
use serde_json::{Value, json};

use self::reference::Section;
use crate::{
    args::List,
    console::Console,
    job::{builtin, model_name},
    summary,
};

pub(crate) fn run(args: &List, out: &Console) -> Result<()> {
    if args.downloaded {
        downloaded_models(out);
        return Ok(());
    }
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
        let names = all.iter().map(|s| s.name.as_str());
        return Err(unknown("--keys", "strategy, forecast or table", name, names));
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
        return Err(unknown("--example", "strategy", name, known.iter().map(|s| s.name)));
    };
    let lines = info.example.lines().map(str::trim_end).filter(|l| !l.trim().is_empty());
    let indent = lines.clone().map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    let body: Vec<&str> = lines.map(|l| l.get(indent..).unwrap_or(l)).collect();
    let text = format!("[[cache]]\n{}\n", body.join("\n"));
    out.answer(&text, &json!({ "strategy": name, "example": text }));
    Ok(())
}

/// The error for a name that is none of `known`.
fn unknown<'k>(place: &str, kind: &'static str, name: &str, known: impl Iterator<Item = &'k str>) -> Error {
    let nearest = nearest(name, known);
    ConfigError::UnknownName { place: place.to_owned(), kind, name: name.to_owned(), nearest }.into()
}

/// Answers with the models in the cache.
fn downloaded_models(out: &Console) {
    let hub = Hub::from_env();
    let all = downloaded(hub.cache());
    let row = |one: &Downloaded| {
        let bytes = summary::bytes(usize::try_from(one.bytes).unwrap_or(usize::MAX));
        format!("  {:<48} {bytes:>12}  {}\n", one.repo, one.revisions.join(", "))
    };
    let title = format!("{} in {}\n", count(all.len(), "model"), hub.cache().display());
    let text = title + &all.iter().map(row).collect::<String>();
    let rows: Vec<Value> = all
        .iter()
        .map(|one| json!({ "name": one.repo, "bytes": one.bytes, "revisions": one.revisions, "path": one.path }))
        .collect();
    out.answer(&text, &json!({ "cache": hub.cache(), "models": rows }));
}

fn everything(out: &Console) {
    let row = |name: &str, what: &str, origin: &str| format!("  {name:<22} {what}  [{origin}]\n");
    let adapters = |m: &ModelMeta| model_name::embedded(&m.name).map(builtin::of).unwrap_or_default();
    let model = |m: &ModelMeta| {
        let embedded = model_name::embedded(&m.name);
        let here = if embedded.is_some() { " (in this program)" } else { "" };
        let prompts = embedded.map(|e| format!("  {:<22} prompts: {}\n", "", e.prompts)).unwrap_or_default();
        let adapters: String =
            adapters(m).iter().map(|name| format!("  {:<22} --lora {name}\n", "")).collect();
        row(&m.name, &format!("{}{here}", m.summary), m.origin) + &prompts + &adapters
    };
    let profile = |name: &str, origin: &str| {
        row(name, &Profile::find(name).map(|p| p.summary).unwrap_or_default(), origin)
    };
    let loader = |l: &Loader| -> String {
        let layouts = if l.looks_for.is_empty() { "diffusers folder" } else { "diffusers or native folder" };
        l.class_names.iter().map(|class| row(class, layouts, l.origin)).collect()
    };
    let sections: [(&str, String); 6] = [
        ("strategies", meta::strategies().iter().map(|s| row(s.name, s.summary, s.origin)).collect()),
        ("forecasts", meta::forecasts().iter().map(|f| row(f.name, f.summary, f.origin)).collect()),
        ("models", meta::models().into_iter().map(model).collect()),
        ("profiles", meta::profiles().iter().map(|p| profile(p.name, p.origin)).collect()),
        ("samplers", SamplerKind::ALL.map(|kind| format!("  {}\n", kind.name())).concat()),
        ("pipelines", pipeline::loaders().into_iter().map(loader).collect()),
    ];
    let text: String = sections.iter().map(|(title, rows)| out.paint(title, 1) + "\n" + rows).collect();
    let document = json!({
        "strategies": meta::strategies().iter().map(|s| json!({
            "name": s.name, "summary": s.summary, "paper": s.paper, "origin": s.origin,
        })).collect::<Vec<_>>(),
        "forecasts": meta::forecasts().iter().map(|f| json!({
            "name": f.name, "summary": f.summary, "paper": f.paper, "origin": f.origin,
        })).collect::<Vec<_>>(),
        "models": meta::models().iter().map(|m| json!({
            "name": m.name, "summary": m.summary, "blocks": m.blocks(), "profiles": m.profiles, "origin": m.origin,
            "prompts": model_name::embedded(&m.name).map(|e| e.prompts), "adapters": adapters(m),
        })).collect::<Vec<_>>(),
        "profiles": meta::profiles().iter().map(|p| json!({
            "name": p.name, "origin": p.origin,
        })).collect::<Vec<_>>(),
        "samplers": SamplerKind::ALL.map(SamplerKind::name),
        "pipelines": pipeline::loaders().iter().flat_map(|l| l.class_names).collect::<Vec<_>>(),
    });
    out.answer(&text, &document);
}
