//! `demo`: a dense run and one per strategy, a comparison of one seed without baselines.

use anyhow::Result;
use magcache_models::pipeline::LoadOptions;

use crate::{
    args::{Demo, Dtype, Sampling},
    calibration::judge,
    compare::{
        Comparison, answer,
        contender::{self, Contender},
    },
    console::Output,
    files::{Writes, unused},
    plan::{Config, Plan, prompt},
    report,
};

pub(crate) fn run(args: &Demo, out: &Output) -> Result<()> {
    let plan = plan(args)?;
    let folder = args.out.clone().unwrap_or_else(|| unused("magcache-demo", args.writing, &|_| Vec::new()));
    Writes::new(args.writing).folder("--out", Some(&folder)).check()?;
    let one = |name| Contender::parse(name, None, &plan, &mut Vec::new());
    let contenders: Vec<Contender> =
        magcache_strategies::SHOWN.into_iter().map(one).collect::<Result<_>>()?;
    let mut warn = |text: &str, hint: Option<&str>| out.warn(text, hint);
    for contender in &contenders {
        let judged = judge::of_plan(&plan, &contender.cache, &Sampling::default(), Some(Dtype::Auto))?;
        // A profile of something else is shown with what it does.
        judge::announce(&judged, true, out)?;
    }
    let entries = contender::build(&contenders, &plan, Vec::new(), &mut warn)?;
    let comparison = Comparison {
        seeds: vec![plan.request.seed],
        plan,
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

fn plan(args: &Demo) -> Result<Plan> {
    let flags = Sampling { model: args.model.clone(), ..Sampling::default() };
    let mut config = Config::of(&flags)?;
    config.sampling.steps = args.steps;
    config.sampling.prompt = prompt(args.prompt.as_deref())?;
    config.sampling.seed = args.seed;
    Plan::new(config, LoadOptions { ops: args.ops, ..LoadOptions::default() })
}
