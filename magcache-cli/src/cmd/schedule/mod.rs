//! `schedule`: what a strategy will skip, without loading weights.

mod outlook;

use std::collections::BTreeMap;

use anyhow::Result;
use magcache_core::{
    Branch, Phase, Problem, Step, Trajectory,
    error::count,
    log::{DecisionLog, Record},
};
use serde_json::{Value, json};

use self::outlook::{Outlook, cache_bytes, of_model, of_profile, profile_for};
use crate::{
    args::Schedule,
    calibration::judge,
    console::{Console, bad_input_with},
    files::{Writes, wrote},
    job::{Chosen, Config, cache_table, decisions, model_name, set_profile},
    plot::{self, Chart},
    replay::exchange::Export,
    summary::{self, Summary, strip},
};

pub(crate) fn run(args: &Schedule, out: &Console) -> Result<()> {
    let mut config = Config::of(&args.sampling, out)?;
    Writes::of_run(args.writing, &args.sampling, &config)
        .file("--plot", args.plot.as_deref())
        .file("--export", args.export.as_deref())
        .check()?;
    let plot = args.plot.as_deref().map(plot::Target::prepare).transpose()?;
    let export = args.export.as_deref().map(Export::prepare).transpose()?;
    if config.cache.is_empty() && config.target.is_none() && args.sampling.cache.is_none() {
        let [first, ..] = magcache_strategies::SHOWN;
        out.note(&format!(
            "no cache is given: this is what --cache {first} does, a run without --cache is dense"
        ));
        let mut table = cache_table(first, &[])?;
        args.sampling.profile.iter().for_each(|profile| set_profile(&mut table, profile));
        config.cache.push(table);
    }
    let named = config.model.is_some() || config.weights.is_some() || args.sampling.config.is_some();
    // A model without weights runs with the options its profile was measured with.
    let known = config.model.clone().filter(|name| model_name::is_without_weights(name));
    let outlook = match (&args.sampling.profile, known) {
        (profile, Some(model)) => {
            of_profile(&profile_for(&model, profile.as_deref())?, Some(&model), config)?
        }
        (Some(profile), None) if !named => of_profile(profile, None, config)?,
        _ => of_model(config, &args.sampling)?,
    };
    if let Some(chosen) = &outlook.chosen {
        out.note(&chosen.text());
    }
    let job = outlook.config.caches()?;
    let built = job.build(&outlook.meta, Some(&outlook.run))?;
    judge::announce(&outlook.judged, args.sampling.force, out)?;
    let mut warnings = built.warnings.clone();
    let names: Vec<&str> = job.cache.iter().map(|e| e.name.as_str()).collect();
    let strategy = if names.is_empty() { "no cache".to_owned() } else { names.join(" + ") };

    let log = if built.registry.is_static() {
        Some(decisions(&built.registry, &outlook.meta, &outlook.run, outlook.sizes.as_ref())?)
    } else {
        let message = format!("{strategy} decides from what it sees: its schedule is known only after a run");
        warnings
            .push(Problem::warning("schedule", message).hint("magcache run --trace FILE.jsonl records it"));
        None
    };
    let summary = log.as_ref().map(|log| Summary::of(log, &built.registry, &outlook.meta, &outlook.run));
    if !names.is_empty() && summary.as_ref().is_some_and(|s| s.skipped() == 0 && s.modules.is_empty()) {
        let message = format!("0 of {} would be skipped", count(outlook.run.len(), "step"));
        warnings.push(Problem::warning("schedule", message).hint("raise `threshold` or lower `warmup`"));
    }
    let short = outlook.chosen.as_ref().and_then(|chosen| chosen.short.as_ref());
    warnings.extend(short.map(|short| Problem::warning("target", short)));
    let bytes = cache_bytes(&outlook, &built.registry)?;
    if outlook.sizes.is_some() && outlook.meta.hidden_size == 0 {
        let place = format!("model {:?}", outlook.meta.name);
        warnings
            .push(Problem::warning(place, "its metadata has no `hidden_size`, so bytes are not predicted"));
    }
    let unknown = |what: &str, hint: &str| {
        let message =
            format!("{strategy} decides from what it sees: there is no schedule to {what} before a run");
        bad_input_with(message, hint)
    };
    let mut outputs = Vec::new();
    if let Some(target) = &plot {
        let known = log.as_ref().zip(summary.as_ref());
        let (log, summary) =
            known.ok_or_else(|| unknown("draw", "magcache run --trace FILE.jsonl records it"))?;
        outputs.push(target.write(&drawing(&outlook, &strategy, log, summary))?);
    }
    if let Some(export) = export {
        let hint = "magcache run --trace FILE.jsonl, then --cache replay:FILE.jsonl";
        let log = log.as_ref().ok_or_else(|| unknown("write", hint))?;
        outputs.push(export.write(&job.cache, &built.registry, log, &outlook.run)?);
    }
    for warning in &warnings {
        out.warn(&warning.to_string(), warning.hint.as_deref());
    }
    let document = json!({
        "profile": outlook.profile,
        "strategy": strategy,
        "steps": outlook.run.len(),
        "experts": experts(&outlook),
        "skipped": summary.as_ref().map(Summary::skipped_by_branch),
        "reasons": log.as_ref().map(|log| reasons(log, &outlook.run)),
        "modules": summary.as_ref().map(Summary::modules_json),
        "ceiling": summary.as_ref().and_then(Summary::ceiling),
        "cache_bytes": bytes,
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "planned": outlook.chosen.as_ref().map(Chosen::json),
        "profile_verdict": judge::json(&outlook.judged),
        "outputs": outputs,
    });
    let text = text(&outlook, &strategy, log.as_ref(), summary.as_ref(), bytes);
    out.answer(&(text + &wrote(&outputs)), &document);
    Ok(())
}

