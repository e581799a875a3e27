//! `report.html`: a single self-contained page, without other files or network access.

mod gallery;
mod html;
mod numbers;
mod pictures;
mod plots;
mod strips;

use std::{path::Path, time::SystemTime};

use anyhow::{Context, Result};
use magcache_core::error::count;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

pub(crate) use self::{gallery::Gallery, plots::divergence};

use crate::{
    compare::{Compared, Comparison, PAGE, answer, row::Role},
    console::Console,
    media, summary,
};

pub(crate) const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What the browser may load: only what is inside the page.
pub(crate) const POLICY: &str = "default-src 'none'; img-src data:; media-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// A section of the page: its title in links, its id and its content.
type Section = (String, String, Markup);

/// Runs a comparison and writes its page. All of its files appear in the folder at once.
pub(crate) fn run<'c>(comparison: &'c Comparison, out: &Console) -> Result<Compared<'c>> {
    let (mut compared, staged) = comparison.run(out)?;
    let page = page(staged.path(), &compared).context("cannot make report.html")?;
    media::write_file(&staged.path().join(PAGE), page.as_bytes())?;
    staged.merge(PAGE)?;
    compared.outputs.push(comparison.folder.join(PAGE));
    Ok(compared)
}

fn page(folder: &Path, compared: &Compared<'_>) -> Result<String> {
    let sections = [
        ("Pictures", "pictures", pictures::section(folder, compared)?),
        ("Numbers", "numbers", numbers::section(compared)),
        ("Skipped steps", "skips", strips::section(compared)),
        ("By step", "plots", plots::section(compared)?),
        ("Configurations", "configurations", configurations(compared)),
        ("Machine", "machine", machine(compared)),
    ];
    let shown = sections.into_iter().filter(|(.., body)| !body.0.is_empty());
    let sections: Vec<Section> =
        shown.map(|(title, id, body)| (title.to_owned(), id.to_owned(), body)).collect();
    let names: Vec<&str> = compared.configs().map(|row| row.name.as_str()).collect();
    let title = format!("dense against {}", names.join(", "));
    document(&title, &head(compared.of)?, &html! {}, &sections, &answer::document(compared))
}

/// A whole page: what is above the links to its sections, what is below them, and what scripts may read.
fn document(
    title: &str,
    head: &Markup,
    controls: &Markup,
    sections: &[Section],
    data: &Value,
) -> Result<String> {
    let data = html::json(data)?;
    let page = html! {
        (PreEscaped("<!doctype html>"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(PreEscaped(POLICY));
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – magcache" }
                style { (PreEscaped(html::colours())) (PreEscaped(STYLE)) }
            }
            body {
                header {
                    (head)
                    nav aria-label="Sections" {
                        ul { @for (title, id, _) in sections { li { a href={ "#" (id) } { (title) } } } }
                    }
                }
                main {
                    (controls)
                    @for (title, id, body) in sections {
                        section id=(id) aria-labelledby={ (id) "-title" } { h2 id={ (id) "-title" } { (title) } (body) }
                    }
                }
                script type="application/json" id="comparison" { (data) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

fn head(Comparison { job, seeds, .. }: &Comparison) -> Result<Markup> {
    let request = &job.request;
    let size = if job.frames == 1 {
        format!("{}×{}", request.width(), request.height())
    } else {
        format!("{} of {}×{}", count(job.frames, "frame"), request.width(), request.height())
    };
    let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    let facts = [
        ("Model", job.pipeline.meta().name.to_string()),
        ("Steps", job.trajectory.steps().count().to_string()),
        ("Size", size),
        (if seeds.len() == 1 { "Seed" } else { "Seeds" }, seeds.join(", ")),
        ("Made", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
    ];
    let given = pictures::given(job)?;
    Ok(html! {
        h1 { "Dense against cached" }
        p class="prompt" { (request.prompt) }
        (html::facts(facts))
        (given)
    })
}

/// The configuration that reproduces each lane.
fn configurations(compared: &Compared<'_>) -> Markup {
    let all = &compared.rows;
    html! {
        p {
            "Each reproduces its lane: " code { "magcache run --config FILE" }
            ". The same files lie beside this page."
        }
        @for row in all.iter().filter(|row| row.role != Role::Baseline) {
            details class=(html::class(all, row)) {
                summary { (html::name(all, row)) }
                (html::scrolling(&format!("Configuration of {}", row.name), &html! { pre { (row.config) } }))
            }
        }
    }
}

fn machine(compared: &Compared<'_>) -> Markup {
    let machine = &compared.machine;
    let mut list = vec![
        ("Cores", machine.cores.to_string()),
        ("Threads", machine.threads.to_string()),
        ("Device", machine.device.clone()),
        ("System", machine.system.clone()),
        (crate::PROGRAM, machine.version.to_owned()),
    ];
    list.extend(machine.cpu.clone().map(|cpu| ("Processor", cpu)));
    list.extend(compared.peak_memory.map(|n| ("Memory at the peak, whole process", summary::bytes(n))));
    html::facts(list)
}
