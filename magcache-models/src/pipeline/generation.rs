//! The denoising loop.

use std::{
    cell::OnceCell,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Tensor};
use magcache_core::{
    Branch, HookRegistry, Session, Trajectory, hint,
    snapshot::{Reader, Writer},
};

use super::{Denoiser, NextClip, PipelineError, Result, TextUses};
use crate::{
    once::get_or_try_init,
    ranks::{Layout, Ranks},
    sampler::Sampler,
};

/// Whether the squares of all values have a finite sum.
#[expect(clippy::disallowed_methods, reason = "one number per step")]
fn is_finite(values: &Tensor) -> Result<bool> {
    Ok(values.sqr()?.sum_all()?.to_scalar::<f32>()?.is_finite())
}

/// How long one pass of the network took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassTime {
    /// Step of the run, as [`Step::place`](magcache_core::Step::place) counts them.
    pub step: usize,
    /// Guidance branch.
    pub branch: Branch,
    /// Wall time; on a CPU this includes the device's work.
    pub time: Duration,
}

magcache_core::fields!(PassTime { step, branch, time });

/// What the network predicts on each branch.
type Predictions = Vec<(Branch, Tensor)>;

/// One run of the sampler, once for every clip. Owns its solver, its latents and its caches, so several can
/// run in turns.
pub struct Generation {
    denoiser: Option<Arc<dyn Denoiser>>,
    trajectory: Trajectory,
    sampler: Sampler,
    /// The solver before its first step, for the next clip.
    fresh: Sampler,
    session: Option<Session>,
    latents: Tensor,
    next: usize,
    /// The latents of each clip before the current one.
    ended: Vec<Tensor>,
    /// Frames of these clips that nobody took yet.
    frames: Vec<Tensor>,
    times: Vec<PassTime>,
    /// Counts of the network that was released.
    text_uses: Option<TextUses>,
    /// `None` if it runs on one rank.
    ranks: Option<Ranks>,
}

impl Generation {
    /// A run from `noise` of the latents' shape. Without hooks in `registry` the blocks run in the bare loop.
    ///
    /// # Errors
    /// Noise of another shape than the image that the run begins from.
    pub fn new(
        denoiser: Arc<dyn Denoiser>,
        trajectory: Trajectory,
        sampler: Sampler,
        noise: &Tensor,
        registry: &Arc<HookRegistry>,
    ) -> Result<Self> {
        let session = (!registry.is_empty()).then(|| registry.session());
        let next = trajectory.first;
        let latents = denoiser.begin(noise, &trajectory.step(next))?;
        Ok(Self {
            ranks: None,
            denoiser: Some(denoiser),
            trajectory,
            fresh: sampler.clone(),
            sampler,
            session,
            latents,
            next,
            ended: Vec::new(),
            frames: Vec::new(),
            times: Vec::new(),
            text_uses: None,
        })
    }

    /// A run that continues where [`Generation::save`] was called: every later step is bit-identical to that
    /// of the uninterrupted run, and the log, the counts and the times are those of the whole run. The other
    /// arguments are those of [`Generation::new`] and must be the same as then. Without a denoiser, only a
    /// finished run of one clip can be resumed, to be decoded. The frames of clips that had ended are made
    /// again.
    ///
    /// # Errors
    /// State of another run.
    pub fn resume(
        mut denoiser: Option<Arc<dyn Denoiser>>,
        trajectory: Trajectory,
        mut sampler: Sampler,
        registry: &Arc<HookRegistry>,
        from: &Reader<'_>,
    ) -> Result<Self> {
        let next = Self::stored_step(from)?;
        if !(trajectory.first..=trajectory.end()).contains(&next) {
            return Err(from.at("next").odd("a step of the run", next).into());
        }
        let fresh = sampler.clone();
        sampler.restore(from.field("sampler")?);
        let mut session = (!registry.is_empty()).then(|| registry.session());
        let caches: bool = from.field("caches")?;
        if caches != session.is_some() {
            return Err(from.at("caches").odd("whether the run has caches", caches).into());
        }
        if let Some(session) = &mut session {
            session.restore(&from.at("session"))?;
        }
        let (latents, times) = (from.field("latents")?, from.field("times")?);
        let (ended, mut frames): (Vec<Tensor>, _) = (from.field("ended")?, Vec::new());
        if ended.len() != trajectory.step(next.min(trajectory.end().saturating_sub(1))).clip {
            return Err(from.at("ended").odd("the clips before the current one", ended.len()).into());
        }
        for latents in &ended {
            let before = denoiser.take().ok_or_else(released)?;
            let clip = before.next_clip(latents, &|| false)?;
            frames.extend(clip.frames);
            denoiser = Some(clip.denoiser);
        }
        Ok(Self {
            ranks: None,
            denoiser,
            trajectory,
            sampler,
            fresh,
            session,
            latents,
            next,
            ended,
            frames,
            times,
            text_uses: None,
        })
    }

