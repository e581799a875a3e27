//! Runs of the default model: a computed and a skipped step, and how often the host waits for the device.

use anyhow::Result;
use magcache_core::HookRegistry;
use magcache_models::pipeline::{Generation, LoadOptions, PassTime};

use crate::{
    compare::estimate::Spread,
    job::{Job, cache_table},
    lanes::{Lane, Scene, warm_up},
    selftest::{Findings, Setup, config, findings::Timed},
};

pub(super) fn measure_all(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let stop = || setup.interrupt.is_set();
    for name in magcache_strategies::SHOWN {
        let mut config = config(None, if setup.quick { 6 } else { 20 })?;
        config.cache = vec![cache_table(name, &[])?];
        let options = LoadOptions { device: setup.device.clone(), ops: setup.ops, ..LoadOptions::default() };
        let job = Job::new(config, options)?;
        let hooks = job.build()?.registry;
        let (scene, _) = Scene::load(&job, job.request.clone(), &|_| {})?;
        warm_up(&scene, &stop)?;
        let mut lane = Lane::new(&scene, &hooks)?;
        lane.generation.run(&stop, &mut |_| {})?;
        tell(name, &lane.generation, &hooks, findings);
    }
    Ok(())
}

/// Times of passes by whether every hook reused something, and reads of the device for each step.
fn tell(name: &str, run: &Generation, hooks: &HookRegistry, findings: &mut Findings) {
    let records = run.session().map_or(&[][..], |session| session.log().records());
    let reused = |step, branch| records.iter().any(|r| r.step == step && r.branch == branch && r.reused);
    let (skipped, computed): (Vec<&PassTime>, Vec<_>) =
        run.times().iter().partition(|t| reused(t.step, t.branch));
    let steps = run.trajectory().steps().count();
    // One for whether the velocity is finite; a strategy whose decisions are known reads nothing.
    let measured = if hooks.is_static() { 0 } else { records.iter().filter(|r| r.metric.is_some()).count() };
    let reads = 1.0 + measured as f64 / steps as f64;
    for (kind, times) in [("computed", computed), ("skipped", skipped)] {
        if times.is_empty() {
            continue;
        }
        let repeat = times.len();
        let spread = Spread::of(times.iter().map(|time| time.time.as_secs_f64() * 1e3));
        let name = format!("{kind} pass of the default model, {name}");
        let shape = format!("{reads:.2} reads of the device for each step, counted from the log");
        findings.time(Timed { name, dtype: "auto", shape, gflop: None, limit: None }, spread, repeat);
    }
}
