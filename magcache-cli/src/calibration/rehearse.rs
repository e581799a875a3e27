//! A dense run with every step rehearsed, the input of the planner, and SenCache's sensitivities measured on
//! the way.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{
    Branch, HookRegistry, ModelMeta, Pass, Step, Window,
    calibrate::{Around, LastPrediction, Recorder, Rehearsal, Response},
    planner::{PartialStep, ReuseErrors, StepErrors},
    state::HookId,
};
use magcache_models::pipeline::{Denoiser, Generation, PipelineError};

use crate::lanes::Scene;

/// How much of a run is rehearsed.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// At each step, the residuals of this many earlier steps are tried; 0 disables rehearsal.
    pub(crate) reach: usize,
    /// Number of steps whose error is followed to the end of the run.
    pub(crate) growth: usize,
    /// Windows of blocks that run while those between are replaced, tried as well.
    pub(crate) windows: Vec<Window>,
    /// Whether to measure how sensitive the network's prediction is, for SenCache.
    pub(crate) sensitivities: bool,
}

/// Dense runs that are recorded, and rehearsed as far as `extent` says.
#[derive(Debug)]
pub(crate) struct Watched {
    hooks: Arc<HookRegistry>,
    rehearsal: Rehearsal,
    /// One for each window.
    windows: Vec<Rehearsal>,
    recorder: Recorder,
    prediction: LastPrediction,
    extent: Extent,
}

/// A run with an error introduced at one step, continued without caches.
struct Wrong {
    step: usize,
    run: Generation,
    /// Root mean square error of the latents after that step.
    error: f64,
}

impl Watched {
    pub(crate) fn new(model: &ModelMeta, recorder: &Recorder, extent: Extent) -> Result<Self> {
        let blocks = model.blocks();
        let rehearsal = Rehearsal::new(HookId(1), 0..blocks, model, extent.reach);
        let between = |(own, id): (&Window, u16)| {
            let range = own.front..blocks.saturating_sub(own.back);
            Rehearsal::new(HookId(id), range, model, extent.reach)
        };
        let windows: Vec<Rehearsal> = extent.windows.iter().zip(2..).map(between).collect();
        let builder = HookRegistry::builder(blocks).ring(0..blocks, Arc::new(recorder.clone()))?;
        let mut builder = match extent.reach {
            0 => builder,
            _ => std::iter::once(&rehearsal)
                .chain(&windows)
                .try_fold(builder, |builder, own| builder.ring(own.range(), Arc::new(own.clone())))?,
        };
        let prediction = LastPrediction::default();
        if extent.sensitivities {
            builder = builder.forward(Arc::new(prediction.clone()));
        }
        Ok(Self {
            hooks: builder.build(),
            rehearsal,
            windows,
            recorder: recorder.clone(),
            prediction,
            extent,
        })
    }

    /// Runs densely; returns `None` if nothing is rehearsed. `stop` is checked before each pass, `progress`
    /// is called after each step.
    pub(crate) fn run(
        &self,
        scene: &Scene<'_>,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(),
    ) -> Result<Option<ReuseErrors>> {
        let (pipeline, request) = (scene.pipeline, &scene.request);
        let (sampler, noise) = (pipeline.sampler(request)?, pipeline.noise(request)?);
        // What a reuse does is the same in every clip.
        let run = pipeline.trajectory(request)?.one_clip();
        let generation = Generation::new(Arc::clone(&scene.denoiser), run, sampler, &noise, &self.hooks)?;
        let mut generation = generation.among(scene.ranks)?;
        if self.extent.reach == 0 {
            while !generation.is_done() {
                self.step(&scene.denoiser, &mut generation, stop)?;
                progress();
            }
            return Ok(None);
        }
        let decode = |latents: &Tensor| Ok(scene.decode(latents, stop)?);
        let (found, _) = self.rehearsed(&scene.denoiser, generation, &decode, stop, progress)?;
        Ok(Some(found))
    }

    /// The errors of a dense run of the hooks of this, and the latents at its end. `decode` makes pixels of
    /// latents.
    pub(crate) fn rehearsed(
        &self,
        denoiser: &Arc<dyn Denoiser>,
        mut generation: Generation,
        decode: &dyn Fn(&Tensor) -> Result<Tensor>,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(),
    ) -> Result<(ReuseErrors, Tensor)> {
        let followed = self.followed(&generation);
        let untimed = |window: &Window| PartialStep { window: *window, cost: 1.0 };
        let windows = self.extent.windows.iter().map(untimed).collect();
        let mut out = ReuseErrors { windows, ..ReuseErrors::default() };
        // Steps before the first one that runs have no errors.
        out.steps.resize(generation.next(), StepErrors::default());
        let mut wrongs = Vec::new();
        while !generation.is_done() {
            let step = generation.next();
            let (sources, mut forks) = rehearse(&self.rehearsal, &generation, stop)?;
            let of = |own| Ok(rehearse(own, &generation, stop)?.1);
            let partial: Vec<Vec<Generation>> = self.windows.iter().map(of).collect::<Result<_>>()?;
            self.step(denoiser, &mut generation, stop)?;
            progress();
            let errors = errors(&forks, &generation)?;
            let windows = partial.iter().map(|forks| products(&self::errors(forks, &generation)?));
            let windows = windows.collect::<Result<_>>()?;
            out.steps.push(StepErrors { sources, products: products(&errors)?, windows });
            if let (true, Some(run), Some(error)) = (followed.contains(&step), forks.pop(), errors.last()) {
                wrongs.push(Wrong { step, run, error: mean_product(error, error)?.sqrt() });
            }
        }
        follow(decode, &generation, wrongs, &mut out, stop)?;
        Ok((out, generation.latents().clone()))
    }

