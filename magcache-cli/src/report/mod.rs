//! `report.html`: one page that needs nothing else, neither files nor a network.

mod details;
mod html;
mod numbers;
mod pictures;
mod plots;
mod strips;

use std::{path::Path, time::SystemTime};

use anyhow::{Context, Result};
use magcache_core::error::count;

pub(crate) use self::plots::divergence;

use self::html::escape;
use crate::{
    compare::{Compared, Comparison, PAGE, answer, row::Role},
    console::Output,
    media,
    plan::Plan,
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What the browser may load: what is written in the page, and nothing else.
const POLICY: &str = "default-src 'none'; img-src data:; media-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// Parts of the page: how a link calls them, their ids, and what is in them.
type Section = (&'static str, &'static str, String);

/// Runs a comparison and writes its page. All that it made appears in its folder at once.
pub(crate) fn run(comparison: &Comparison, out: &Output) -> Result<Compared> {
    let (mut compared, staged) = comparison.run(out)?;
    let page = page(staged.path(), &comparison.plan, &compared).context("cannot make report.html")?;
    media::write_file(&staged.path().join(PAGE), page.as_bytes())?;
    staged.merge(PAGE)?;
    compared.outputs.push(comparison.folder.join(PAGE));
    Ok(compared)
}

fn page(folder: &Path, plan: &Plan, compared: &Compared) -> Result<String> {
    let sections: Vec<Section> = vec![
        ("Pictures", "pictures", pictures::section(folder, plan, compared)?),
        ("Numbers", "numbers", numbers::section(compared)),
        ("Skipped steps", "skips", strips::section(compared)),
        ("By step", "plots", plots::section(compared)?),
        ("Configurations", "configurations", details::configurations(compared)),
        ("Machine", "machine", details::machine(compared)),
    ];
    let sections: Vec<Section> = sections.into_iter().filter(|(.., body)| !body.is_empty()).collect();
    let links: String =
        sections.iter().map(|(title, id, _)| format!("<li><a href=\"#{id}\">{title}</a></li>")).collect();
    let body: String = sections
        .iter()
        .map(|(title, id, body)| {
            format!("<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>{body}</section>")
        })
        .collect();
    let names: Vec<String> =
        compared.rows.iter().filter(|r| r.role == Role::Config).map(|r| escape(&r.name)).collect();
    Ok(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>dense against {names} – magcache</title><style>{colours}{STYLE}</style></head>\
         <body><header>{head}<nav aria-label=\"Sections\"><ul>{links}</ul></nav></header><main>{body}</main>\
         <script type=\"application/json\" id=\"comparison\">{data}</script><script>{SCRIPT}</script></body></html>\n",
        names = names.join(", "),
        colours = html::colours(),
        head = head(plan, compared)?,
        data = html::json(&answer::document(compared))?,
    ))
}

/// What was asked for.
fn head(plan: &Plan, compared: &Compared) -> Result<String> {
    let request = &plan.request;
    let size = if request.frames == 1 {
        format!("{}×{}", request.width(), request.height())
    } else {
        format!("{} of {}×{}", count(request.frames, "frame"), request.width(), request.height())
    };
    let seeds: Vec<String> = compared.seeds.iter().map(ToString::to_string).collect();
    let facts = [
        ("Model", plan.pipeline.meta().name.to_string()),
        ("Steps", plan.trajectory.steps().count().to_string()),
        ("Size", size),
        (if seeds.len() == 1 { "Seed" } else { "Seeds" }, seeds.join(", ")),
        ("Made", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
    ];
    Ok(format!(
        "<h1>Dense against cached</h1><p class=\"prompt\">{}</p>{}{}",
        escape(&request.prompt),
        html::facts(facts.iter().map(|(name, value)| (*name, value.clone()))),
        pictures::given(plan)?
    ))
}
