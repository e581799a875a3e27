//! One generation, from its noise or stored state to its output files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_core::{config::Built, group::GroupError, snapshot::Snapshot};
use magcache_models::{
    pipeline::{Denoiser, Generation, PipelineError},
    ranks::Ranks,
};
use tracing::debug;

use super::{keeper::Keeper, meter::Meter};
use crate::{
    console::{Console, Interrupt},
    files::{config_of, has_content},
    job::Job,
    media::{self, Destination, Frames, MediaError, ValueRange, VideoWriter},
    ranks::own_part,
    replay::trace,
    resume::{StateFolder, Stored},
};

/// Everything that one run needs.
pub(super) struct Attempt<'j> {
    pub(super) job: &'j Job,
    pub(super) built: &'j Built,
    /// Where the result goes.
    pub(super) path: &'j Path,
    /// The configuration stored next to it.
    pub(super) config: &'j str,
    pub(super) trace: Option<&'j Path>,
    pub(super) interrupt: &'j Interrupt,
    pub(super) ranks: Option<&'j Ranks>,
    pub(super) out: &'j Console,
}

pub(super) struct Done {
    pub(super) generation: Generation,
    pub(super) outputs: Vec<PathBuf>,
    pub(super) started: Instant,
    pub(super) resumed_at: Option<usize>,
    /// What its steps fetched.
    pub(super) meter: Meter,
}

impl Attempt<'_> {
    /// Runs it. `stored` is the state to resume from; `keeper` stores it. Of several ranks the first one
    /// has the stored state, decodes and writes, and the others wait for it.
    pub(super) fn run(&self, mut keeper: Option<Keeper<'_>>, stored: Option<Stored>) -> Result<Done> {
        let started = Instant::now();
        let Self { job, built, path, config, interrupt, ranks, out, .. } = self;
        let mut meter = Meter::new(&job.traffic);
        if let Some(ranks) = ranks.filter(|ranks| !ranks.is_first()) {
            let mut generation = begin(job, built, own_part(Some(ranks), None)?, Some(ranks), out)?;
            denoise(job, &mut generation, keeper.as_mut(), None, (interrupt, &mut meter), out)?;
            generation.release();
            wait_for_first(ranks)?;
            return Ok(Done { generation, outputs: Vec::new(), started, resumed_at: None, meter });
        }
        let resumed_at = stored.as_ref().map(Stored::step).transpose()?;
        // If a run was killed after it wrote its outputs, a folder of frames may already be there, complete.
        let done = resumed_at.is_some_and(|step| step >= job.trajectory.end());
        let written = done && stored.as_ref().is_some_and(|stored| stored.output == *path);
        let (target, written) = Destination::prepare_again(path, job.video_shape(), written)?;
        let target = if written { target } else { job.with_sound(target)? };
        self.trace.map(media::probe).transpose()?;

        let snapshot = own_part(*ranks, stored.map(|stored| stored.snapshot))?;
        let mut generation = begin(job, built, snapshot, *ranks, out)?;
        let mut film = (!written).then(|| Film { target: &target, writer: None, interrupt, ranks: *ranks });
        let seen = (*interrupt, &mut meter);
        let ran = denoise(job, &mut generation, keeper.as_mut(), film.as_mut(), seen, out).and_then(|()| {
            // Frees the network's memory for the autoencoder.
            generation.release();
            film.map_or(Ok(()), |film| decode(job, generation.latents(), film, out))
        });
        let checkpoint = keeper.and_then(|keeper| keeper.folder);
        if let (Err(_), Some(step)) = (&ran, checkpoint.as_ref().and_then(StateFolder::stored)) {
            out.note(&format!("the same command continues at step {step} of {}", job.trajectory.end()));
        }
        ran?;

        let written = target.path().to_owned();
        let config_path = config_of(&written);
        if !has_content(&config_path, config) {
            media::write_file(&config_path, config.as_bytes())?;
        }
        let mut outputs = vec![written, config_path];
        outputs.extend(target.sound_path().map(Path::to_owned));
        if let Some(file) = self.trace {
            let run = &job.trajectory;
            let hooks = trace::hooks(&built.registry, &job.cache.cache, &run.step(run.first));
            trace::write(file, &job.request, &hooks, &generation)?;
            outputs.push(file.to_owned());
        }
        if let Some(checkpoint) = checkpoint {
            outputs.iter().try_for_each(|output| media::sweep(output))?;
            checkpoint.finish()?;
        }
        ranks.map_or(Ok(()), |ranks| tell(ranks, false))?;
        debug!(?outputs, seconds = started.elapsed().as_secs_f64(), "wrote everything");
        Ok(Done { generation, outputs, started, resumed_at, meter })
    }
}