    fn step(
        &self,
        denoiser: &Arc<dyn Denoiser>,
        run: &mut Generation,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        if !self.extent.sensitivities {
            return Ok(run.step(stop)?);
        }
        let before = Before::of(run);
        run.step(stop)?;
        self.recorder.add(before.response(run, denoiser.as_ref(), &self.prediction, stop)?);
        Ok(())
    }

    /// The hooks of the runs that are watched.
    pub(crate) fn hooks(&self) -> &Arc<HookRegistry> {
        &self.hooks
    }

    /// Evenly spaced steps from the second to the last.
    fn followed(&self, run: &Generation) -> Vec<usize> {
        let (first, last) = (run.next() + 1, run.trajectory().len().saturating_sub(1));
        let gaps = self.extent.growth.saturating_sub(1).max(1);
        let at = |i: usize| first + i * last.saturating_sub(first) / gaps;
        // Fewer than asked for where the run is shorter.
        let mut all: Vec<usize> = (0..self.extent.growth).map(at).collect();
        all.dedup();
        all
    }
}

/// Runs the next step of `run` once with each stored step's residual; each result is a run of its own from
/// there on.
fn rehearse(
    rehearsal: &Rehearsal,
    run: &Generation,
    stop: &dyn Fn() -> bool,
) -> Result<(Vec<usize>, Vec<Generation>)> {
    let Some(session) = run.session() else { return Ok(Default::default()) };
    let step = run.trajectory().step(run.next());
    let branches = run.trajectory().branches_at(&step);
    let sources = rehearsal.sources(session, step.expert, branches);
    let mut forks = Vec::with_capacity(sources.len());
    for source in &sources {
        let stand_in = rehearsal.stand_in(session, step.expert, branches, *source)?;
        let (velocity, _) = run.predict(Some(&mut stand_in.session()), stop)?;
        let mut fork = run.fork(&Arc::default());
        fork.step_with(&velocity)?;
        forks.push(fork);
    }
    Ok((sources, forks))
}

/// How far the latents of each run are from those of the dense one.
fn errors(forks: &[Generation], dense: &Generation) -> Result<Vec<Tensor>> {
    forks.iter().map(|fork| Ok((fork.latents() - dense.latents())?)).collect()
}

/// The mean products of all pairs, row by row.
fn products(errors: &[Tensor]) -> Result<Vec<f64>> {
    errors.iter().flat_map(|a| errors.iter().map(move |b| mean_product(a, b))).collect()
}

/// Continues each run that has an error to its end, and records how far it ends from the dense run.
fn follow(
    decode: &dyn Fn(&Tensor) -> Result<Tensor>,
    dense: &Generation,
    wrongs: Vec<Wrong>,
    out: &mut ReuseErrors,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let shown = decode(dense.latents())?;
    let (mut logs, mut ends): (Vec<f64>, Vec<(Tensor, f64)>) = Default::default();
    for Wrong { step, mut run, error } in wrongs {
        run.run(stop, &mut |_| {})?;
        let off = (run.latents() - dense.latents())?;
        let end = mean_product(&off, &off)?.sqrt();
        let shift = (decode(run.latents())? - &shown)?;
        let pixels = mean_product(&shift, &shift)?.sqrt();
        if error > 0.0 && end > 0.0 {
            out.growth.push((step, end / error));
            ends.push((off, end));
        }
        if end > 0.0 && pixels > 0.0 {
            logs.push((pixels / end).ln());
        }
    }
    if !logs.is_empty() {
        out.pixels = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    }
    let cosine = |(a, x): &(Tensor, f64), (b, y): &(Tensor, f64)| Ok(mean_product(a, b)? / (x * y));
    let pairs = ends.iter().flat_map(|a| ends.iter().map(move |b| cosine(a, b)));
    out.cosines = pairs.collect::<Result<_>>()?;
    Ok(())
}