    /// The same on one of several ranks, which all make the same calls: each runs the tokens or the
    /// branch that are its own, and all have the same latents after each step. The network has to be
    /// divided among them too.
    ///
    /// # Errors
    /// Caches that need both branches of guidance on one rank, where each has ranks of its own.
    pub fn among(self, ranks: Option<&Ranks>) -> Result<Self> {
        let Some(ranks) = ranks else { return Ok(self) };
        let registry = self.session.as_ref().map(Session::registry);
        if let (Some(registry), 2..) = (registry, ranks.layout().cfg) {
            check_branches(registry, ranks.layout())?;
        }
        let session = self.session.map(|session| divided(session, ranks));
        Ok(Self { ranks: Some(ranks.clone()), session, ..self })
    }

    /// The next step of a run that was stored.
    ///
    /// # Errors
    /// The state does not contain it.
    pub fn stored_step(from: &Reader<'_>) -> Result<usize> {
        Ok(from.field("next")?)
    }

    /// Writes everything that the rest of the run depends on, and its log and times so far. Call it between
    /// two steps, but not after one that was interrupted or failed: some of its passes have run.
    ///
    /// # Errors
    /// A hook that does not define how its slots are stored.
    pub fn save(&self, to: &mut Writer<'_>) -> Result<()> {
        to.field("caches", &self.session.is_some());
        if let Some(session) = &self.session {
            session.save(&mut to.at("session"))?;
        }
        to.field("next", &self.next);
        to.field("sampler", self.sampler.history());
        to.field("latents", &self.latents);
        to.field("ended", &self.ended);
        to.field("times", &self.times);
        Ok(())
    }

    /// Runs one step: the branches that the trajectory assigns to it, guidance, the solver. `stop` is called
    /// before each pass of the network.
    ///
    /// Errors: [`PipelineError::Interrupted`] if `stop` returns true; latents and solver are then as before
    /// the step.
    pub fn step(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut session = self.session.take();
        let predicted = self.predict(session.as_mut(), stop);
        self.session = session;
        let (velocity, times) = predicted?;
        self.advance(&velocity, stop)?;
        self.times.extend(times);
        Ok(())
    }

    /// The velocity at the next step, guidance included, computed with the hooks of `session` or in the bare
    /// loop, and the time of each pass. Latents, solver and the run's own session do not change.
    ///
    /// # Errors
    /// As [`Generation::step`].
    pub fn predict(
        &self,
        mut session: Option<&mut Session>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Tensor, Vec<PassTime>)> {
        let denoiser = self.denoiser()?;
        let step = self.trajectory.step(self.next);
        denoiser.prepare(&step)?;
        let entered = OnceCell::new();
        let mut cond = None;
        let mut velocity = None;
        let mut times = Vec::new();
        let branches = self.trajectory.branches_at(&step);
        let split = self.ranks.as_ref().filter(|ranks| branches.len() > 1 && ranks.layout().cfg > 1);
        for branch in own_branch(branches, split) {
            if self.stops(stop)? {
                return Err(PipelineError::Interrupted { step: self.next, steps: self.trajectory.end() });
            }
            let start = Instant::now();
            let mut pass = match &mut session {
                Some(session) if split.is_some() => session.pass_beside(&step, *branch),
                Some(session) => session.pass(&step, *branch),
                None => magcache_core::Pass::off(),
            };
            let predicted = pass.forward(self.latents.clone(), |latents, pass| {
                if latents.id() != self.latents.id() {
                    // A hook around the network has changed the latents.
                    return denoiser.predict(&latents, &step, *branch, pass);
                }
                get_or_try_init(&entered, || denoiser.enter(&self.latents, &step))?.predict(*branch, pass)
            })?;
            drop(pass);
            let time = PassTime { step: step.place(), branch: *branch, time: start.elapsed() };
            let (all, mut passes) = match split {
                None => (vec![(*branch, predicted)], vec![time]),
                Some(ranks) => {
                    let session = session.as_deref_mut();
                    session.map_or(Ok(()), |session| session.join_branches(&step, *branch))?;
                    self.of_branches(ranks, branches, &predicted, time)?
                }
            };
            times.append(&mut passes);
            for (branch, predicted) in all {
                velocity = Some(match (branch, &cond) {
                    (Branch::Uncond, Some(cond)) => denoiser.guide(&step, cond, &predicted)?,
                    _ => {
                        cond = Some(predicted.clone());
                        predicted
                    }
                });
            }
        }
        let Some(velocity) = velocity else {
            return Err(PipelineError::request("a run without branches", "give it at least one"));
        };
        let velocity = velocity.to_dtype(DType::F32)?;
        if is_finite(&velocity)? {
            Ok((velocity, times))
        } else {
            Err(PipelineError::NotFinite { step: self.next })
        }
    }

