//! A dense run and others in turns, and the results of each.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use candle_core::Tensor;
use image::RgbImage;
use magcache_core::{Branch, HookRegistry, Session, Step, Trajectory, state::HookId};

use super::{Lane, Scene, take_turns};
use crate::{
    media::{Destination, Frames, ValueRange},
    quality::{Lpips, QualityError, Scores, compare_tensors, perceptual},
    summary::{Summary, strip},
};

/// A lane to run.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) registry: Arc<HookRegistry>,
    pub(crate) steps: usize,
}

impl Entry {
    pub(crate) fn dense(steps: usize) -> Self {
        Self { registry: Arc::default(), steps }
    }
}

/// What happens to the decoded frames of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    /// They are written to the lanes' files, for lanes that have one, and compared with the first lane's.
    Written(&'a [Option<Destination>]),
    Compared,
    /// They were compared before: only times are measured.
    Timed,
}

/// What a hook noted at a step: the value it measured, the value it compared with its threshold, and the
/// threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Noted {
    pub(crate) step: usize,
    pub(crate) metric: Option<f64>,
    pub(crate) accumulated: Option<f64>,
    pub(crate) threshold: Option<f64>,
}

/// How alike the pictures of two lanes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Likeness {
    /// In dB; infinite if nothing differs.
    pub(crate) psnr: f64,
    pub(crate) ssim: f64,
    /// `None` for frames that it is not defined for.
    pub(crate) ssimulacra2: Option<Scores>,
    /// `None` if it is not measured.
    pub(crate) lpips: Option<Scores>,
}

impl Likeness {
    /// Of frames `[frames, height, width, channels]` in 0..=1.
    pub(crate) fn of(frames: &Tensor, dense: &Tensor, lpips: Option<&Lpips>) -> Result<Self, QualityError> {
        let found = compare_tensors(frames, dense, 1.0)?;
        Ok(Self {
            psnr: found.psnr(),
            ssim: found.ssim(),
            ssimulacra2: perceptual(dense, frames)?,
            lpips: lpips.map(|lpips| lpips.compare(dense, frames)).transpose()?,
        })
    }
}

/// The results of one lane of a round.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Seconds in the network.
    pub(crate) transformer_seconds: f64,
    /// Seconds in the network and in the autoencoder.
    pub(crate) seconds: f64,
    /// Speed-up over the first lane of the round, for the network alone.
    pub(crate) transformer_speedup: f64,
    /// Speed-up over the first lane of the round.
    pub(crate) speedup: f64,
    /// Against the first lane; `None` for the first lane itself.
    pub(crate) likeness: Option<Likeness>,
    pub(crate) summary: Summary,
    pub(crate) strips: Vec<(Branch, String)>,
    /// What each hook noted, by branch.
    pub(crate) noted: BTreeMap<(HookId, Branch), Vec<Noted>>,
    /// See [`Lane::divergence`].
    pub(crate) divergence: Vec<f64>,
    /// Peak bytes held by its caches.
    pub(crate) cache_bytes: usize,
    /// The first and the last written frame.
    pub(crate) stills: Vec<RgbImage>,
}

/// Runs `entries`, the dense one first, and decodes them in this order. `stop` is checked before each pass
/// and each decoded chunk; `progress` is called after each step of a lane. Pictures are compared by
/// `lpips` too if it is given.
pub(crate) fn round(
    scene: &Scene<'_>,
    entries: &[Entry],
    shown: Shown<'_>,
    lpips: Option<&Lpips>,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(),
) -> Result<Vec<Finished>> {
    let lane = |entry: &Entry| Lane::new(&scene.with_steps(entry.steps), &entry.registry);
    let mut lanes: Vec<Lane<'_>> = entries.iter().map(lane).collect::<Result<_>>()?;
    take_turns(&mut lanes, stop, progress)?;
    let mut finished: Vec<Finished> = Vec::with_capacity(lanes.len());
    let mut dense: Option<Tensor> = None;
    // One by one, so that the frames of at most two lanes are in memory.
    for (i, mut lane) in lanes.into_iter().enumerate() {
        let frames = lane.decode(stop)?;
        let mut stills = Vec::new();
        if let Shown::Written(outputs) = shown
            && let Some(Some(output)) = outputs.get(i)
        {
            let shown = Frames::new(&frames.permute((3, 0, 1, 2))?, ValueRange::Unit)?;
            output.write(&shown)?;
            stills = [0, shown.len().saturating_sub(1)]
                .into_iter()
                .map(|at| shown.get(at))
                .collect::<Result<_, _>>()?;
        }
        let likeness = match (&dense, shown) {
            (Some(dense), Shown::Written(_) | Shown::Compared) => Some(Likeness::of(&frames, dense, lpips)?),
            _ => None,
        };
        let own = Finished::of(&lane, finished.first());
        finished.push(Finished { likeness, stills, ..own });
        dense.get_or_insert(frames);
    }
    Ok(finished)
}

impl Finished {
    /// What is known without the frames; `first` is the first lane of the round.
    fn of(lane: &Lane<'_>, first: Option<&Self>) -> Self {
        let generation = &lane.generation;
        let (transformer_seconds, seconds) = (lane.transformer_seconds(), lane.seconds());
        let session = generation.session();
        Self {
            transformer_seconds,
            seconds,
            transformer_speedup: first.map_or(transformer_seconds, |first| first.transformer_seconds)
                / transformer_seconds,
            speedup: first.map_or(seconds, |first| first.seconds) / seconds,
            likeness: None,
            summary: lane.summary(),
            strips: session.map_or_else(Vec::new, |s| strip::strips(s.log(), generation.trajectory())),
            noted: session.map_or_else(BTreeMap::new, |s| noted(s, generation.trajectory())),
            divergence: lane.divergence.clone(),
            cache_bytes: session.map_or(0, |s| s.slots().peak_bytes()),
            stills: Vec::new(),
        }
    }
}

/// What hooks around blocks or forwards noted, at each step with a finite number.
fn noted(session: &Session, run: &Trajectory) -> BTreeMap<(HookId, Branch), Vec<Noted>> {
    let steps: BTreeMap<usize, Step> = run.steps().map(|step| (step.place(), step)).collect();
    let mut out: BTreeMap<_, Vec<Noted>> = BTreeMap::new();
    let finite = |value: Option<f64>| value.filter(|v| v.is_finite());
    for record in session.log().records().iter().filter(|r| r.module.is_none()) {
        let (metric, accumulated) = (finite(record.metric), finite(record.accumulated));
        if metric.is_some() || accumulated.is_some() {
            let bound = |step: &Step| session.registry().threshold(record.hook, step);
            let threshold = finite(steps.get(&record.step).and_then(bound));
            let note = Noted { step: record.step, metric, accumulated, threshold };
            out.entry((record.hook, record.branch)).or_default().push(note);
        }
    }
    out
}
