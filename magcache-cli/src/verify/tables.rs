//! Tables of published decisions: parameters in, skipped steps out. No model runs.
//!
//! A table is a JSON file with `rows`. Every row is decided again by the rules of `magcache-strategies` on
//! the built-in profiles, and must match step by step.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
};

use anyhow::{Context, Result, bail};
use magcache_core::{
    Branch, Expert, Phase, Step, Warmup, meta,
    profile::{Curve, Fit, Profile, resample},
};
// Links the crate, and so the profiles that it registers, into the program.
use magcache_models as _;
use magcache_strategies::{
    magcache::{Dialect, MagCache},
    teacache::{Rescaling, TeaCache},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// The result for a table.
#[derive(Debug, Default)]
pub(super) struct TableReport {
    /// Number of rows that were decided again.
    pub(super) rows: usize,
    /// What differs: the row, counted from 0, its rule and branch, and both decisions.
    pub(super) mismatches: Vec<String>,
}

/// The parameters of a MagCache row.
#[derive(Debug, Deserialize)]
struct MagCacheRow {
    rule: String,
    curve: String,
    steps: usize,
    threshold: f64,
    #[serde(rename = "K")]
    max_skips: usize,
    retention_ratio: f64,
    high_noise_steps: Option<usize>,
    decisions: BTreeMap<String, String>,
}

/// The parameters of a TeaCache row, and how far its signal moved at each step.
#[derive(Debug, Deserialize)]
struct TeaCacheRow {
    model: String,
    rule: String,
    threshold: f64,
    distances: BTreeMap<String, Vec<f64>>,
    decisions: BTreeMap<String, String>,
}

/// The values that represent `n` steps of a curve of `source_len`.
#[derive(Debug, Deserialize)]
struct ResamplingRow {
    source_len: usize,
    n: usize,
    index_official: Vec<usize>,
    index_maxdiffusion: Vec<usize>,
    index_diffusers: Vec<usize>,
}

/// Where implementations pick different values for `n` steps.
#[derive(Debug, Deserialize)]
struct DisagreementRow {
    source_len: usize,
    n: usize,
    maxdiffusion_differs_at: Vec<usize>,
    diffusers_differs_at: Vec<usize>,
}

/// Keys that tell the kinds of rows apart.
const KINDS: [&str; 3] = ["index_official", "distances", "curve"];

/// The keys of a table's rows, if they are of no kind that is known here.
pub(super) fn unknown(json: &Value) -> Option<String> {
    let row = json.get("rows")?.as_array()?.first()?.as_object()?;
    let keys = row.keys().map(String::as_str).collect::<Vec<_>>();
    (!KINDS.iter().any(|kind| keys.contains(kind))).then(|| keys.join(", "))
}

/// Decides every row of a table again.
///
/// Errors: the document is not a table, or a row names an unknown rule, curve or fit.
pub(super) fn check(json: &Value) -> Result<TableReport> {
    let rows = json.get("rows").and_then(Value::as_array).context("the document has no `rows`")?;
    let known = Known::load()?;
    let mut report = TableReport::default();
    for (i, row) in rows.iter().enumerate() {
        report.row(i, row, &known).with_context(|| format!("row {i}"))?;
    }
    let key = "source_len_and_n_where_implementations_disagree";
    for (i, row) in json.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
        report.disagreement(i, &read(row)?);
    }
    Ok(report)
}

impl TableReport {
    fn row(&mut self, i: usize, row: &Value, known: &Known) -> Result<()> {
        if row.get("index_official").is_some() {
            self.resampling(i, &read(row)?);
            Ok(())
        } else if row.get("distances").is_some() {
            self.teacache(i, &read(row)?, known)
        } else {
            self.magcache(i, &read(row)?, known)
        }
    }

    fn magcache(&mut self, i: usize, row: &MagCacheRow, known: &Known) -> Result<()> {
        let rule = MagCache {
            dialect: dialect(&row.rule)?,
            threshold: row.threshold,
            max_skips: row.max_skips,
            retention: Warmup::Fraction(row.retention_ratio),
            curves: vec![known.curve(&row.curve)?],
            assume_steps: None,
        };
        let phases = phases(row.steps, row.high_noise_steps);
        for (name, expected) in &row.decisions {
            let branch = branch(name)?;
            let skips = match row.rule.as_str() {
                "maxdiffusion_wan21" => unguarded(&rule, &phases, branch),
                _ => rule.schedule(&phases, branch),
            };
            self.compare(i, format!("{} {name}", row.rule), expected, &digits(skips));
        }
        self.rows += 1;
        Ok(())
    }