    /// Whether any rank is asked to stop.
    fn stops(&self, stop: &dyn Fn() -> bool) -> Result<bool> {
        let Some(ranks) = &self.ranks else { return Ok(stop()) };
        let asked = ranks.world().any(&format!("whether step {} runs", self.next), stop());
        Ok(asked.map_err(hint::wrap)?)
    }

    /// The predictions and times of all branches, of which this rank has one.
    fn of_branches(
        &self,
        ranks: &Ranks,
        branches: &[Branch],
        own: &Tensor,
        time: PassTime,
    ) -> Result<(Predictions, Vec<PassTime>)> {
        let about = format!("the predictions of step {}", self.next);
        let all = branches.iter().copied().zip(ranks.of_branches(&about, own)?).collect();
        let nanos = time.time.as_nanos() as u64;
        let times = ranks.branches().gather("times", &nanos.to_le_bytes()).map_err(hint::wrap)?;
        let of = |(branch, bytes): (&Branch, Vec<u8>)| {
            let nanos = bytes.try_into().map_or(nanos, u64::from_le_bytes);
            PassTime { branch: *branch, time: Duration::from_nanos(nanos), ..time }
        };
        Ok((all, branches.iter().zip(times).map(of).collect()))
    }

    /// Completes the next step with this velocity, f32, in the shape of the latents: the result of
    /// [`Generation::predict`], or a replacement.
    ///
    /// # Errors
    /// A velocity of another shape; latents and solver are then as before the step.
    pub fn step_with(&mut self, velocity: &Tensor) -> Result<()> {
        self.advance(velocity, &|| false)
    }

    fn advance(&mut self, velocity: &Tensor, stop: &dyn Fn() -> bool) -> Result<()> {
        let step = self.trajectory.step(self.next);
        if step.index + 1 < step.total {
            self.latents = self.sampler.step(step.index, velocity, &self.latents)?;
        } else {
            // The solver is as it was if this is interrupted.
            let latents = self.sampler.clone().step(step.index, velocity, &self.latents)?;
            self.end_clip(&latents, stop)?;
        }
        self.next += 1;
        Ok(())
    }

    /// Ends the current clip with the latents of its last step, and begins the next one, if there is one.
    fn end_clip(&mut self, latents: &Tensor, stop: &dyn Fn() -> bool) -> Result<()> {
        let latents = self.denoiser()?.finish(latents)?;
        if self.next + 1 >= self.trajectory.end() {
            self.latents = latents;
            return Ok(());
        }
        let next = self.denoiser()?.next_clip(&latents, stop).map_err(|error| match error {
            PipelineError::Interrupted { .. } => {
                PipelineError::Interrupted { step: self.next, steps: self.trajectory.end() }
            }
            error => error,
        })?;
        let NextClip { frames, denoiser, noise } = next;
        self.latents = denoiser.begin(&noise, &self.trajectory.step(self.next + 1))?;
        self.ended.push(latents);
        self.frames.extend(frames);
        (self.denoiser, self.sampler) = (Some(denoiser), self.fresh.clone());
        Ok(())
    }

