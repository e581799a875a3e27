//! The speed-up of a cache, and its ceiling.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::Arc,
};

use anyhow::Result;
use magcache_core::error::count;
use magcache_models::{
    checkpoint::Ops,
    pipeline::{Generation, LoadOptions},
};
use serde_json::json;

use crate::{
    args::{BenchCache, Sampling},
    compare::estimate::Spread,
    console::{Console, Interrupt, bad_input_with},
    job::{Config, Job},
    lanes::{Lane, Scene, take_turns, warm_up},
};

/// Dense and cached runs alternate as whole runs, so that each step finds the processor's caches as its own
/// run left them.
pub(super) fn run(args: &BenchCache, ops: Ops, out: &Console) -> Result<()> {
    let model = args.model.model.as_ref().map(|path| path.display().to_string());
    let flags = Sampling { model, cache: Some(args.cache.clone()), ..Sampling::default() };
    let mut config = Config::of(&flags, out)?;
    config.sampling.steps = args.steps;
    let job = Job::new(config, LoadOptions { ops, ..LoadOptions::default() })?;
    let hooks = job.build()?.registry;
    let (scene, _) = Scene::load(&job, job.request.clone(), &|_| {})?;
    let interrupt = Interrupt::listen()?;
    let stop = || interrupt.is_set();
    warm_up(&scene, &stop)?;
    let (mut ratios, mut computed, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let mut ceiling = None;
    for round in 0..args.repeat.max(1) {
        let mut lanes = [Lane::new(&scene, &Arc::default())?, Lane::new(&scene, &hooks)?];
        // Alternates which one goes first.
        lanes.rotate_left(round % 2);
        for lane in &mut lanes {
            take_turns(slice::from_mut(lane), &stop, &mut || {})?;
        }
        lanes.rotate_right(round % 2);
        let [dense, cached] = &lanes;
        ceiling = cached.summary().ceiling();
        ratios.push(dense.transformer_seconds() / cached.transformer_seconds());
        let reused = reused(&cached.generation);
        let trajectory = cached.generation.trajectory();
        for (step, time) in step_times(&cached.generation) {
            match reused.get(&step) {
                None => computed.push(time),
                Some(branches) if *branches == trajectory.branches_at(&trajectory.step(step)).len() => {
                    skipped.push(time);
                }
                // Steps skipped on only some branches count as neither.
                Some(_) => {}
            }
        }
    }
    let Some(ceiling) = ceiling else {
        let message =
            format!("the ceiling of {} is not known: it forecasts modules inside blocks", args.cache);
        return Err(bad_input_with(message, "--cache magcache"));
    };
    let (ratios, computed, skipped) = (Spread::of(ratios), Spread::of(computed), Spread::of(skipped));
    let text = format!(
        "{}, {} of each: ceiling {ceiling:.3}, transformer {:.3}x ({:.3} to {:.3}), {:.3} of the ceiling{}\n\
         a computed step {:.3} ms, a skipped one {:.3} ms: {:.2} %",
        args.cache,
        count(args.repeat.max(1), "run"),
        ratios.median,
        ratios.min,
        ratios.max,
        ratios.median / ceiling,
        if ratios.median > ceiling { ", above it: noise of the measurement" } else { "" },
        computed.median,
        skipped.median,
        100.0 * skipped.median / computed.median,
    );
    let document = json!({
        "ceiling": ceiling,
        "speedup": { "min": ratios.min, "median": ratios.median, "max": ratios.max },
        "of_ceiling": ratios.median / ceiling,
        "above_ceiling": ratios.median > ceiling,
        "computed_ms": computed.median,
        "skipped_ms": skipped.median,
        "skipped_of_computed": skipped.median / computed.median,
    });
    out.answer(&text, &document);
    Ok(())
}

/// Milliseconds in the network, by step.
fn step_times(run: &Generation) -> BTreeMap<usize, f64> {
    let mut times = BTreeMap::new();
    for pass in run.times() {
        *times.entry(pass.step).or_default() += pass.time.as_secs_f64() * 1e3;
    }
    times
}

/// Number of branches on which blocks were replaced, by step.
fn reused(run: &Generation) -> BTreeMap<usize, usize> {
    let records = run.session().into_iter().flat_map(|session| session.log().records());
    let passes: BTreeSet<_> =
        records.filter(|record| record.reused).map(|record| (record.step, record.branch)).collect();
    let mut steps = BTreeMap::new();
    for (step, _) in passes {
        *steps.entry(step).or_default() += 1;
    }
    steps
}