/// A generation at its start, or resumed from the stored state.
fn begin(
    job: &Job,
    built: &Built,
    stored: Option<Snapshot>,
    ranks: Option<&Ranks>,
    out: &Console,
) -> Result<Generation> {
    let (sampler, noise) = (job.pipeline.sampler(&job.request)?, job.pipeline.noise(&job.request)?);
    let (run, steps) = (job.trajectory.clone(), job.trajectory.end());
    let Some(stored) = stored else {
        return Ok(Generation::new(load(job, out)?, run, sampler, &noise, &built.registry)?.among(ranks)?);
    };
    let from = stored.reader(noise.device());
    let step = Generation::stored_step(&from)?;
    let done = step >= steps;
    out.note(&if done {
        "every step is done, continues with decoding".to_owned()
    } else {
        format!("continues at step {step} of {steps}")
    });
    // The clips that ended are decoded again, one after the other, with what the network knows of them.
    let denoiser = if done && run.clips == 1 { None } else { Some(load(job, out)?) };
    Generation::resume(denoiser, run, sampler, &built.registry, &from)
        .and_then(|generation| generation.among(ranks))
        .context("cannot go on from the stored state")
}

/// What the first rank does while the others wait.
const WRITES: &str = "what the first rank decodes and writes";

/// Tells the ranks that wait whether there is more to wait for.
fn tell(ranks: &Ranks, more: bool) -> Result<(), GroupError> {
    ranks.world().from_first(WRITES, || Ok(vec![u8::from(more)])).map(drop)
}

/// Waits until the first rank has decoded and written everything.
fn wait_for_first(ranks: &Ranks) -> Result<(), GroupError> {
    while ranks.world().from_first(WRITES, || Ok::<_, GroupError>(Vec::new()))? == [1] {}
    Ok(())
}

/// Loads the network with the prompts of the request.
fn load(job: &Job, out: &Console) -> Result<Arc<dyn Denoiser>> {
    let spinner = out.spinner("loading");
    let now = |stage| {
        debug!("{stage}");
        spinner.set_message(stage);
    };
    let (denoiser, notes) = job.load(&job.request, &now)?;
    spinner.finish_and_clear();
    notes.iter().for_each(|note| out.loaded(note));
    Ok(denoiser)
}

/// Runs the remaining steps and stores the state when it is due.
fn denoise(
    job: &Job,
    generation: &mut Generation,
    mut keeper: Option<&mut Keeper<'_>>,
    mut film: Option<&mut Film<'_>>,
    (interrupt, meter): (&Interrupt, &mut Meter),
    out: &Console,
) -> Result<()> {
    let run = generation.trajectory();
    let bar = out.bar(run.steps().count(), "denoising");
    bar.inc(generation.next().saturating_sub(run.first) as u64);
    let mut show = |ended: Vec<Tensor>| match film.as_deref_mut() {
        Some(film) => ended.iter().try_for_each(|frames| film.push(frames, &|| {})),
        None => Ok(()),
    };
    show(generation.take_frames())?;
    keeper.as_deref_mut().map_or(Ok(()), |keeper| keeper.begin(generation))?;
    while !generation.is_done() {
        let (step, begun) = (generation.next(), Instant::now());
        generation.step(&|| interrupt.is_set()).map_err(|error| job.explained(error))?;
        meter.after_step(step);
        debug!(step, seconds = begun.elapsed().as_secs_f64(), "denoised");
        let records = generation.session().map_or(&[][..], |session| session.log().records());
        for r in records.iter().rev().take_while(|r| r.step == step) {
            let (hook, branch, why) = (r.hook.0, r.branch.to_string(), r.why.as_str());
            tracing::trace!(step, branch, hook, blocks = ?r.blocks, reused = r.reused, why, metric = r.metric, bytes = r.bytes);
        }
        bar.inc(1);
        show(generation.take_frames())?;
        keeper.as_deref_mut().map_or(Ok(()), |keeper| keeper.after_step(generation, out))?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// The file that the frames go to, begun with the first of them.
struct Film<'a> {
    target: &'a Destination,
    writer: Option<VideoWriter>,
    interrupt: &'a Interrupt,
    ranks: Option<&'a Ranks>,
}

impl Film<'_> {
    /// Adds frames `[channels, frames, height, width]` in −1..=1; `shown` is called after each.
    fn push(&mut self, pixels: &Tensor, shown: &dyn Fn()) -> Result<(), MediaError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.target.writer()?),
        };
        for frame in Frames::new(pixels, ValueRange::Signed)?.iter() {
            writer.push(&frame?)?;
            shown();
        }
        Ok(())
    }
}

/// Decodes the last clip and completes the file.
fn decode(job: &Job, latents: &Tensor, mut film: Film<'_>, out: &Console) -> Result<()> {
    let bar = out.bar(job.frames, "decoding");
    let (interrupt, ranks) = (film.interrupt, film.ranks);
    let mut sink = |pixels: &Tensor| {
        ranks.map_or(Ok(()), |ranks| tell(ranks, true)).map_err(|e| PipelineError::Sink(Box::new(e)))?;
        if interrupt.is_set() {
            let steps = job.trajectory.end();
            return Err(PipelineError::Interrupted { step: steps, steps });
        }
        film.push(pixels, &|| bar.inc(1)).map_err(|e| PipelineError::Sink(Box::new(e)))
    };
    job.pipeline.decode(&job.request, latents, &|_| {}, &mut sink)?;
    film.writer.map_or(Ok(()), VideoWriter::finish)?;
    bar.finish_and_clear();
    job.pipeline.unread().iter().for_each(|note| out.loaded(note));
    Ok(())
}
