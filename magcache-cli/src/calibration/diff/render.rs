//! A comparison of profiles as text, as JSON and as a chart.

use std::fmt;

use anyhow::Result;
use magcache_core::{
    error::count,
    profile::{Profile, resample},
};
use serde_json::{Value, json};

use super::{Decisions, Diff, Values};
use crate::plot::{Chart, Series, Style};

impl Diff {
    pub(crate) fn json(&self, tolerance: f64) -> Result<Value> {
        Ok(json!({
            "equal": self.equal(tolerance),
            "tolerance": tolerance,
            "conditions": serde_json::to_value(&self.conditions)?,
            "missing": serde_json::to_value(&self.missing)?,
            "values": self.values.iter().map(Values::json).collect::<Vec<_>>(),
            "decisions": self.decisions.iter().map(Decisions::json).collect::<Vec<_>>(),
        }))
    }
}

impl Values {
    fn json(&self) -> Value {
        let Self { what, quantity, largest, mean, at, place, range, decides } = self;
        json!({
            "of": what, "quantity": quantity, "largest": largest, "mean": mean, "at": { *place: at },
            "compared_on": range, "decides": decides,
        })
    }
}

impl Decisions {
    fn json(&self) -> Value {
        let Self { strategy, variant, branch, steps, settings, skipped: [a, b] } = self;
        json!({
            "strategy": strategy, "variant": variant, "branch": branch, "steps": steps,
            "threshold": settings.threshold, "max_skips": settings.max_skips, "warmup": settings.warmup,
            "skipped_a": a, "skipped_b": b, "only_a": self.only(0), "only_b": self.only(1),
        })
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut of = "";
        for c in &self.conditions {
            if c.of != of {
                writeln!(f, "{}", c.of)?;
                of = &c.of;
            }
            let word = |value: &Option<String>| value.as_deref().map_or_else(|| "none".to_owned(), short);
            writeln!(f, "  {}: {} in a, {} in b", c.key, word(&c.a), word(&c.b))?;
        }
        for m in &self.missing {
            match m.only_in {
                '-' => writeln!(f, "there is no {}", m.what)?,
                which => writeln!(f, "only {which} has the {}", m.what)?,
            }
        }
        for v in self.values.iter().filter(|v| v.largest > 0.0) {
            let Values { what, quantity, largest, mean, at, place, range: [low, high], .. } = v;
            let (at, low, high) = (number(*at), number(*low), number(*high));
            writeln!(
                f,
                "{what}: {quantity} differs by at most {largest:.3e} ({place} {at}), {mean:.3e} in the mean of {low} to {high}"
            )?;
        }
        for d in &self.decisions {
            let settings = &d.settings;
            let variant = d.variant.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
            write!(
                f,
                "{}{variant}, {} of {}, threshold {}, {} at most, warm-up {}: ",
                d.strategy,
                d.branch,
                count(d.steps, "step"),
                settings.threshold,
                count(settings.max_skips, "skip"),
                settings.warmup
            )?;
            let [a, b] = [d.only(0), d.only(1)];
            if a.is_empty() && b.is_empty() {
                writeln!(f, "the same are skipped: {}", count(d.skipped[0].len(), "step"))?;
            } else {
                writeln!(f, "only a skips {a:?}, only b {b:?}")?;
            }
        }
        Ok(())
    }
}

/// Shortens a long list for display.
fn short(value: &str) -> String {
    const LONG: usize = 60;
    if value.chars().count() <= LONG {
        return value.to_owned();
    }
    value.chars().take(LONG).chain(['…']).collect()
}

fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The ratios of the first curves of both profiles, the second resampled to the steps of the first: a colour
/// for each branch, with the second profile dashed.
pub(crate) fn chart(a: &Profile, b: &Profile) -> Chart {
    let mut chart = Chart::new(
        format!("{} (line) and {} (broken)", a.name, b.name),
        "step",
        "mean of |residual| / |residual before|",
    );
    let (Some(ours), Some(theirs)) = (a.curves.first(), b.curves.first()) else { return chart };
    for (colour, (branch, values)) in ours.ratios.iter().enumerate() {
        let line = values.iter().enumerate().map(|(i, ratio)| (i as f64, *ratio)).collect();
        let own = Series::new(format!("a, {branch}"), Style::Marked, line);
        chart = chart.with(Series { colour: Some(colour), ..own });
        if let Some(other) = theirs.ratios.get(branch) {
            let at = |i: usize| other.get(resample::index(other.len(), values.len(), i)).copied();
            let points = (0..values.len()).map(|i| (i as f64, at(i).unwrap_or(f64::NAN))).collect();
            let series = Series::new(format!("b, {branch}"), Style::Dashed, points);
            chart = chart.with(Series { colour: Some(colour + ours.ratios.len()), ..series });
        }
    }
    chart
}
