//! `compare`: dense against any number of configurations, each also against an uncached run of as many steps
//! as it computed.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use magcache_core::HookRegistry;
use magcache_models::{checkpoint::Ops, pipeline::LoadOptions, ranks::Ranks};

use crate::{
    args::{Compare, Sampling},
    calibration::judge,
    compare::{
        Compared, Comparison, answer,
        contender::{self, Contender},
        fault::Fault,
    },
    console::{Console, bad_input, bad_input_with},
    files::{Writes, unused},
    job::{Config, Job},
    plot,
    quality::asked,
    ranks::{announce, check_same, is_first},
    report,
    resume::identity,
};

pub(crate) fn run(args: &Compare, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<()> {
    let job = job(args, ops, ranks, out)?;
    let folder =
        args.out.clone().unwrap_or_else(|| unused("magcache-compare", args.writing, &|_| Vec::new()));
    let writes = Writes::of_run(args.writing, &args.sampling, &job.config)
        .folder("--out", Some(&folder))
        .file("--plot", args.plot.as_deref())
        .reads("--lpips-weights", args.metrics.lpips_weights.as_deref());
    if is_first(ranks) {
        writes.check()?;
    }
    let seeds = seeds(args, job.request.seed)?;
    if args.repeat == 0 {
        return Err(bad_input_with("0 repetitions measure nothing", "--repeat 1"));
    }
    let lpips = asked(&args.metrics, [job.request.height(), job.request.width()])?;
    let (mut contenders, faults, notes) = contenders(args, &job)?;
    for contender in &contenders {
        let judged = judge::of_plan(&job, &contender.cache, &args.sampling, Some(args.placement.dtype))?;
        judge::announce(&judged, args.sampling.force, out)?;
    }
    contender::build(&mut contenders, &job, faults, out)?;
    // The lanes run in turns, each with what its caches hold.
    let caches: Vec<_> = contenders.iter().map(|own| (&own.cache, &own.entry.registry)).collect();
    job.admit(&caches, args.placement.memory)?;
    notes.iter().for_each(|note| out.note(note));
    let comparison = Comparison {
        job,
        contenders,
        seeds,
        repeat: args.repeat,
        baselines: true,
        lpips,
        device: args.placement.device.clone(),
        place: String::new(),
        folder,
    };
    if let Some(ranks) = ranks {
        check_ranks(ranks, args, &comparison, out)?;
    }
    if !is_first(ranks) {
        return comparison.follow(out);
    }
    comparison.check_folder()?;
    let plot = args.plot.as_deref().map(plot::Target::prepare).transpose()?;
    let mut compared = report::run(&comparison, out)?;
    if let Some(target) = plot {
        draw(&mut compared, &target, out)?;
    }
    answer::answer(&compared, out);
    Ok(())
}

/// Draws the divergence from the dense run, if there is any.
fn draw(compared: &mut Compared<'_>, target: &plot::Target, out: &Console) -> Result<()> {
    let mut chart = report::divergence(compared);
    if chart.is_empty() {
        out.warn("nothing differs from the dense run: there is no divergence to draw", None);
        return Ok(());
    }
    chart.title = format!("{}: divergence from dense", compared.of.job.pipeline.meta().name);
    compared.outputs.push(target.write(&chart)?);
    Ok(())
}

/// Checks that all ranks are about to compare the same.
fn check_ranks(ranks: &Ranks, args: &Compare, comparison: &Comparison, out: &Console) -> Result<()> {
    let Comparison { job, contenders, seeds, repeat, .. } = comparison;
    let mut keys = identity(job, &args.placement, args.tile_vae)?;
    keys.insert("seeds".to_owned(), format!("{seeds:?}"));
    keys.insert("repeat".to_owned(), repeat.to_string());
    for contender in contenders {
        keys.insert(format!("caches of {}", contender.name), format!("{:?}", contender.cache));
    }
    let hooks: Vec<&HookRegistry> = contenders.iter().map(|own| &*own.entry.registry).collect();
    check_same(ranks, job, keys, &hooks)?;
    announce(ranks, job, out)
}

fn job(args: &Compare, ops: Ops, ranks: Option<&Ranks>, out: &Console) -> Result<Job> {
    let mut config = Config::of(&args.sampling, out)?;
    args.prompt.set(&mut config.sampling)?;
    config.sampling.seed = args.seeds.first().copied().or(config.sampling.seed);
    let options = args.ranks.options(&args.placement, ranks, ops)?;
    Job::new(config, LoadOptions { tile_vae: args.tile_vae, ..options })
}

fn seeds(args: &Compare, own: u64) -> Result<Vec<u64>> {
    let mut seen = BTreeSet::new();
    match args.seeds.iter().find(|seed| !seen.insert(**seed)) {
        Some(seed) => Err(bad_input(format!("seed {seed} is given twice"))),
        None if args.seeds.is_empty() => Ok(vec![own]),
        None => Ok(args.seeds.clone()),
    }
}

/// The name of the lane that is planned for a target of the flags.
fn target_name(flags: &Sampling) -> Option<String> {
    let budget = flags.budget.map(|steps| format!("budget {steps}"));
    let speedup = flags.speedup.map(|times| format!("speedup {times}"));
    budget.or(speedup).or(flags.psnr.map(|db| format!("psnr {db}")))
}

/// The contenders: the caches of `--cache`, `--config` or a target, then the named ones; the default
/// strategies if there are neither.
fn contenders(args: &Compare, job: &Job) -> Result<(Vec<Contender>, Vec<Fault>, Vec<String>)> {
    let (mut contenders, mut faults, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    if !job.cache.cache.is_empty() {
        let stem = |path: &Path| contender::default_name(&path.to_string_lossy());
        let file = args.sampling.config.as_deref().map(stem);
        let name = match (&args.sampling.cache, target_name(&args.sampling)) {
            (Some(cache), _) => contender::default_name(cache),
            (None, Some(target)) => target,
            (None, None) => file.unwrap_or_else(|| "config".to_owned()),
        };
        notes.extend(job.chosen.iter().map(|chosen| contender::chosen_note(&name, chosen)));
        contenders.push(Contender::new(name, job.config.caches()?, job));
    }
    let profile = args.sampling.profile.as_deref();
    if args.configs.is_empty() && contenders.is_empty() {
        contenders = contender::shown(profile, job, &mut notes)?;
    }
    for text in &args.configs {
        match Contender::parse(text, profile, job, &mut notes) {
            Ok(contender) => contenders.push(contender),
            Err(error) => faults.push(Fault::new(text, error)),
        }
    }
    Ok((contenders, faults, notes))
}