    fn teacache(&mut self, i: usize, row: &TeaCacheRow, known: &Known) -> Result<()> {
        let fit = known.fits.get(&row.model).with_context(|| format!("no built-in fit {:?}", row.model))?;
        let cache =
            TeaCache { threshold: row.threshold, signal: fit.signal, rescalings: vec![Rescaling::from(fit)] };
        for (name, expected) in &row.decisions {
            let distances = row.distances.get(name).with_context(|| format!("no distances of {name}"))?;
            self.compare(i, format!("{} {name}", row.rule), expected, &digits(skips(&cache, fit, distances)));
        }
        self.rows += 1;
        Ok(())
    }

    fn resampling(&mut self, i: usize, row: &ResamplingRow) {
        let pick = |index: fn(usize, usize, usize) -> usize| -> Vec<usize> {
            (0..row.n).map(|step| index(row.source_len, row.n, step)).collect()
        };
        self.compare(i, "index_official", &row.index_official, &pick(resample::index));
        self.compare(i, "index_maxdiffusion", &row.index_maxdiffusion, &pick(resample::index));
        self.compare(i, "index_diffusers", &row.index_diffusers, &pick(resample::index_f32));
        self.rows += 1;
    }

    fn disagreement(&mut self, i: usize, row: &DisagreementRow) {
        let (len, n) = (row.source_len, row.n);
        let ours = |i: &usize| resample::index(len, n, *i) != resample::index_f32(len, n, *i);
        let differs: Vec<usize> = (0..n).filter(ours).collect();
        self.compare(i, "diffusers_differs_at", &row.diffusers_differs_at, &differs);
        self.compare(i, "maxdiffusion_differs_at", &row.maxdiffusion_differs_at, &Vec::new());
        self.rows += 1;
    }

    fn compare<T: PartialEq + Debug>(&mut self, row: usize, rule: impl Display, expected: &T, got: &T) {
        if expected != got {
            self.mismatches.push(format!("row {row}, {rule}: got {got:?}, expected {expected:?}"));
        }
    }
}

/// The built-in curves and fits, by the names of the published constants.
struct Known {
    curves: BTreeMap<String, Curve>,
    fits: BTreeMap<String, Fit>,
}

impl Known {
    fn load() -> Result<Self> {
        let mut known = Self { curves: BTreeMap::new(), fits: BTreeMap::new() };
        for info in meta::profiles() {
            let profile = Profile::parse(info.toml, info.name)?;
            for curve in profile.curves {
                if let Some(id) = curve.source.id.clone() {
                    known.curves.entry(id).or_insert(curve);
                }
            }
            for fit in profile.fits {
                if let Some(id) = fit.source.id.clone() {
                    known.fits.entry(id).or_insert(fit);
                }
            }
        }
        Ok(known)
    }

    /// The curve `wan21_t2v_1_3b`, or `wan21_t2v_1_3b[1::2]` for only the second of its interleaved halves.
    fn curve(&self, name: &str) -> Result<Curve> {
        let halves = [("[0::2]", Branch::Cond), ("[1::2]", Branch::Uncond)];
        let half = halves.iter().find_map(|(suffix, branch)| Some((name.strip_suffix(suffix)?, *branch)));
        let (id, branch) = half.map_or((name, None), |(id, branch)| (id, Some(branch)));
        let curve = self.curves.get(id).with_context(|| format!("no built-in curve {id:?}"))?.clone();
        Ok(match branch {
            Some(branch) => {
                let ratios = BTreeMap::from([(Branch::Cond.to_string(), curve.of(branch).to_vec())]);
                Curve { ratios, ..curve }
            }
            None => curve,
        })
    }
}

/// The dialect that a table names after the code that produced it.
fn dialect(rule: &str) -> Result<Dialect> {
    Ok(match rule {
        "maxdiffusion_wan21" | "maxdiffusion_wan22" => Dialect::Magcache,
        "official_wan21" | "official_wan22_ti2v" => Dialect::OfficialWan,
        "official_wan22_t2v" => Dialect::OfficialWan22T2v,
        "official_wan22_i2v" => Dialect::OfficialWan22I2v,
        "official_flux" => Dialect::OfficialFlux,
        "official_hunyuan" => Dialect::OfficialHunyuan,
        "official_framepack" => Dialect::OfficialFramepack,
        "official_omnigen2" => Dialect::OfficialOmnigen2,
        "diffusers_magcache" => Dialect::Diffusers,
        _ => bail!("unknown rule {rule:?}"),
    })
}

