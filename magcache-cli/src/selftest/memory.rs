//! What does not fit is refused before it begins, and a run whose allocation failed goes on as if nothing had
//! happened.
//!
//! On a GPU all of its memory is taken before a pass, so that the pass itself fails inside a block. A CPU
//! gives memory until the system ends the process, so there a pass runs to its end and then fails on an
//! allocation larger than any address space: that tests what is kept after a failure, not the allocator.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_core::{Branch, HookRegistry, Pass, Step};
use magcache_models::pipeline::{self, Denoiser, Entered, LoadOptions};

use super::{Findings, Setup, Verdict, config, values};
use crate::{
    args::{Group, MemoryLimit},
    job::{Job, cache_table},
    lanes::{Lane, Scene},
};

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let mut own = config(None, 6)?;
    own.cache = vec![cache_table(magcache_strategies::SHOWN[0], &[])?];
    let options = LoadOptions { device: setup.device.clone(), ops: setup.ops, ..LoadOptions::default() };
    let job = Job::new(own, options)?;
    let hooks = job.build()?.registry;
    admission(&job, &hooks, findings);
    failed_allocation(setup, &job, &hooks, findings)
}

/// A run is refused with 1 MB, and not with what there is.
fn admission(job: &Job, hooks: &Arc<HookRegistry>, findings: &mut Findings) {
    let caches = [(&job.cache, hooks)];
    let small = job.admit(&caches, Some(MemoryLimit::Bytes(1_000_000)));
    let (verdict, detail) = match &small {
        Err(error) if error.to_string().contains("needs") => (Verdict::Passed, error.to_string()),
        Err(error) => (Verdict::Failed, error.to_string()),
        Ok(()) => (Verdict::Failed, "it was admitted".to_owned()),
    };
    findings.tell(Group::Memory, "a run is refused with 1 MB", verdict, detail);
    let free = job.admit(&caches, None);
    let verdict = if free.is_ok() { Verdict::Passed } else { Verdict::Failed };
    let detail =
        free.err().map_or_else(|| "what the device has free is enough".to_owned(), |e| e.to_string());
    findings.tell(Group::Memory, "the default run is admitted", verdict, detail);
}

/// A run whose third step fails once ends with the bits of one that does not.
fn failed_allocation(
    setup: &Setup,
    job: &Job,
    hooks: &Arc<HookRegistry>,
    findings: &mut Findings,
) -> Result<()> {
    const STEP: usize = 2;
    let (scene, _) = Scene::load(job, job.request.clone(), &|_| {})?;
    let stop = || setup.interrupt.is_set();
    let mut undisturbed = Lane::new(&scene, hooks)?;
    undisturbed.generation.run(&stop, &mut |_| {})?;

    let inner = Arc::clone(&scene.denoiser);
    let starved =
        Starved { inner, step: STEP, has_failed: AtomicBool::new(false), device: setup.device.clone() };
    let mut lane = Lane::new(&Scene { denoiser: Arc::new(starved), ..scene.clone() }, hooks)?;
    let run = &mut lane.generation;
    let mut error = None;
    while !run.is_done() {
        match run.step(&stop) {
            Ok(()) => {}
            Err(failure) if error.is_none() && run.next() == STEP => error = Some(failure.to_string()),
            Err(failure) => return Err(failure.into()),
        }
    }
    let same = values(run.latents())? == values(undisturbed.generation.latents())?;
    let log = |lane: &Lane<'_>| lane.generation.session().map(|session| session.log().records().to_vec());
    let verdict = if error.is_some() && same && log(&lane) == log(&undisturbed) {
        Verdict::Passed
    } else {
        Verdict::Failed
    };
    let kind = if setup.device.is_cpu() {
        "simulated after a pass, since a CPU has no device memory to run out of"
    } else {
        "all memory of the device was taken"
    };
    let detail = format!("{kind}: {}", error.as_deref().unwrap_or("nothing failed"));
    findings.tell(Group::Memory, "a failed allocation loses nothing", verdict, detail);
    Ok(())
}

/// A network that runs out of memory once, at a step.
struct Starved {
    inner: Arc<dyn Denoiser>,
    step: usize,
    has_failed: AtomicBool,
    device: Device,
}

struct StarvedStep<'a> {
    inner: Box<dyn Entered + 'a>,
    of: &'a Starved,
    is_due: bool,
}

impl Denoiser for Starved {
    fn prepare(&self, step: &Step) -> pipeline::Result<()> {
        self.inner.prepare(step)
    }

    fn begin(&self, noise: &Tensor, step: &Step) -> candle_core::Result<Tensor> {
        self.inner.begin(noise, step)
    }

    fn enter<'a>(
        &'a self,
        latents: &'a Tensor,
        step: &'a Step,
    ) -> candle_core::Result<Box<dyn Entered + 'a>> {
        let inner = self.inner.enter(latents, step)?;
        Ok(Box::new(StarvedStep { inner, of: self, is_due: step.index == self.step }))
    }

    fn guidance(&self, step: &Step) -> f64 {
        self.inner.guidance(step)
    }

    fn guide(&self, step: &Step, cond: &Tensor, uncond: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.guide(step, cond, uncond)
    }

    fn finish(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.finish(latents)
    }
}

impl Entered for StarvedStep<'_> {
    fn predict(&self, branch: Branch, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        if !self.is_due || self.of.has_failed.swap(true, Ordering::Relaxed) {
            return self.inner.predict(branch, pass);
        }
        if self.of.device.is_cpu() {
            self.inner.predict(branch, pass)?;
            let mut room = Vec::<u8>::new();
            room.try_reserve_exact(isize::MAX as usize - 1).map_err(candle_core::Error::wrap)?;
            candle_core::bail!("an allocation of {} bytes succeeded", room.capacity());
        }
        let _taken = all_memory(&self.of.device);
        self.inner.predict(branch, pass)
    }
}

/// All that a device gives, in pieces of 1 GiB down to 64 KiB.
fn all_memory(device: &Device) -> Vec<Tensor> {
    let mut taken = Vec::new();
    let mut piece = 1usize << 30;
    while piece >= 1 << 16 {
        match Tensor::zeros(piece, DType::U8, device) {
            Ok(tensor) => taken.push(tensor),
            Err(_) => piece /= 2,
        }
    }
    taken
}