fn drawing(outlook: &Outlook, strategy: &str, log: &DecisionLog, summary: &Summary) -> Chart {
    let (skipped, passes) = (summary.skipped(), summary.passes);
    let title = format!(
        "{}, {strategy}, {}: {skipped} of {} skipped, {}",
        outlook.meta.name,
        count(outlook.run.len(), "step"),
        count(passes, "pass"),
        summary.ceiling_text()
    );
    let later: Vec<String> = outlook.run.phases.iter().skip(1).map(|p| expert_name(outlook, p)).collect();
    Chart::decisions(title, log, &outlook.run, &later)
}

fn expert_name(outlook: &Outlook, phase: &Phase) -> String {
    let (index, two) = (usize::from(phase.expert.0), outlook.run.boundary_ratio.is_some());
    let unnamed = ["high-noise", "low-noise"];
    let names = if two && outlook.meta.experts.len() < 2 { &unnamed[..] } else { &outlook.meta.experts[..] };
    names.get(index).map_or_else(|| format!("expert {index}"), |name| (*name).to_owned())
}

fn experts(outlook: &Outlook) -> Vec<Value> {
    let of =
        |p: &Phase| json!({ "name": expert_name(outlook, p), "first": p.steps.start, "end": p.steps.end });
    outlook.run.phases.iter().map(of).collect()
}

/// The decision of the outermost hook around blocks or the forward.
fn around(log: &DecisionLog, step: usize, branch: Branch) -> Option<&Record> {
    log.records().iter().find(|r| r.step == step && r.branch == branch && r.module.is_none())
}

/// The outermost hook's reason for every step, by branch.
fn reasons(log: &DecisionLog, run: &Trajectory) -> Value {
    let mut by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for branch in &run.branches {
        let of = |index| around(log, index, *branch);
        let none = |s: &Step| {
            let here = run.branches_at(s).contains(branch);
            if here { summary::uncached(log, s.index, *branch) } else { "no-branch" }
        };
        let reasons =
            run.steps().map(|s| of(s.place()).map_or_else(|| none(&s), |r| r.why.as_str())).collect();
        by.insert(branch.to_string(), reasons);
    }
    json!(by)
}

fn text(
    outlook: &Outlook,
    strategy: &str,
    log: Option<&DecisionLog>,
    summary: Option<&Summary>,
    bytes: Option<usize>,
) -> String {
    let run = &outlook.run;
    let mut out = format!("{strategy}, {}", count(run.len(), "step"));
    if let Some(profile) = &outlook.profile {
        out += &format!(", profile {profile}");
    }
    out += "\n\nstep  timestep   sigma  expert        ";
    let branches = if log.is_some() { run.branches.as_slice() } else { &[] };
    out += &branches.iter().map(|b| format!("{:<26}", b.to_string())).collect::<String>();
    out.truncate(out.trim_end().len());
    out.push('\n');
    for step in run.steps() {
        let phase = Phase { expert: step.expert, steps: step.phase.clone() };
        let expert = expert_name(outlook, &phase);
        out += &format!("{:>4} {:>9.2} {:>7.4}  {expert:<12}  ", step.index, step.timestep, step.sigma);
        for branch in branches {
            let Some(log) = log else { continue };
            let cell = match around(log, step.index, *branch) {
                Some(r) => format!("{} ({})", if r.reused { "skip" } else { "compute" }, r.why),
                None if !run.branches_at(&step).contains(branch) => "-".to_owned(),
                None => format!("compute ({})", summary::uncached(log, step.index, *branch)),
            };
            out += &format!("{cell:<26}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    if log.is_none() {
        out += "\nwhat is skipped depends on content: it is known only after a run\n";
    }
    if let (Some(log), Some(summary)) = (log, summary) {
        out.push('\n');
        for (branch, strip) in strip::lines(log, run) {
            out += &format!("{branch:>7} {strip}\n");
        }
        out += &summary.modules_text();
        out += &format!(
            "skipped {} of {}, {}\n",
            summary.skipped(),
            count(summary.passes, "pass"),
            summary.ceiling_text()
        );
    }
    if let Some(bytes) = bytes {
        out += &format!("cache at most {}\n", summary::bytes(bytes));
    }
    out
}
