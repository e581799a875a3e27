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

use std::path::PathBuf;

use anyhow::Result;

use self::{
    contender::{Contender, DENSE},
    ratios::Ratios,
    row::{Role, Round, Row},
};
use crate::{
    console::{Console, Interrupt},
    files::config_of,
    job::Job,
    lanes::{self, Entry, Scene, Shown},
    machine::{Machine, peak_resident},
    media::{self, Destination, StagedFolder},
    quality::Lpips,
};

/// The page with all results, written by `report`.
pub(crate) const PAGE: &str = "report.html";

#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) job: Job,
    /// The configurations, without the dense lane.
    pub(crate) contenders: Vec<Contender>,
    /// Seeds of the initial noise; pictures are shown of the first one.
    pub(crate) seeds: Vec<u64>,
    pub(crate) repeat: usize,
    /// Whether the naive baselines run too.
    pub(crate) baselines: bool,
    /// Compares pictures too, if it is asked for.
    pub(crate) lpips: Option<Lpips>,
    /// The device that was requested for the network.
    pub(crate) device: String,
    /// What the progress bar says in front of what runs.
    pub(crate) place: String,
    /// Where the pictures and the page go.
    pub(crate) folder: PathBuf,
}

/// The results.
#[derive(Debug)]
pub(crate) struct Compared<'a> {
    pub(crate) of: &'a Comparison,
    /// The dense row, then configurations, then baselines.
    pub(crate) rows: Vec<Row>,
    /// Of the whole process; see [`peak_resident`].
    pub(crate) peak_memory: Option<usize>,
    pub(crate) machine: Machine,
    /// The calibrated curve of a profile in use.
    pub(crate) ratios: Option<Ratios>,
    pub(crate) outputs: Vec<PathBuf>,
}

impl Compared<'_> {
    pub(crate) fn configs(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.role == Role::Config)
    }
}

/// A comparison while it runs.
struct Running<'a> {
    of: &'a Comparison,
    /// `None` on ranks that write nothing.
    staged: Option<&'a StagedFolder>,
    /// One per seed.
    scenes: Vec<Scene<'a>>,
    stop: &'a dyn Fn() -> bool,
    out: &'a Console,
}

impl Comparison {
    /// Checks that the folder can be written to. Call before anything runs.
    pub(crate) fn check_folder(&self) -> Result<()> {
        let dense = self.folder.join(format!("{DENSE}.{}", self.ending()));
        self.job.with_sound(Destination::prepare(dense, self.job.video_shape())?)?;
        Ok(media::probe(&self.folder.join(PAGE))?)
    }

    /// `png` for images, `mp4` for videos.
    fn ending(&self) -> &'static str {
        if self.job.frames == 1 { "png" } else { "mp4" }
    }

    pub(crate) fn rounds(&self) -> usize {
        self.seeds.len() * self.repeat
    }

    /// Runs everything and writes pictures and configurations. They appear in their folder only once the
    /// caller, who adds the page, merges it.
    pub(crate) fn run(&self, out: &Console) -> Result<(Compared<'_>, StagedFolder)> {
        let interrupt = Interrupt::listen()?;
        let stop = || interrupt.is_set();
        let staged = StagedFolder::create(&self.folder)?;
        let scenes = self.scenes(&stop, out)?;
        let rows = Running { of: self, staged: Some(&staged), scenes, stop: &stop, out }.all_rows()?;
        Ok((self.finish(rows, &staged)?, staged))
    }

    /// The part of a rank that is not the first: the same runs. Writes nothing.
    pub(crate) fn follow(&self, out: &Console) -> Result<()> {
        let interrupt = Interrupt::listen()?;
        let stop = || interrupt.is_set();
        let scenes = self.scenes(&stop, out)?;
        Running { of: self, staged: None, scenes, stop: &stop, out }.all_rows().map(drop)
    }

    /// The scene of each seed; the network is warm.
    fn scenes(&self, stop: &dyn Fn() -> bool, out: &Console) -> Result<Vec<Scene<'_>>> {
        let spinner = out.spinner(&format!("{}loading", self.place));
        let prompt = [self.job.request.prompt.clone()];
        let (scenes, notes) =
            Scene::load_each(&self.job, &prompt, &self.seeds, &|stage| spinner.set_message(stage))?;
        spinner.finish_and_clear();
        notes.iter().for_each(|note| out.loaded(note));
        scenes.first().map(|scene| lanes::warm_up(scene, stop)).transpose()?;
        Ok(scenes)
    }

    /// Writes the configurations.
    fn finish(&self, rows: Vec<Row>, staged: &StagedFolder) -> Result<Compared<'_>> {
        for row in &rows {
            media::write_file(&config_of(&staged.path().join(&row.file)), row.config.as_bytes())?;
        }
        let mut outputs: Vec<PathBuf> = rows.iter().map(|row| self.folder.join(&row.file)).collect();
        if let (Some(image), None) = (&self.job.request.image, &self.job.config.sampling.image) {
            media::write_picture(&staged.path().join(contender::IMAGE), image)?;
            outputs.push(self.folder.join(contender::IMAGE));
        }
        Ok(Compared {
            of: self,
            rows,
            peak_memory: peak_resident(),
            machine: Machine::this(&self.device),
            ratios: ratios::ratios(&self.job, &self.contenders),
            outputs,
        })
    }
}

