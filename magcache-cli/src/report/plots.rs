//! What changes from step to step: ratios, the strategies' measurements, and the drift of the latents.

use std::collections::BTreeMap;

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::html::{colour, name, scrolling};
use crate::{
    compare::{Compared, row::Row},
    lanes::Noted,
    plot::{Chart, Mark, Series, Shade, Style},
};

/// Size of a chart in units: letters stay readable on a phone.
const SIZE: [u32; 2] = [440, 290];

pub(super) fn section(compared: &Compared<'_>) -> Result<Markup> {
    let mut out = Vec::new();
    let note = "Relative distance of the latents after each step from the dense run's, in the Euclidean norm, with the first seed. A step at which nothing differs yet has no point.";
    out.extend(figure(compared, &html! { "Divergence from dense" }, note, divergence(compared))?);
    if let Some(ratios) = &compared.ratios {
        let mut chart = Chart::new("", "step", "|residual| / |residual before|");
        for (i, (branch, points)) in ratios.branches.iter().enumerate() {
            let style = if i == 0 { Style::Marked } else { Style::Dashed };
            let points = points.iter().map(|(step, ratio)| (*step as f64, *ratio)).collect();
            chart = chart.with(Series::new(branch.to_string(), style, points));
        }
        let note = format!(
            "Of the profile {}, at the steps of this run: how much what the blocks add changes.",
            ratios.profile
        );
        out.extend(figure(compared, &html! { "Magnitude ratio" }, &note, chart)?);
    }
    for row in compared.configs() {
        out.extend(noted(compared, row)?);
    }
    Ok(html! { @if !out.is_empty() { div class="charts" { @for figure in &out { (figure) } } } })
}

/// Distance of the configurations' latents from the dense run's, by step.
pub(crate) fn divergence(compared: &Compared<'_>) -> Chart {
    let mut chart = Chart::new("", "step", "‖x − dense‖ / ‖dense‖");
    chart.log = true;
    chart.marks = marks(compared);
    for row in compared.configs() {
        let points = row.divergence.iter().enumerate().map(|(i, d)| ((first_step(compared) + i) as f64, *d));
        let series = Series::new(&row.name, Style::Marked, points.collect());
        chart = chart.with(Series { colour: Some(colour(&compared.rows, row)), ..series });
    }
    chart
}

/// The first step that runs: above 0 for image to image.
pub(super) fn first_step(compared: &Compared<'_>) -> usize {
    compared.of.job.trajectory.first
}

fn marks(compared: &Compared<'_>) -> Vec<Mark> {
    let run = &compared.of.job.trajectory;
    let later = run.phases.iter().map(|phase| phase.steps.start).filter(|start| *start > run.first);
    later.map(|start| Mark { x: start as f64 - 0.5, label: "next expert".to_owned() }).collect()
}

/// What a strategy measured and what it compared with its threshold, each in a chart of its own because their
/// scales differ.
fn noted(compared: &Compared<'_>, row: &Row) -> Result<Vec<Markup>> {
    let points = |notes: &[Noted], of: fn(&Noted) -> Option<f64>| -> Vec<(f64, f64)> {
        notes.iter().filter_map(|note| Some((note.step as f64, of(note)?))).collect()
    };
    let chart = |label: &str, of: fn(&Noted) -> Option<f64>| {
        let mut chart = Chart::new("", "step", label);
        for (i, (name, notes)) in row.noted.iter().enumerate() {
            let style = if i == 0 { Style::Marked } else { Style::Dashed };
            let series = Series::new(name, style, points(notes, of));
            chart = chart.with(Series { colour: Some(colour(&compared.rows, row)), ..series });
        }
        chart.shades = skipped(row, first_step(compared));
        chart
    };
    let measured = chart("measured change, relative", |n| n.metric);
    let mut judged = chart("value against the threshold", |n| n.accumulated);
    let name = name(&compared.rows, row);
    let mut out = Vec::new();
    // If nothing is accumulated, the two are the same.
    if measured.series != judged.series {
        let note = "What it measures at a step.";
        out.extend(figure(compared, &html! { (name) ": measured" }, note, measured)?);
    }
    // If nothing is measured, nothing is compared.
    if !judged.is_empty() {
        for (i, (name, notes)) in row.noted.iter().enumerate() {
            let limit = points(notes, |n| n.threshold);
            // Branches share a threshold; each of several strategies has its own.
            let known = row.noted[..i].iter().any(|(_, other)| points(other, |n| n.threshold) == limit);
            let label = if row.noted.iter().all(|(name, _)| name.contains(',')) {
                format!("threshold of {}", name.split(',').next().unwrap_or(name))
            } else {
                "threshold".to_owned()
            };
            if !known && !limit.is_empty() {
                judged = judged.with(Series::new(label, Style::Limit, limit));
            }
        }
    }
    let note =
        "What it compares with its threshold: below it, the step is skipped unless a limit computes it.";
    out.extend(figure(compared, &html! { (name) ": judged" }, note, judged)?);
    Ok(out)
}