    /// Moves out the frames of the clips that have ended, in order, as
    /// [`Pipeline::decode`](super::Pipeline::decode) passes them on; the last clip is left to that. They stay
    /// in memory until they are taken.
    pub fn take_frames(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.frames)
    }

    /// A copy of the run that continues independently from here, with new hooks and empty caches.
    #[must_use]
    pub fn fork(&self, registry: &Arc<HookRegistry>) -> Self {
        Self {
            denoiser: self.denoiser.clone(),
            trajectory: self.trajectory.clone(),
            sampler: self.sampler.clone(),
            fresh: self.fresh.clone(),
            session: (!registry.is_empty()).then(|| match &self.ranks {
                None => registry.session(),
                Some(ranks) => divided(registry.session(), ranks),
            }),
            ranks: self.ranks.clone(),
            latents: self.latents.clone(),
            next: self.next,
            ended: self.ended.clone(),
            frames: Vec::new(),
            times: Vec::new(),
            text_uses: None,
        }
    }

    fn denoiser(&self) -> Result<&Arc<dyn Denoiser>> {
        self.denoiser.as_ref().ok_or_else(released)
    }

    /// Runs the remaining steps, calling `progress` after each.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(&Self)) -> Result<()> {
        while !self.is_done() {
            self.step(stop)?;
            progress(self);
        }
        Ok(())
    }

    /// Releases the network, which is freed with its last user: for a finished run that will be decoded. A
    /// step after this is an error.
    pub fn release(&mut self) {
        self.text_uses = self.text_uses();
        self.denoiser = None;
    }

    /// How often the network reused keys and values of the text, over all its generations together.
    pub fn text_uses(&self) -> Option<TextUses> {
        self.denoiser.as_ref().map_or(self.text_uses, |denoiser| denoiser.text_uses())
    }

    /// Whether the last step has run.
    pub fn is_done(&self) -> bool {
        self.next >= self.trajectory.end()
    }

    /// The next step.
    pub fn next(&self) -> usize {
        self.next
    }

    /// The latents after the last step run, of the current clip, f32, in the shape that the model's
    /// [`Denoiser`] takes.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// The latents of each clip before the current one, as [`Denoiser::finish`] returned them.
    pub fn ended(&self) -> &[Tensor] {
        &self.ended
    }

    /// The steps of the run.
    pub fn trajectory(&self) -> &Trajectory {
        &self.trajectory
    }

    /// The caches and their decisions; `None` for a run without hooks.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// How long each pass took, in order.
    pub fn times(&self) -> &[PassTime] {
        &self.times
    }

    /// Time in the network.
    pub fn transformer_time(&self) -> Duration {
        self.times.iter().map(|t| t.time).sum()
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A session of one of several ranks.
fn divided(session: Session, ranks: &Ranks) -> Session {
    session.in_group(ranks.tokens().clone()).beside(ranks.branches().clone())
}

/// The branches that run here: with ranks for each, one.
fn own_branch<'b>(branches: &'b [Branch], split: Option<&Ranks>) -> &'b [Branch] {
    let Some(ranks) = split else { return branches };
    let place = ranks.branches().place();
    branches.get(place..=place).unwrap_or_default()
}

/// Checks that caches can run with the branches of guidance on ranks of their own.
fn check_branches(registry: &HookRegistry, layout: Layout) -> Result<()> {
    if let Some(hook) = registry.rebuilds_branches() {
        let message =
            format!("cache {} rebuilds one branch from the other, {layout} runs them apart", hook.0 + 1);
        return Err(PipelineError::request(message, "another cache, or `parallel = \"ulysses=N\"`"));
    }
    if let Some(budget) = registry.storage().budget {
        let message = format!(
            "the residuals' budget of {budget} bytes is that of both branches, {layout} runs them apart"
        );
        return Err(PipelineError::request(message, "no `budget`, or `parallel = \"ulysses=N\"`"));
    }
    Ok(())
}

fn released() -> PipelineError {
    PipelineError::request("a step after the network was released", "make a new generation")
}
