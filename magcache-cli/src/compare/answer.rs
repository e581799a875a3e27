//! The output of `compare` and `demo`.

use serde_json::{Value, json};

use super::{
    Compared,
    estimate::{Estimate, Spread},
    row::{Role, Row},
};
use crate::{console::Console, files::wrote, summary};

/// A finite number, or null.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|v| v.is_finite())
}

/// `44.26`, with a standard error `44.26 ±0.31`; `same` if nothing differs.
pub(crate) fn estimate(value: Option<Estimate>, digits: usize) -> String {
    match value {
        None => "-".to_owned(),
        Some(Estimate { mean, .. }) if mean.is_infinite() => "same".to_owned(),
        Some(Estimate { mean, standard_error: None }) => format!("{mean:.digits$}"),
        Some(Estimate { mean, standard_error: Some(e) }) => format!("{mean:.digits$} ±{e:.digits$}"),
    }
}

/// Marks a speed-up that is noise.
const NOISE: &str = "*";

/// An explanation of that mark, for a row that has it.
fn noise(row: &Row, rounds: usize) -> Option<String> {
    let noisy = [&row.transformer_speedup, &row.speedup].into_iter().find(|speedup| row.is_noise(speedup))?;
    let (name, ceiling) = (&row.name, row.ceiling?);
    let spread = match rounds {
        0 | 1 => "one round has no spread: magcache compare --repeat 5 shows it".to_owned(),
        _ => format!("{:.3}x to {:.3}x in {rounds} rounds", noisy.min, noisy.max),
    };
    Some(format!(
        "{NOISE} {name}: above the ceiling of {ceiling:.3}x is noise of the measurement, {spread}\n"
    ))
}

pub(crate) fn cells(row: &Row) -> [String; 12] {
    let cache = if row.cache_bytes == 0 { "-".to_owned() } else { summary::bytes(row.cache_bytes) };
    let times = |s: &Spread| format!("{:.3}x{}", s.median, if row.is_noise(s) { NOISE } else { "" });
    [
        row.name.clone(),
        row.computed.to_string(),
        row.skipped.to_string(),
        row.ceiling.map_or("-".to_owned(), |c| format!("{c:.3}x")),
        times(&row.transformer_speedup),
        times(&row.speedup),
        estimate(row.psnr, 2),
        estimate(row.ssim, 4),
        frames(row.ssimulacra2, 1, "5%"),
        frames(row.lpips, 4, "95%"),
        cache,
        format!("{:.2}", row.seconds.median),
    ]
}

pub(crate) const COLUMNS: [&str; 12] = [
    "lane",
    "computed",
    "skipped",
    "ceiling",
    "transformer",
    "speed-up",
    "PSNR",
    "SSIM",
    "SSIMULACRA2",
    LPIPS,
    "cache",
    "seconds",
];

/// The column that is left out unless it is asked for.
pub(crate) const LPIPS: &str = "LPIPS";

/// The mean over the frames, and a percentile: `91.2 (5%: 88.0)`.
pub(crate) fn frames(scores: [Option<Estimate>; 2], digits: usize, percentile: &str) -> String {
    match scores {
        [Some(Estimate { mean, .. }), Some(worst)] => {
            format!("{mean:.digits$} ({percentile}: {:.digits$})", worst.mean)
        }
        _ => "-".to_owned(),
    }
}

/// A sentence for each configuration that compares it with its baseline, if baselines were run.
pub(crate) fn verdicts(compared: &Compared<'_>) -> Vec<String> {
    compared.configs().filter(|_| compared.of.baselines).map(verdict).collect()
}

fn verdict(row: &Row) -> String {
    let Some(against) = &row.against else {
        return format!("{}: skips so little that the dense run is its baseline", row.name);
    };
    let name = &row.name;
    let baseline = format!("{} without a cache", against.name);
    match against.psnr_gain {
        Some(gain) if gain.mean.is_finite() => {
            let error = gain.standard_error.map_or(String::new(), |e| format!(" ±{e:.2}"));
            let (by, where_) = if gain.mean < 0.0 { (-gain.mean, "below") } else { (gain.mean, "above") };
            let lost = if gain.mean < 0.0 { ": it loses" } else { "" };
            format!("{name}: {by:.2} dB{error} {where_} {baseline}{lost}")
        }
        Some(gain) if gain.mean > 0.0 => format!("{name}: as the dense run, {baseline} is not"),
        Some(_) => format!("{name}: {baseline} is as the dense run, it is not: it loses"),
        None => format!("{name}: no nearer to the dense run than {baseline}"),
    }
}

/// Prints the table and what was written, or the JSON document.
pub(crate) fn answer(compared: &Compared<'_>, out: &Console) {
    out.answer(&text(compared), &document(compared));
}

/// What the columns of [`table`] count.
pub(crate) const UNITS: &str = "passes of the network; speed-up of the transformer and of the run (without loading), in turns with dense\n";