impl Running<'_> {
    /// The dense row, those of the configurations and those of the baselines.
    fn all_rows(&self) -> Result<Vec<Row>> {
        let Comparison { job, contenders, baselines, .. } = self.of;
        let mut rows = self.rows(contenders, Role::Config, "dense and cached")?;
        let fewer = if *baselines { baseline::contenders(job, &rows) } else { Vec::new() };
        if !fewer.is_empty() {
            // The dense lane of these rounds repeats the first one; only its times are used.
            let mut baselines = self.rows(&fewer, Role::Baseline, "dense and fewer steps")?.split_off(1);
            baseline::relate(job, &mut rows, &mut baselines);
            rows.extend(baselines);
        }
        Ok(rows)
    }

    /// Runs the dense lane and `contenders`, and returns their rows. The pictures of the dense lane are
    /// written with the configurations.
    fn rows(&self, contenders: &[Contender], role: Role, what: &str) -> Result<Vec<Row>> {
        let Comparison { job, folder, .. } = self.of;
        let dense = Contender::dense(DENSE, job.request.steps);
        let lanes: Vec<&Contender> = std::iter::once(&dense).chain(contenders).collect();
        let file = |lane: &Contender| lane.file(self.of.ending());
        let output = |(i, lane): (usize, &&Contender)| {
            let Some(staged) = self.staged.filter(|_| role == Role::Config || i > 0) else { return Ok(None) };
            let path = staged.path().join(file(lane));
            job.with_sound(Destination::prepare(path, job.video_shape())?).map(Some)
        };
        let outputs = lanes.iter().enumerate().map(output).collect::<Result<Vec<_>>>()?;
        let entries: Vec<Entry> = lanes.iter().map(|lane| lane.entry.clone()).collect();
        let rounds = self.rounds(&entries, &outputs, what)?;
        let row = |(at, lane): (usize, &&Contender)| {
            let role = if at == 0 { Role::Dense } else { role };
            Row::of(job, lane, role, &folder.join(lane.file(self.of.ending())), &rounds, at).transpose()
        };
        lanes.iter().enumerate().filter_map(row).collect()
    }

    /// Runs every seed the requested number of times. Writes the pictures of the first round.
    fn rounds(&self, entries: &[Entry], outputs: &[Option<Destination>], what: &str) -> Result<Vec<Round>> {
        let Comparison { seeds, repeat, lpips, place, .. } = self.of;
        let mut rounds = Vec::new();
        for (i, (seed, scene)) in seeds.iter().zip(&self.scenes).enumerate() {
            for repetition in 0..*repeat {
                let shown = match (i, repetition) {
                    (0, 0) => Shown::Written(outputs),
                    (_, 0) => Shown::Compared,
                    _ => Shown::Timed,
                };
                let mut label = format!("{place}{what}");
                if seeds.len() > 1 {
                    label += &format!(", seed {seed}");
                }
                if *repeat > 1 {
                    label += &format!(", {} of {repeat}", repetition + 1);
                }
                let mut steps = 0;
                for entry in entries {
                    let request = scene.with_steps(entry.steps).request;
                    steps += scene.pipeline.trajectory(&request)?.steps().count();
                }
                let bar = self.out.bar(steps, &label);
                let lanes =
                    lanes::round(scene, entries, shown, lpips.as_ref(), self.stop, &mut || bar.inc(1))?;
                bar.finish_and_clear();
                rounds.push((*seed, lanes));
            }
        }
        Ok(rounds)
    }
}
