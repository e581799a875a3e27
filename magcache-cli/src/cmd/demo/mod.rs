//! `demo`: without a model and a prompt a gallery, else one dense run beside cached ones.

mod gallery;

use std::path::PathBuf;

use anyhow::Result;
use magcache_core::CachePlan;
use magcache_models::{checkpoint::Ops, pipeline::LoadOptions};

use crate::{
    args::{Demo, Dtype, Sampling},
    calibration::judge,
    compare::{
        Comparison, answer,
        contender::{self, Contender},
    },
    console::Console,
    files::{Writes, unused},
    job::{Config, Job, Target, prompt},
    report,
};

pub(crate) fn run(args: &Demo, ops: Ops, out: &Console) -> Result<()> {
    let folder = args.out.clone().unwrap_or_else(|| unused("magcache-demo", args.writing, &|_| Vec::new()));
    let chosen = args.model.is_some() || args.prompt.is_some() || args.steps.is_some() || args.seed.is_some();
    if !args.quick && !chosen {
        Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
        return gallery::run(&folder, ops, out);
    }
    let job = job(args, ops, out)?;
    Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
    let mut notes = Vec::new();
    let mut contenders = contender::shown(None, &job, &mut notes)?;
    if !args.quick {
        match planned(&job, job.trajectory.steps_of_clip() / 2) {
            Ok(planned) => contenders.insert(0, planned),
            Err(error) => notes.push(format!("{PLANNER} is left out: {error}")),
        }
    }
    for contender in &contenders {
        let judged = judge::of_plan(&job, &contender.cache, &Sampling::default(), Some(Dtype::Auto))?;
        // A profile of something else is used anyway, to show its effect.
        judge::announce(&judged, true, out)?;
    }
    let comparison = comparison(job, contenders, !args.quick, String::new(), folder, out)?;
    notes.iter().for_each(|note| out.note(note));
    answer::answer(&report::run(&comparison, out)?, out);
    Ok(())
}

/// The name of the lane of a planned schedule.
const PLANNER: &str = "planner";

/// The schedule of the model's profile that computes so many steps.
///
/// Errors: no profile, or none for such a run.
fn planned(job: &Job, budget: usize) -> Result<Contender> {
    let target = Target { budget: Some(budget), ..Target::default() };
    let residuals = &job.config.residuals;
    let chosen = target.choose(&[], residuals, job.pipeline.meta(), &job.trajectory, None)?;
    Ok(Contender::new(PLANNER.to_owned(), CachePlan::from_tables(chosen.tables, residuals.clone())?, job))
}

/// These contenders with the seed of the job, ready to run.
fn comparison(
    job: Job,
    mut contenders: Vec<Contender>,
    baselines: bool,
    place: String,
    folder: PathBuf,
    out: &Console,
) -> Result<Comparison> {
    contender::build(&mut contenders, &job, Vec::new(), out)?;
    let caches: Vec<_> = contenders.iter().map(|own| (&own.cache, &own.entry.registry)).collect();
    job.admit(&caches, None)?;
    let comparison = Comparison {
        seeds: vec![job.request.seed],
        job,
        contenders,
        repeat: 1,
        baselines,
        lpips: None,
        device: "cpu".to_owned(),
        place,
        folder,
    };
    comparison.check_folder()?;
    Ok(comparison)
}

fn job(args: &Demo, ops: Ops, out: &Console) -> Result<Job> {
    let flags = Sampling { model: args.model.clone(), ..Sampling::default() };
    let mut config = Config::of(&flags, out)?;
    config.sampling.steps = args.steps;
    config.sampling.prompt = prompt(args.prompt.as_deref())?;
    config.sampling.seed = args.seed;
    Job::new(config, LoadOptions { ops, ..LoadOptions::default() })
}