/// The steps at which every branch that ran was skipped, and those at which only some were.
fn skipped(row: &Row, first: usize) -> Vec<Shade> {
    let strips: Vec<Vec<char>> =
        row.strips.iter().map(|(_, strip)| strip.chars().filter(|c| *c != '|').collect()).collect();
    let steps = strips.iter().map(Vec::len).max().unwrap_or(0);
    // Number of branches that ran at a step, and of those that were skipped.
    let at = |step: usize| {
        let marks = strips.iter().filter_map(|strip| strip.get(step)).filter(|mark| **mark != '-');
        marks.fold((0, 0), |(ran, skipped), mark| (ran + 1, skipped + usize::from(*mark == '.')))
    };
    let span = |step: usize| [(first + step) as f64 - 0.5, (first + step) as f64 + 0.5];
    let shade = |label: &str, light: bool, of: fn((usize, usize)) -> bool| {
        let spans: Vec<[f64; 2]> = (0..steps).filter(|step| of(at(*step))).map(span).collect();
        (!spans.is_empty()).then(|| Shade { label: label.to_owned(), light, spans })
    };
    let all = shade("skipped", false, |(ran, skipped)| skipped > 0 && skipped == ran);
    let some = shade("skipped by one branch", true, |(ran, skipped)| skipped > 0 && skipped < ran);
    all.into_iter().chain(some).collect()
}

/// A chart with its heading, note and values; `None` for a chart without data.
fn figure(compared: &Compared<'_>, title: &Markup, note: &str, mut chart: Chart) -> Result<Option<Markup>> {
    if chart.is_empty() {
        return Ok(None);
    }
    chart.size = SIZE;
    chart.marks = marks(compared);
    let label = format!("{} by step, as lines; the values follow", chart.y);
    let drawing = PreEscaped(chart.svg()?);
    Ok(Some(html! {
        figure class="chart" {
            figcaption { h3 { (title) } p { (note) } }
            div class="plot" role="img" aria-label=(label) { (drawing) }
            details { summary { "Values" } (scrolling("Values by step", &values(&chart))) }
        }
    }))
}

fn values(chart: &Chart) -> Markup {
    let mut steps: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    for (i, series) in chart.series.iter().enumerate() {
        for (step, value) in &series.points {
            let cells = steps.entry(*step as u64).or_insert_with(|| vec![None; chart.series.len()]);
            if let Some(cell) = cells.get_mut(i) {
                *cell = Some(*value);
            }
        }
    }
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Step" }
                    @for series in &chart.series { th scope="col" { (series.name) } }
                }
            }
            tbody {
                @for (step, cells) in &steps {
                    tr {
                        th scope="row" { (step) }
                        @for cell in cells { td { (cell.map_or("–".to_owned(), |v| format!("{v:.4}"))) } }
                    }
                }
            }
        }
    }
}
