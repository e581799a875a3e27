//! Two runs at once: on two threads, with one network and one set of hooks, each gives what it gives alone.

use std::{sync::Arc, thread};

use anyhow::{Result, anyhow};
use magcache_core::HookRegistry;
use magcache_models::pipeline::LoadOptions;

use super::{Findings, Setup, Verdict, config, values};
use crate::{
    args::Group,
    job::{Job, cache_table},
    lanes::{Lane, Scene},
};

const SEEDS: [u64; 2] = [1, 2];

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    for name in magcache_strategies::SHOWN {
        setup.go_on()?;
        let mut config = config(None, if setup.quick { 4 } else { 10 })?;
        config.cache = vec![cache_table(name, &[])?];
        let options = LoadOptions { device: setup.device.clone(), ops: setup.ops, ..LoadOptions::default() };
        let job = Job::new(config, options)?;
        let hooks = job.build()?.registry;
        let (scene, _) = Scene::load(&job, job.request.clone(), &|_| {})?;
        let run = |seed: u64| latents(setup, &scene.with_seed(seed), &hooks);
        let alone = SEEDS.map(run);
        let together = thread::scope(|scope| {
            let run = &run;
            let started = SEEDS.map(|seed| scope.spawn(move || run(seed)));
            started.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
        });
        let [[first, second], [first_too, second_too]] = [alone, together];
        let (first, second) = (first?, second?);
        let same = first == first_too? && second == second_too?;
        let verdict = if same && first != second { Verdict::Passed } else { Verdict::Failed };
        let detail = "bits of the last latents of two seeds, at the same time and one after the other";
        findings.tell(Group::Sessions, format!("two threads, {name}"), verdict, detail);
    }
    Ok(())
}

/// Bits of the last latents.
pub(super) fn latents(setup: &Setup, scene: &Scene<'_>, hooks: &Arc<HookRegistry>) -> Result<Vec<u64>> {
    let mut lane = Lane::new(scene, hooks)?;
    lane.generation.run(&|| setup.interrupt.is_set(), &mut |_| {})?;
    Ok(values(lane.generation.latents())?.into_iter().map(f64::to_bits).collect())
}