/// Joint decisions for both branches, and those of an only branch, count as the conditional branch's.
fn branch(name: &str) -> Result<Branch> {
    match name {
        "cond" | "joint" | "single" => Ok(Branch::Cond),
        "uncond" => Ok(Branch::Uncond),
        _ => bail!("unknown branch {name:?}"),
    }
}

fn phases(steps: usize, high: Option<usize>) -> Vec<Phase> {
    match high {
        Some(high) if 0 < high && high < steps => {
            vec![Phase { expert: Expert(0), steps: 0..high }, Phase { expert: Expert(1), steps: high..steps }]
        }
        _ => vec![Phase::whole(steps)],
    }
}

/// [`MagCache::schedule`] as in maxdiffusion's Wan2.1 loop, which does not check whether there is anything to
/// reuse: with no step retained, it skips the first one. Its Wan2.2 loop and our adapter never do.
fn unguarded(rule: &MagCache, phases: &[Phase], branch: Branch) -> Vec<bool> {
    let (total, mut computed) = (phases.last().map_or(0, |p| p.steps.end), None);
    let decide = |index| {
        let reuse = rule.decide_after(&Step::in_phases(index, total, phases), branch, computed).reuse;
        computed = if reuse { computed } else { Some(index) };
        reuse
    };
    (0..total).map(decide).collect()
}

/// Which steps are skipped if the signal moves by these distances; the first step has no predecessor.
fn skips(cache: &TeaCache, fit: &Fit, distances: &[f64]) -> Vec<bool> {
    let (steps, mut accumulated) = (distances.len(), 0.0);
    let forced = |i| i < fit.warmup.steps(steps) || i + fit.last_steps >= steps;
    let step = |(i, distance): (usize, &f64)| {
        let (sum, verdict) = cache.accumulate(Expert(0), accumulated, *distance);
        let skip = verdict.reuse && !forced(i);
        accumulated = if skip { sum } else { 0.0 };
        skip
    };
    distances.iter().enumerate().map(step).collect()
}

fn digits(skips: Vec<bool>) -> String {
    skips.into_iter().map(|skip| if skip { '1' } else { '0' }).collect()
}

fn read<T: DeserializeOwned>(row: &Value) -> Result<T> {
    Ok(T::deserialize(row)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/cache_tables/");
        serde_json::from_str(&std::fs::read_to_string(format!("{folder}{name}.json")).unwrap()).unwrap()
    }

    #[test]
    fn every_published_decision_comes_out_equal() {
        let tables = [
            ("magcache_published", 46),
            ("magcache_wan21", 231),
            ("magcache_wan22", 192),
            ("magcache_single", 218),
            ("teacache", 108),
            ("interpolation", 24 + 12),
        ];
        for (name, rows) in tables {
            let report = check(&table(name)).unwrap();
            assert_eq!(report.rows, rows, "{name}");
            assert_eq!(report.mismatches, [""; 0], "{name}");
        }
    }

    #[test]
    fn the_first_step_is_skipped_only_where_the_published_loop_does_so() {
        let row = |rule: &str, decisions: &str| {
            serde_json::json!({ "rows": [{
                "rule": rule, "curve": "wan21_t2v_1_3b", "steps": 3, "threshold": 9.0, "K": 1,
                "retention_ratio": 0.0, "decisions": { "joint": decisions },
            }] })
        };
        assert_eq!(check(&row("maxdiffusion_wan21", "101")).unwrap().mismatches, [""; 0]);
        assert_eq!(check(&row("maxdiffusion_wan22", "010")).unwrap().mismatches, [""; 0]);
    }

    #[test]
    fn rows_of_another_kind_are_known_by_their_keys() {
        for name in ["magcache_published", "teacache", "interpolation"] {
            assert_eq!(unknown(&table(name)), None, "{name}");
        }
        let other = serde_json::json!({ "rows": [{ "path": "a", "decisions": "001" }] });
        assert_eq!(unknown(&other).as_deref(), Some("decisions, path"));
    }

    #[test]
    fn rows_that_cannot_be_decided_are_errors() {
        for (key, value) in [("rule", "majority"), ("curve", "wan9"), ("steps", "many")] {
            let mut json = table("magcache_published");
            json["rows"][0][key] = Value::from(value);
            assert!(check(&json).unwrap_err().chain().any(|e| e.to_string().contains(value)), "{key}");
        }
    }
}