/// Mean of the elementwise products, in f64.
fn mean_product(a: &Tensor, b: &Tensor) -> Result<f64> {
    #[expect(clippy::disallowed_methods, reason = "one number for each rehearsed step")]
    Ok((a * b)?.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
}

/// The state of a run before a step.
#[derive(Debug)]
struct Before {
    step: Step,
    /// The same step with the timestep of the next one: 0 after the last step.
    later: Step,
    latents: Tensor,
}

impl Before {
    fn of(run: &Generation) -> Self {
        let at = run.next();
        let step = run.trajectory().step(at);
        let next = (at + 1 < run.trajectory().len()).then(|| run.trajectory().step(at + 1));
        let (timestep, sigma) = next.map_or((0.0, 0.0), |next| (next.timestep, next.sigma));
        Self { later: Step { timestep, sigma, ..step.clone() }, step, latents: run.latents().clone() }
    }

    /// Measures how the prediction responds, with two more conditional passes: at the latents that `run`
    /// reached after the step, and at the next timestep. `kept` belongs to the hooks of the run.
    fn response(
        self,
        run: &Generation,
        denoiser: &dyn Denoiser,
        kept: &LastPrediction,
        stop: &dyn Fn() -> bool,
    ) -> Result<Response> {
        let Some(here) = kept.take() else {
            return Err(PipelineError::request("a run without a conditional branch", "give it one").into());
        };
        let predict = |latents: &Tensor, step: &Step| -> Result<Tensor> {
            if stop() {
                let steps = run.trajectory().len();
                return Err(PipelineError::Interrupted { step: self.step.index, steps }.into());
            }
            Ok(denoiser.predict(latents, step, Branch::Cond, &mut Pass::off())?)
        };
        let moved = predict(run.latents(), &self.step)?;
        let later = predict(&self.latents, &self.later)?;
        let around = Around {
            here: &here,
            moved: &moved,
            later: &later,
            latents: [&self.latents, run.latents()],
            next_timestep: self.later.timestep,
        };
        Ok(Response::of(&self.step, around)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{Lane, testing::with_scene};

    /// The latents after the last step.
    fn end(scene: &Scene<'_>, hooks: &Arc<HookRegistry>) -> Tensor {
        let mut lane = Lane::new(scene, hooks).unwrap();
        lane.generation.run(&|| false, &mut |_| {}).unwrap();
        lane.generation.latents().clone()
    }

    /// The error predicted for a skip is the error that occurs when a cache skips that step.
    #[test]
    fn a_predicted_error_is_that_of_the_run_with_the_skip() {
        with_scene(6, |scene, hooks| {
            let go = || false;
            let recorder = Recorder::new(scene.pipeline.meta());
            let watched = Watched::new(
                scene.pipeline.meta(),
                &recorder,
                Extent {
                    reach: 4,
                    growth: 6,
                    windows: vec![Window { front: 1, back: 1 }],
                    sensitivities: false,
                },
            )
            .unwrap();
            let found = watched.run(scene, &go, &mut || {}).unwrap().expect("it rehearses");
            let dense = end(scene, &Arc::default());
            assert_eq!(found.steps.len(), 6);
            for step in 1..6 {
                let table = format!("[[cache]]\nstrategy = \"schedule\"\nskip = [{step}]\n");
                let off = (end(scene, &hooks(&table)) - &dense).unwrap();
                let real = mean_product(&off, &off).unwrap().sqrt();
                let own = &found.steps[step];
                assert_eq!(own.sources, (step.saturating_sub(4)..step).collect::<Vec<_>>());
                let local = own.products.last().unwrap().sqrt();
                let predicted = local * found.growth_at(step);
                assert!((predicted - real).abs() <= 1e-4 * real, "step {step}: {predicted} {real}");
            }
            // Of a window, at the last step: nothing follows.
            let last = scene.pipeline.meta().blocks() - 1;
            let table = format!("[[cache]]\nstrategy = \"schedule\"\nat = \"1..{last}\"\nskip = [5]\n");
            let off = (end(scene, &hooks(&table)) - &dense).unwrap();
            let real = mean_product(&off, &off).unwrap().sqrt();
            let predicted = found.steps[5].windows[0].last().unwrap().sqrt();
            assert!(real > 0.0 && (predicted - real).abs() <= 1e-4 * real, "{predicted} {real}");
            // The error of a line is derived from those of its two residuals, as if they added up. The output
            // head's norm makes it 0.9 to 2.4 times the real one, depending on the step; here they agree.
            let table = "[[cache]]\nstrategy = \"schedule\"\nskip = [4]\nforecast = { type = \"taylor\", order = 1 }\n";
            let off = (end(scene, &hooks(table)) - &dense).unwrap();
            let real = mean_product(&off, &off).unwrap().sqrt();
            let planner =
                magcache_core::planner::Planner::new(&[ReuseErrors { pixels: 1.0, ..found }]).unwrap();
            let line = planner.predict(magcache_core::planner::Continuation::Line, &[4]).unwrap();
            assert!((line.error / real - 1.0).abs() < 0.05, "{} {real}", line.error);
        });
    }

    #[test]
    fn nothing_is_rehearsed_without_reach() {
        with_scene(2, |scene, _| {
            let recorder = Recorder::new(scene.pipeline.meta());
            let watched = Watched::new(
                scene.pipeline.meta(),
                &recorder,
                Extent { reach: 0, growth: 2, windows: Vec::new(), sensitivities: false },
            )
            .unwrap();
            assert!(watched.run(scene, &|| false, &mut || {}).unwrap().is_none());
            assert_eq!(recorder.recording().steps, 2);
        });
    }
}
