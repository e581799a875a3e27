//! Where runs with many schedules end: steps that schedules have in common run once.

use anyhow::{Context, Result};
use candle_core::Tensor;
use magcache_core::{planner::Skipped, snapshot::Snapshot};
use magcache_models::pipeline::Generation;

/// The latents at the end of a run with each of these schedules.
///
/// `begin` makes a run with a schedule, at its start or where another run was stored. `stop` is checked
/// before each pass.
pub(crate) fn ends(schedules: &[Skipped], begin: &Begin<'_>, stop: &dyn Fn() -> bool) -> Result<Vec<Tensor>> {
    let mut tree = Tree { schedules, begin, stop, ends: vec![None; schedules.len()] };
    tree.grow(None, &(0..schedules.len()).collect::<Vec<_>>())?;
    tree.ends.into_iter().collect::<Option<_>>().context("a schedule was not run")
}

/// Makes a run with a schedule, at its start or where another one was stored.
pub(crate) type Begin<'b> = dyn Fn(&Skipped, Option<&Snapshot>) -> Result<Generation> + 'b;

/// A tree of decisions: each schedule is a way from its root to a leaf.
struct Tree<'t> {
    schedules: &'t [Skipped],
    begin: &'t Begin<'t>,
    stop: &'t dyn Fn() -> bool,
    ends: Vec<Option<Tensor>>,
}

impl Tree<'_> {
    /// Runs the schedules at the places of `group`, which agree up to where `from` was stored.
    fn grow(&mut self, from: Option<&Snapshot>, group: &[usize]) -> Result<()> {
        let Some(first) = group.first().and_then(|place| self.schedules.get(*place)) else { return Ok(()) };
        let mut run = (self.begin)(first, from)?;
        while !run.is_done() {
            let skips = |place: &usize| self.schedules.get(*place).is_some_and(|s| s.contains(&run.next()));
            let (skip, compute): (Vec<usize>, Vec<usize>) = group.iter().partition(|place| skips(place));
            if !skip.is_empty() && !compute.is_empty() {
                let mut fork = Snapshot::default();
                run.save(&mut fork.writer())?;
                drop(run);
                self.grow(Some(&fork), &compute)?;
                return self.grow(Some(&fork), &skip);
            }
            run.step(self.stop)?;
        }
        for place in group {
            if let Some(end) = self.ends.get_mut(*place) {
                *end = Some(run.latents().clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Arc};

    use magcache_core::HookRegistry;

    use super::*;
    use crate::lanes::{Lane, testing::with_scene};

    #[test]
    fn schedules_that_share_steps_end_as_runs_of_their_own() {
        for forecast in ["", "forecast = { type = \"taylor\", order = 1 }\n"] {
            with_scene(6, |scene, hooks| {
                let hooks = |skip: &Skipped| -> Arc<HookRegistry> {
                    hooks(&format!("[[cache]]\nstrategy = \"schedule\"\nskip = {skip:?}\n{forecast}"))
                };
                let begun = Cell::new(0);
                let begin = |skip: &Skipped, from: Option<&Snapshot>| {
                    begun.set(begun.get() + 1);
                    let (pipeline, request) = (scene.pipeline, &scene.request);
                    let (sampler, run) = (pipeline.sampler(request)?, pipeline.trajectory(request)?);
                    let (denoiser, hooks) = (Arc::clone(&scene.denoiser), hooks(skip));
                    let noise = pipeline.noise(request)?;
                    Ok(match from {
                        None => Generation::new(denoiser, run, sampler, &noise, &hooks)?,
                        Some(from) => {
                            let from = from.reader(noise.device());
                            Generation::resume(Some(denoiser), run, sampler, &hooks, &from)?
                        }
                    })
                };
                let all = [vec![], vec![2, 4], vec![3, 4], vec![2, 5], vec![2, 4]];
                let ends = ends(&all, &begin, &|| false).unwrap();
                // Four leaves; each fork begins twice, and the root once.
                assert_eq!(begun.get(), 1 + 2 * 3);
                let bits = |latents: &Tensor| latents.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (skip, end) in all.iter().zip(&ends) {
                    let mut lane = Lane::new(scene, &hooks(skip)).unwrap();
                    lane.generation.run(&|| false, &mut |_| {}).unwrap();
                    assert_eq!(bits(end), bits(lane.generation.latents()), "{skip:?} {forecast}");
                }
                assert_ne!(bits(&ends[0]), bits(&ends[1]));
                assert!(super::ends(&all, &begin, &|| true).is_err(), "it stops when it is asked to");
            });
        }
    }
}
