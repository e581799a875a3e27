//! `demo`: a dense run and one per strategy; a comparison with one seed and without baselines.

use anyhow::Result;
use magcache_models::{checkpoint::Ops, pipeline::LoadOptions};

use crate::{
    args::{Demo, Dtype, Sampling},
    calibration::judge,
    compare::{Comparison, answer, contender},
    console::Console,
    files::{Writes, unused},
    job::{Config, Job, prompt},
    report,
};

pub(crate) fn run(args: &Demo, ops: Ops, out: &Console) -> Result<()> {
    let job = job(args, ops, out)?;
    let folder = args.out.clone().unwrap_or_else(|| unused("magcache-demo", args.writing, &|_| Vec::new()));
    Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
    let mut notes = Vec::new();
    let mut contenders = contender::shown(None, &job, &mut notes)?;
    for contender in &contenders {
        let judged = judge::of_plan(&job, &contender.cache, &Sampling::default(), Some(Dtype::Auto))?;
        // A profile of something else is used anyway, to show its effect.
        judge::announce(&judged, true, out)?;
    }
    contender::build(&mut contenders, &job, Vec::new(), out)?;
    let caches: Vec<_> = contenders.iter().map(|own| (&own.cache, &own.entry.registry)).collect();
    job.admit(&caches, None)?;
    notes.iter().for_each(|note| out.note(note));
    let comparison = Comparison {
        seeds: vec![job.request.seed],
        job,
        contenders,
        repeat: 1,
        baselines: false,
        lpips: None,
        device: "cpu".to_owned(),
        folder,
    };
    comparison.check_folder()?;
    answer::answer(&report::run(&comparison, out)?, out);
    Ok(())
}

fn job(args: &Demo, ops: Ops, out: &Console) -> Result<Job> {
    let flags = Sampling { model: args.model.clone(), ..Sampling::default() };
    let mut config = Config::of(&flags, out)?;
    config.sampling.steps = args.steps;
    config.sampling.prompt = prompt(args.prompt.as_deref())?;
    config.sampling.seed = args.seed;
    Job::new(config, LoadOptions { ops, ..LoadOptions::default() })
}
