//! The verdict on every profile that the caches of a run use.

use anyhow::Result;
use magcache_core::{
    CachePlan, ModelMeta, Trajectory,
    profile::{Part, Profile},
};
use serde_json::{Value, json};

use super::{
    Conditions, Facts,
    verdict::{Judged, Known, Verdict, WeightsHash, reasons},
};
use crate::{
    args::{Dtype, Sampling},
    console::{Console, bad_input_with},
    job::{Chosen, Job},
};

/// Weights up to this size are hashed before every run that has a recorded hash to compare.
pub(crate) const SMALL: u64 = 1 << 30;

/// Judges the profiles of a run with weights: the run of `job` with the caches `cache`. `kept` is the dtype
/// of the weights, if known.
pub(crate) fn of_plan(
    job: &Job,
    cache: &CachePlan,
    flags: &Sampling,
    kept: Option<Dtype>,
) -> Result<Vec<Judged>> {
    let checkpoint = || -> Result<WeightsHash> {
        let bytes = job.pipeline.weight_bytes()?;
        if bytes > SMALL && !flags.check_checkpoint {
            return Ok(WeightsHash::Unread(bytes));
        }
        Ok(WeightsHash::Of(job.pipeline.fingerprint()?))
    };
    let meta = job.pipeline.meta();
    let (run, facts) = (&job.trajectory, Conditions::facts(job, kept)?);
    let known = Known { model: Some(meta), run, facts, checkpoint: WeightsHash::None };
    judge(cache, job.chosen.as_ref(), meta, known, &checkpoint)
}

/// Judges the profiles of a run that is known only from a profile; `meta` is its model, `chosen` what was
/// planned for it.
pub(crate) fn of_schedule(
    cache: &CachePlan,
    chosen: Option<&Chosen>,
    meta: &ModelMeta,
    run: &Trajectory,
    facts: Facts,
) -> Result<Vec<Judged>> {
    let known = Known { model: None, run, facts, checkpoint: WeightsHash::None };
    judge(cache, chosen, meta, known, &|| Ok(WeightsHash::None))
}

/// `known` lacks the weights: they are hashed only if a profile records its own.
fn judge(
    cache: &CachePlan,
    chosen: Option<&Chosen>,
    meta: &ModelMeta,
    known: Known<'_>,
    checkpoint: &dyn Fn() -> Result<WeightsHash>,
) -> Result<Vec<Judged>> {
    let mut used = Vec::new();
    for entry in &cache.cache {
        let Some(name) = entry.words.profile.as_deref().or(meta.profiles.first().copied()) else { continue };
        for (strategy, part) in entry.reads() {
            let (profile, variant) = (Profile::find(name)?, entry.words.variant.as_deref());
            // Some strategies work without the data.
            if profile.sources(part, variant, known.run).is_ok_and(|sources| !sources.is_empty()) {
                used.push((name, profile, strategy, (part, false), variant));
            }
        }
    }
    if let Some(name) = chosen.and_then(|chosen| chosen.planned_by.as_deref()) {
        let part = (Part::Schedules, chosen.is_some_and(|chosen| chosen.searched));
        used.push((name, Profile::find(name)?, "the planned schedule", part, None));
    }
    let recorded = used.iter().any(|(_, profile, ..)| records_checkpoint(profile));
    let checkpoint = if recorded { checkpoint()? } else { WeightsHash::None };
    let known = Known { checkpoint, ..known };
    let one =
        |(name, profile, strategy, part, variant): (&str, Profile, &str, (Part, bool), Option<&str>)| {
            Judged {
                profile: name.to_owned(),
                strategy: strategy.to_owned(),
                reasons: reasons((name, &profile), part, variant, &known),
            }
        };
    Ok(used.into_iter().map(one).collect())
}

fn records_checkpoint(profile: &Profile) -> bool {
    profile.all_sources().any(|source| source.measured.contains_key("checkpoint"))
}

/// Reports the verdicts; a refused profile is an error unless `force` is set.
pub(crate) fn announce(judged: &[Judged], force: bool, out: &Console) -> Result<()> {
    for one in judged {
        match one.verdict() {
            Verdict::Refused if force => out.warn(&format!("{one}; --force uses it all the same"), None),
            Verdict::Refused => {
                let hint =
                    "measure this model with `magcache calibrate`, or use it all the same with --force";
                return Err(bad_input_with(one.to_string(), hint));
            }
            Verdict::Exact | Verdict::Usable => out.note(&one.to_string()),
        }
    }
    Ok(())
}

/// The worst verdict for `--json`, with all reasons; null if no cache uses a profile.
pub(crate) fn json(judged: &[Judged]) -> Value {
    let Some(worst) = judged.iter().map(Judged::verdict).max() else { return Value::Null };
    let reasons: Vec<&str> =
        judged.iter().flat_map(|one| &one.reasons).map(|reason| reason.text.as_str()).collect();
    json!({
        "verdict": worst,
        "reasons": reasons,
        "caches": judged.iter().map(Judged::json).collect::<Vec<_>>(),
    })
}
