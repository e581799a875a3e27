//! Copies between host and device run beside what is computed: with blocks from disk, and with residuals on
//! the host, a run has to give what it gives with both on the device.

use anyhow::Result;
use magcache_core::config::Residuals;
use magcache_models::pipeline::{LoadOptions, Offload};

use super::{Findings, Setup, Verdict, config, sessions::latents};
use crate::{
    args::Group,
    job::{Job, cache_table},
    lanes::Scene,
};

/// Runs of each: where nothing waits for a copy, some of them are right.
const RUNS: usize = 10;

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let kept = run(setup, Offload::None, false)?;
    let runs = if setup.quick { 1 } else { RUNS };
    for (name, offload, on_host) in [
        ("blocks from disk", Offload::Blocks, false),
        ("residuals on the host", Offload::None, true),
        ("blocks from disk, residuals on the host", Offload::Blocks, true),
    ] {
        let mut same = 0;
        for _ in 0..runs {
            setup.go_on()?;
            same += usize::from(run(setup, offload, on_host)? == kept);
        }
        let verdict = if same == runs { Verdict::Passed } else { Verdict::Failed };
        let detail =
            format!("{same} of {runs} runs have the bits of one that keeps everything on the device");
        findings.tell(Group::Copies, name, verdict, detail);
    }
    Ok(())
}

/// Bits of the last latents of the default model with a cache.
fn run(setup: &Setup, offload: Offload, on_host: bool) -> Result<Vec<u64>> {
    let mut config = config(None, if setup.quick { 4 } else { 10 })?;
    config.cache = vec![cache_table(magcache_strategies::SHOWN[0], &[])?];
    config.residuals = Residuals { device: on_host.then(|| "cpu".to_owned()), ..Residuals::default() };
    let device = setup.device.clone();
    let options = LoadOptions { device, ops: setup.ops, offload, ..LoadOptions::default() };
    let job = Job::new(config, options)?;
    let hooks = job.build()?.registry;
    let (scene, _) = Scene::load(&job, job.request.clone(), &|_| {})?;
    latents(setup, &scene, &hooks)
}
