//! Dense against any number of configurations, with the same seeds and in turns, and against the naive
//! baseline.
//!
//! A *round* runs one seed once: the dense lane and the configurations take turns, and every ratio of times
//! is taken within the round. The number of steps of the naive baselines is known only after all
//! configurations have run, so they follow in rounds of their own, each with a dense lane to be timed
//! against.

pub(crate) mod answer;
mod baseline;
pub(crate) mod contender;
pub(crate) mod estimate;
pub(crate) mod fault;
mod ratios;
pub(crate) mod row;

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use magcache_core::CachePlan;
use magcache_models::pipeline::{Denoiser, Request};

use self::{
    contender::{Contender, DENSE},
    ratios::Ratios,
    row::{Measured, Role, Row},
};
use crate::{
    console::{Console, Interrupt},
    files::config_of,
    job::Job,
    lanes::{self, Entry, Scene, Shown},
    machine::{Machine, memory},
    media::{self, Destination, StagedFolder},
};

/// The page with all results, written by `report`.
pub(crate) const PAGE: &str = "report.html";

/// The comparison to run.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) job: Job,
    /// The configurations, without the dense lane.
    pub(crate) contenders: Vec<Contender>,
    /// Their hooks.
    pub(crate) entries: Vec<Entry>,
    /// Seeds of the initial noise; pictures are shown of the first one.
    pub(crate) seeds: Vec<u64>,
    /// How often each seed runs.
    pub(crate) repeat: usize,
    /// Whether the naive baselines run too.
    pub(crate) baselines: bool,
    /// The device that was requested for the network.
    pub(crate) device: String,
    /// Where the pictures and the page go.
    pub(crate) folder: PathBuf,
}

/// The results.
#[derive(Debug)]
pub(crate) struct Compared {
    /// The dense row, then configurations, then baselines.
    pub(crate) rows: Vec<Row>,
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) seeds: Vec<u64>,
    /// Number of rounds of each lane: seeds times repetitions.
    pub(crate) rounds: usize,
    pub(crate) baselines: bool,
    /// Of the whole process; see [`memory::peak_resident`].
    pub(crate) peak_memory: Option<usize>,
    pub(crate) machine: Machine,
    /// The calibrated curve of a profile in use.
    pub(crate) ratios: Option<Ratios>,
    /// The first step that runs: above 0 for image to image.
    pub(crate) first_step: usize,
    /// The first steps of the experts after the first one.
    pub(crate) boundaries: Vec<usize>,
    pub(crate) outputs: Vec<PathBuf>,
}

/// The denoisers of the seeds.
struct Scenes<'a> {
    job: &'a Job,
    out: &'a Console,
    kept: Option<(u64, Arc<dyn Denoiser>)>,
    warm: bool,
}

impl<'a> Scenes<'a> {
    /// The request of a seed and its denoiser; warms up the first one.
    fn of(&mut self, seed: u64, stop: &dyn Fn() -> bool) -> Result<Scene<'a>> {
        let request = Request { seed, ..self.job.request.clone() };
        // The latents of the image that a run starts from are sampled with the seed; all else is the same for
        // every seed.
        let sampled = request.strength.is_some();
        let denoiser = match &self.kept {
            Some((of, denoiser)) if !sampled || *of == seed => Arc::clone(denoiser),
            _ => self.load(&request)?,
        };
        let scene = Scene { pipeline: self.job.pipeline.as_ref(), request, denoiser };
        if !std::mem::replace(&mut self.warm, true) {
            lanes::warm_up(&scene, stop)?;
        }
        Ok(scene)
    }

    fn load(&mut self, request: &Request) -> Result<Arc<dyn Denoiser>> {
        let first = self.kept.take().is_none();
        let spinner = self.out.spinner("loading");
        let (denoiser, notes) = self.job.load(request, &|stage| spinner.set_message(stage))?;
        spinner.finish_and_clear();
        notes.iter().filter(|_| first).for_each(|note| self.out.loaded(note));
        self.kept = Some((request.seed, Arc::clone(&denoiser)));
        Ok(denoiser)
    }
}

impl Comparison {
    /// Checks that the folder can be written to. Call before anything runs.
    pub(crate) fn check_folder(&self) -> Result<()> {
        Destination::prepare(self.folder.join(format!("{DENSE}.{}", self.ending())), self.job.clip())?;
        Ok(media::probe(&self.folder.join(PAGE))?)
    }