/// A line for each lane below the names of the columns.
pub(crate) fn table(compared: &Compared<'_>) -> String {
    let table: Vec<[String; 12]> =
        std::iter::once(COLUMNS.map(str::to_owned)).chain(compared.rows.iter().map(cells)).collect();
    let shown = |column: &usize| compared.of.lpips.is_some() || COLUMNS[*column] != LPIPS;
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &table {
        for (column, cell) in row.iter().enumerate().filter(|(column, _)| shown(column)) {
            let width = width(column);
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

fn text(compared: &Compared<'_>) -> String {
    let (rows, rounds, seeds) = (&compared.rows, compared.of.rounds(), &compared.of.seeds);
    let mut text = table(compared) + UNITS;
    text.extend(rows.iter().filter_map(|row| noise(row, rounds)));
    if seeds.len() > 1 {
        let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        text += &format!(
            "PSNR and SSIM: mean ± standard error over seeds {}; passes of the first\n",
            seeds.join(", ")
        );
    }
    for row in rows.iter().filter(|row| row.role != Role::Dense && rounds > 1) {
        let range = |s: &Spread| format!("{:.3}x ({:.3}x to {:.3}x)", s.median, s.min, s.max);
        let (transformer, run) = (range(&row.transformer_speedup), range(&row.speedup));
        text += &format!("{}: transformer {transformer}, run {run} in {rounds} rounds\n", row.name);
    }
    text.push('\n');
    let verdicts = verdicts(compared);
    if !verdicts.is_empty() {
        text += &format!("{}\n\n", verdicts.join("\n"));
    }
    let name = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    for row in rows {
        for (branch, strip) in &row.strips {
            text += &format!("{:<name$} {branch:>7} {strip}\n", row.name);
        }
    }
    if let Some(bytes) = compared.peak_memory {
        text += &format!("{} of memory at the peak, of the whole process\n", summary::bytes(bytes));
    }
    text + &wrote(&compared.outputs)
}

pub(crate) fn document(compared: &Compared<'_>) -> Value {
    json!({
        "rows": compared.rows.iter().map(row).collect::<Vec<_>>(),
        "outputs": compared.outputs,
        "model": compared.of.job.pipeline.meta().name,
        "prompt": compared.of.job.request.prompt,
        "seeds": compared.of.seeds,
        "rounds": compared.of.rounds(),
        "peak_memory_bytes": compared.peak_memory,
        "machine": compared.machine,
    })
}

fn row(row: &Row) -> Value {
    let mean = |e: Option<Estimate>| e.and_then(|e| finite(e.mean));
    let error = |e: Option<Estimate>| e.and_then(|e| e.standard_error);
    json!({
        "name": row.name,
        "role": row.role,
        "steps": row.steps,
        "computed": row.computed,
        "skipped": row.skipped,
        "ceiling": row.ceiling,
        "speedup": row.speedup.median,
        "speedup_range": [row.speedup.min, row.speedup.max],
        "transformer_speedup": row.transformer_speedup.median,
        "transformer_speedup_range": [row.transformer_speedup.min, row.transformer_speedup.max],
        "above_ceiling": row.is_noise(&row.transformer_speedup) || row.is_noise(&row.speedup),
        "psnr": mean(row.psnr),
        "psnr_standard_error": error(row.psnr),
        "ssim": mean(row.ssim),
        "ssim_standard_error": error(row.ssim),
        "ssimulacra2": mean(row.ssimulacra2[0]),
        "ssimulacra2_standard_error": error(row.ssimulacra2[0]),
        "ssimulacra2_worst": mean(row.ssimulacra2[1]),
        "lpips": mean(row.lpips[0]),
        "lpips_standard_error": error(row.lpips[0]),
        "lpips_worst": mean(row.lpips[1]),
        "seeds": row.by_seed,
        "baseline": row.against.as_ref().map(|against| json!({
            "name": against.name,
            "psnr_gain": mean(against.psnr_gain),
            "psnr_gain_standard_error": error(against.psnr_gain),
        })),
        "baseline_of": row.of,
        "cache_bytes": row.cache_bytes,
        "seconds": row.seconds.median,
        "divergence": row.divergence,
        "output": row.file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(transformer: Spread) -> Row {
        Row {
            name: "magcache".to_owned(),
            role: Role::Config,
            of: Vec::new(),
            steps: 12,
            computed: 14,
            skipped: 10,
            ceiling: Some(1.714),
            speedup: Spread { median: 1.6, min: 1.5, max: 1.7 },
            transformer_speedup: transformer,
            seconds: Spread { median: 1.0, min: 1.0, max: 1.0 },
            psnr: None,
            ssim: None,
            ssimulacra2: [None; 2],
            lpips: [None; 2],
            against: None,
            by_seed: Vec::new(),
            cache_bytes: 0,
            divergence: Vec::new(),
            strips: Vec::new(),
            noted: Vec::new(),
            config: String::new(),
            file: String::new(),
            stills: Vec::new(),
        }
    }

    #[test]
    fn a_speed_up_above_the_ceiling_is_noise_and_has_its_spread() {
        let above = row(Spread { median: 1.788, min: 1.65, max: 1.81 });
        assert_eq!(cells(&above)[4..6], ["1.788x*", "1.600x"]);
        let told = "* magcache: above the ceiling of 1.714x is noise of the measurement, 1.650x to 1.810x in 3 rounds\n";
        assert_eq!(noise(&above, 3).as_deref(), Some(told));
        assert!(noise(&above, 1).is_some_and(|told| told.contains("--repeat")));
        assert_eq!(super::row(&above)["above_ceiling"], true);

        let below = row(Spread { median: 1.7, min: 1.65, max: 1.81 });
        assert_eq!((cells(&below)[4].as_str(), noise(&below, 3)), ("1.700x", None));
        // Fewer steps can be faster than the ceiling of their own dense run.
        let fewer = Row { role: Role::Baseline, ceiling: Some(1.0), ..above };
        assert_eq!((cells(&fewer)[4].as_str(), noise(&fewer, 3)), ("1.788x", None));
    }
}
