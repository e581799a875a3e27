//! The table of results.

use maud::{Markup, html};

use super::html::{name, scrolling};
use crate::{
    compare::{
        Compared, answer,
        estimate::Spread,
        row::{Role, Row},
    },
    summary,
};

const COLUMNS: [(&str, &str); 13] = [
    ("Lane", ""),
    (
        "Computed",
        "Passes of the network in which every block ran, over all guidance branches, with the first seed.",
    ),
    ("Skipped", "Passes in which something was reused."),
    ("Ceiling", "What the network could gain if a skipped pass cost nothing."),
    ("Network", "How much faster the network was than the dense one in the same round."),
    ("Whole run", "The same with decoding; loading and encoding the prompt are not counted."),
    ("PSNR, dB", "Against the dense run of the same seed, over the frames that differ."),
    ("SSIM", "Against the dense run of the same seed."),
    (
        "SSIMULACRA2",
        "The same: 100 is equal, above 90 no difference is seen. Mean over the frames, and the worst 5 %.",
    ),
    (answer::LPIPS, "The same: 0 is equal. Mean over the frames, and the worst 5 %."),
    (
        "Against fewer steps, dB",
        "PSNR less that of a dense run of as many steps as the configuration computed: below 0 the cache loses.",
    ),
    ("Cache", "Bytes held between steps, at the peak."),
    ("Seconds", "Of network and decoding."),
];

/// The columns of a comparison.
fn columns(compared: &Compared<'_>) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let shown = |title: &str| match title {
        answer::LPIPS => compared.of.lpips.is_some(),
        _ => compared.of.baselines || !title.starts_with("Against"),
    };
    COLUMNS.iter().filter(move |(title, _)| shown(title))
}

/// The table alone.
pub(super) fn table(compared: &Compared<'_>) -> Markup {
    let table = html! {
        table {
            thead {
                tr { @for (title, _) in columns(compared) { th scope="col" { (title) } } }
            }
            tbody { @for row in &compared.rows { (line(compared, row)) } }
        }
    };
    scrolling("Numbers", &table)
}

pub(super) fn section(compared: &Compared<'_>) -> Markup {
    let verdicts = answer::verdicts(compared);
    html! {
        (table(compared))
        @if !verdicts.is_empty() {
            ul class="verdicts" { @for verdict in &verdicts { li { (verdict) } } }
        }
        details {
            summary { "What the numbers mean" }
            dl class="meaning" {
                @for (title, meaning) in columns(compared).filter(|(_, meaning)| !meaning.is_empty()) {
                    div { dt { (title) } dd { (meaning) } }
                }
            }
            p { (rounds(compared)) }
        }
    }
}

fn rounds(compared: &Compared<'_>) -> String {
    let mut text =
        "Lanes of a round take turns step by step, so that a noisy machine treats them alike.".to_owned();
    let (rounds, seeds) = (compared.of.rounds(), compared.of.seeds.len());
    if rounds > 1 {
        text += &format!(" Times are medians of {rounds} rounds, with the smallest and the largest below.");
    }
    if seeds > 1 {
        text += &format!(" PSNR and SSIM are means over {seeds} seeds with their standard errors.");
    }
    if compared.of.baselines {
        text += " Lanes of fewer steps ran in rounds of their own with a dense lane, as their number of steps was known only then.";
    }
    text
}

fn line(compared: &Compared<'_>, row: &Row) -> Markup {
    let dash = || "–".to_owned();
    let gain = match &row.against {
        Some(against) if row.role == Role::Config => against.psnr_gain.map_or_else(dash, |gain| {
            let sign = if gain.mean >= 0.0 { "+" } else { "" };
            format!("{sign}{}", answer::estimate(Some(gain), 2)).replace('-', "−")
        }),
        _ => dash(),
    };
    let quality = |text: String| if text == "-" { dash() } else { text };
    html! {
        tr class=(if row.role == Role::Baseline { "minor" } else { "major" }) {
            th scope="row" {
                (name(&compared.rows, row))
                @if row.role == Role::Baseline { small { "no cache, as " (row.of.join(", ")) } }
            }
            td { (row.computed) }
            td { (row.skipped) }
            td { (row.ceiling.map_or_else(dash, |c| format!("{c:.2}×"))) }
            @for spread in [&row.transformer_speedup, &row.speedup] { td { (times(compared, row, spread)) } }
            td { (quality(answer::estimate(row.psnr, 2))) }
            td { (quality(answer::estimate(row.ssim, 4))) }
            td { (quality(answer::frames(row.ssimulacra2, 1, "5%"))) }
            @if compared.of.lpips.is_some() { td { (quality(answer::frames(row.lpips, 4, "95%"))) } }
            @if compared.of.baselines { td { (gain) } }
            td { (if row.cache_bytes == 0 { dash() } else { summary::bytes(row.cache_bytes) }) }
            td { (format!("{:.2}", row.seconds.median)) }
        }
    }
}

/// `1.80×`, with several rounds also the range `1.73–1.84`.
fn times(compared: &Compared<'_>, row: &Row, spread: &Spread) -> Markup {
    html! {
        @if row.role == Role::Dense {
            "1.00×"
        } @else {
            (format!("{:.2}×", spread.median))
            @if compared.of.rounds() > 1 { small { (format!("{:.2}–{:.2}", spread.min, spread.max)) } }
        }
        @if row.is_noise(spread) { small { "noise: above the ceiling" } }
    }
}