    /// `png` for images, `mp4` for videos.
    fn ending(&self) -> &'static str {
        if self.job.request.frames == 1 { "png" } else { "mp4" }
    }

    /// Runs everything and writes pictures and configurations. They appear in their folder only once the
    /// caller, who adds the page, merges it.
    pub(crate) fn run(&self, out: &Console) -> Result<(Compared, StagedFolder)> {
        let interrupt = Interrupt::listen()?;
        let stop = || interrupt.is_set();
        let staged = StagedFolder::create(&self.folder)?;
        let mut scenes = Scenes { job: &self.job, out, kept: None, warm: false };

        let dense = self.dense();
        let lanes: Vec<&Contender> = std::iter::once(&dense).chain(&self.contenders).collect();
        let outputs = self.outputs(&staged, &lanes, true)?;
        let entries: Vec<Entry> =
            std::iter::once(Entry::dense(dense.steps)).chain(self.entries.iter().cloned()).collect();
        let rounds = self.rounds(&mut scenes, &entries, &outputs, "dense and cached", &stop)?;
        let mut rows = self.rows(&lanes, &rounds, Role::Config)?;

        let contenders = if self.baselines { baseline::contenders(&self.job, &rows) } else { Vec::new() };
        if !contenders.is_empty() {
            let lanes: Vec<&Contender> = std::iter::once(&dense).chain(&contenders).collect();
            let outputs = self.outputs(&staged, &lanes, false)?;
            let entries: Vec<Entry> = lanes.iter().map(|lane| Entry::dense(lane.steps)).collect();
            let rounds = self.rounds(&mut scenes, &entries, &outputs, "dense and fewer steps", &stop)?;
            // The dense lane of these rounds repeats the first one; only its times are used.
            let mut baselines = self.rows(&lanes, &rounds, Role::Baseline)?.split_off(1);
            baseline::relate(&self.job, &mut rows, &mut baselines);
            rows.extend(baselines);
        }
        Ok((self.finish(rows, &staged)?, staged))
    }

    fn dense(&self) -> Contender {
        let steps = self.job.request.steps;
        Contender { name: DENSE.to_owned(), cache: CachePlan::default(), steps }
    }

    /// Output files of the lanes; the dense one is written only once.
    fn outputs(
        &self,
        staged: &StagedFolder,
        lanes: &[&Contender],
        dense: bool,
    ) -> Result<Vec<Option<Destination>>> {
        let of = |(i, lane): (usize, &&Contender)| {
            let path = staged.path().join(lane.file(self.ending()));
            (dense || i > 0).then(|| Destination::prepare(path, self.job.clip())).transpose()
        };
        Ok(lanes.iter().enumerate().map(of).collect::<Result<_, _>>()?)
    }

    /// Runs every seed the requested number of times. Writes the pictures of the first round.
    fn rounds(
        &self,
        scenes: &mut Scenes<'_>,
        entries: &[Entry],
        outputs: &[Option<Destination>],
        what: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Measured>> {
        let mut rounds = Vec::new();
        for (i, seed) in self.seeds.iter().enumerate() {
            let scene = scenes.of(*seed, stop)?;
            for repetition in 0..self.repeat {
                let shown = match (i, repetition) {
                    (0, 0) => Shown::Written(outputs),
                    (_, 0) => Shown::Compared,
                    _ => Shown::Timed,
                };
                let steps = entries.iter().map(|e| lanes::steps(&scene.with_steps(e.steps)));
                let steps: usize = steps.sum::<Result<_>>()?;
                let bar = scenes.out.bar(steps, &self.label(what, *seed, repetition));
                let lanes = lanes::round(&scene, entries, shown, stop, &mut || bar.inc(1))?;
                bar.finish_and_clear();
                rounds.push(Measured { seed: *seed, lanes });
            }
        }
        Ok(rounds)
    }

    /// The label of a round in the progress display.
    fn label(&self, what: &str, seed: u64, repetition: usize) -> String {
        let mut label = what.to_owned();
        if self.seeds.len() > 1 {
            label += &format!(", seed {seed}");
        }
        if self.repeat > 1 {
            label += &format!(", {} of {}", repetition + 1, self.repeat);
        }
        label
    }

    /// The rows of the lanes; the first one is the dense one.
    fn rows(&self, lanes: &[&Contender], rounds: &[Measured], others: Role) -> Result<Vec<Row>> {
        let of = |(at, lane): (usize, &&Contender)| {
            let role = if at == 0 { Role::Dense } else { others };
            let shown = self.folder.join(lane.file(self.ending()));
            Row::of(&self.job, lane, role, &shown, rounds, at).transpose()
        };
        lanes.iter().enumerate().filter_map(of).collect()
    }

    /// Writes the configurations and sets the file names.
    fn finish(&self, rows: Vec<Row>, staged: &StagedFolder) -> Result<Compared> {
        let run = &self.job.trajectory;
        let mut compared = Compared {
            outputs: rows.iter().map(|row| self.folder.join(&row.file)).collect(),
            rows,
            model: self.job.pipeline.meta().name.to_string(),
            prompt: self.job.request.prompt.clone(),
            rounds: self.seeds.len() * self.repeat,
            seeds: self.seeds.clone(),
            baselines: self.baselines,
            peak_memory: memory::peak_resident(),
            machine: Machine::this(&self.device),
            ratios: ratios::ratios(&self.job, &self.contenders),
            first_step: run.first,
            boundaries: run.phases.iter().map(|p| p.steps.start).filter(|start| *start > run.first).collect(),
        };
        for row in &compared.rows {
            let file = config_of(&staged.path().join(&row.file));
            media::write_file(&file, row.config.as_bytes())?;
        }
        if let (Some(image), None) = (&self.job.request.image, &self.job.config.sampling.image) {
            media::write_picture(&staged.path().join(contender::IMAGE), image)?;
            compared.outputs.push(self.folder.join(contender::IMAGE));
        }
        Ok(compared)
    }
}
