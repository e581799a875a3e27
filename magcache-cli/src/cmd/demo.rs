//! `demo`: a dense run and one per strategy; a comparison with one seed and without baselines.

use anyhow::Result;
use magcache_models::pipeline::LoadOptions;

use crate::{
    args::{Demo, Dtype, Sampling},
    calibration::judge,
    compare::{
        Comparison, answer,
        contender::{self, Contender},
    },
    console::Console,
    files::{Writes, unused},
    job::{Config, Job, prompt},
    report,
};

pub(crate) fn run(args: &Demo, out: &Console) -> Result<()> {
    let job = job(args)?;
    let folder = args.out.clone().unwrap_or_else(|| unused("magcache-demo", args.writing, &|_| Vec::new()));
    Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
    let one = |name| Contender::parse(name, None, &job, &mut Vec::new());
    let contenders: Vec<Contender> =
        magcache_strategies::SHOWN.into_iter().map(one).collect::<Result<_>>()?;
    let mut warn = |text: &str, hint: Option<&str>| out.warn(text, hint);
    for contender in &contenders {
        let judged = judge::of_plan(&job, &contender.cache, &Sampling::default(), Some(Dtype::Auto))?;
        // A profile of something else is used anyway, to show its effect.
        judge::announce(&judged, true, out)?;
    }
    let entries = contender::build(&contenders, &job, Vec::new(), &mut warn)?;
    let comparison = Comparison {
        seeds: vec![job.request.seed],
        job,
        contenders,
        entries,
        repeat: 1,
        baselines: false,
        device: "cpu".to_owned(),
        folder,
    };
    comparison.check_folder()?;
    answer::answer(&report::run(&comparison, out)?, out);
    Ok(())
}

fn job(args: &Demo) -> Result<Job> {
    let flags = Sampling { model: args.model.clone(), ..Sampling::default() };
    let mut config = Config::of(&flags)?;
    config.sampling.steps = args.steps;
    config.sampling.prompt = prompt(args.prompt.as_deref())?;
    config.sampling.seed = args.seed;
    Job::new(config, LoadOptions { ops: args.ops, ..LoadOptions::default() })
}
