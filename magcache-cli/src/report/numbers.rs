//! The table.

use super::html::{escape, name, scrolling};
use crate::{
    compare::{
        Compared, answer,
        estimate::Spread,
        row::{Role, Row},
    },
    summary,
};

/// What a column is called, and what it says.
const COLUMNS: [(&str, &str); 10] = [
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
        "Against fewer steps, dB",
        "PSNR less that of a dense run of as many steps as the configuration computed: below 0 the cache loses.",
    ),
    ("Cache", "Bytes held between steps, at the peak."),
];

pub(super) fn section(compared: &Compared) -> String {
    let columns = &COLUMNS[..];
    let shown = |title: &str| compared.baselines || !title.starts_with("Against");
    let head: String = columns
        .iter()
        .filter(|(title, _)| shown(title))
        .map(|(title, _)| format!("<th scope=\"col\">{title}</th>"))
        .collect();
    let body: String = compared.rows.iter().map(|row| line(compared, row)).collect();
    let table = format!(
        "<table><thead><tr>{head}<th scope=\"col\">Seconds</th></tr></thead><tbody>{body}</tbody></table>"
    );
    let verdicts: String = if compared.baselines {
        let lines = compared.rows.iter().filter_map(answer::verdict);
        lines.map(|line| format!("<li>{}</li>", escape(&line))).collect()
    } else {
        String::new()
    };
    let verdicts =
        if verdicts.is_empty() { verdicts } else { format!("<ul class=\"verdicts\">{verdicts}</ul>") };
    let meaning: String = columns
        .iter()
        .filter(|(title, meaning)| shown(title) && !meaning.is_empty())
        .map(|(title, meaning)| format!("<div><dt>{title}</dt><dd>{meaning}</dd></div>"))
        .collect();
    format!(
        "{}{verdicts}<details><summary>What the numbers mean</summary><dl class=\"meaning\">{meaning}\
         <div><dt>Seconds</dt><dd>Of network and decoding.</dd></div></dl><p>{}</p></details>",
        scrolling("Numbers", &table),
        rounds(compared)
    )
}

/// How often all of it was done.
fn rounds(compared: &Compared) -> String {
    let mut text =
        "Lanes of a round take turns step by step, so that a noisy machine treats them alike.".to_owned();
    if compared.rounds > 1 {
        text += &format!(
            " Times are medians of {} rounds, with the smallest and the largest below.",
            compared.rounds
        );
    }
    if compared.seeds.len() > 1 {
        text += &format!(
            " PSNR and SSIM are means over {} seeds with their standard errors.",
            compared.seeds.len()
        );
    }
    if compared.baselines {
        text += " Lanes of fewer steps ran in rounds of their own with a dense lane, as their number of steps was known only then.";
    }
    text
}

fn line(compared: &Compared, row: &Row) -> String {
    let dash = || "–".to_owned();
    let note = match row.role {
        Role::Baseline => format!("<small>no cache, as {}</small>", escape(&row.of.join(", "))),
        _ => String::new(),
    };
    let gain = match row.role {
        Role::Config => match &row.against {
            Some(against) => against.psnr_gain.map_or_else(dash, |gain| {
                let sign = if gain.mean >= 0.0 { "+" } else { "" };
                let text = format!("{sign}{}", answer::estimate(Some(gain), 2));
                text.replace('-', "−")
            }),
            None => dash(),
        },
        _ => dash(),
    };
    let dense = row.role == Role::Dense;
    let speedup = |spread: &Spread| {
        let text = if dense { "1.00×".to_owned() } else { times(spread, compared.rounds) };
        if row.is_noise(spread) { text + "<small>noise: above the ceiling</small>" } else { text }
    };
    let quality = |text: String| if text == "-" { dash() } else { text };
    let mut cells = vec![
        row.computed.to_string(),
        row.skipped.to_string(),
        row.ceiling.map_or_else(dash, |c| format!("{c:.2}×")),
        speedup(&row.transformer_speedup),
        speedup(&row.speedup),
        quality(answer::estimate(row.psnr, 2)),
        quality(answer::estimate(row.ssim, 4)),
    ];
    if compared.baselines {
        cells.push(gain);
    }
    cells.push(if row.cache_bytes == 0 { dash() } else { summary::bytes(row.cache_bytes) });
    cells.push(format!("{:.2}", row.seconds.median));
    format!(
        "<tr class=\"{}\"><th scope=\"row\">{}{note}</th>{}</tr>",
        if row.role == Role::Baseline { "minor" } else { "major" },
        name(&compared.rows, row),
        cells.iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>()
    )
}

/// `1.80×`, with several rounds also `1.73–1.84`.
fn times(spread: &Spread, rounds: usize) -> String {
    let median = format!("{:.2}×", spread.median);
    if rounds > 1 { format!("{median}<small>{:.2}–{:.2}</small>", spread.min, spread.max) } else { median }
}
