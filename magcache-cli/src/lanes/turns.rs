//! Which lane runs its next step.

use std::sync::Arc;

use anyhow::Result;
use magcache_core::metrics;

use super::{Lane, Scene};

/// Runs and decodes one step that is thrown away, so that no lane pays for the first use of memory and
/// threads.
pub(crate) fn warm_up(scene: &Scene<'_>, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut lane = Lane::new(scene, &Arc::default())?;
    lane.generation.step(stop)?;
    lane.decode(stop)?;
    Ok(())
}

/// Runs all lanes to their end, step by step. The lane that has finished the smallest part of its run goes
/// next; among equals, the first to go rotates with every step. `progress` is called after each step of a
/// lane; `stop` is checked before each pass.
///
/// Lanes with as many steps as the first one get their [`Lane::divergence`] from it.
pub(crate) fn take_turns(
    lanes: &mut [Lane<'_>],
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(),
) -> Result<()> {
    loop {
        let now: Vec<(usize, usize)> = lanes.iter().map(Lane::progress).collect();
        let Some(lane) = next(&now).and_then(|at| lanes.get_mut(at)) else { return Ok(()) };
        lane.generation.step(stop)?;
        progress();
        compare_with_first(lanes)?;
    }
}

/// The lane that has finished the smallest part of its `(done, all)` steps; among equals, the first one from
/// a position that advances with every step. `None` when all are done.
fn next(lanes: &[(usize, usize)]) -> Option<usize> {
    let from = lanes.iter().map(|(done, _)| *done).max()?;
    let circle = (0..lanes.len()).map(|i| (i + from) % lanes.len());
    let waiting = circle.filter_map(|i| lanes.get(i).map(|p| (i, *p))).filter(|(_, (done, all))| done < all);
    // Fractions compared exactly, as products: a / b < c / d if a · d < c · b. The first of equals is kept.
    waiting
        .reduce(|best, new| {
            let ((done, all), (new_done, new_all)) = (best.1, new.1);
            if new_done * all < done * new_all { new } else { best }
        })
        .map(|(i, _)| i)
}

/// Records the distance from the first lane of all lanes with as many steps, once they are level with it: in
/// turns, they are after every step, so no latents need to be kept.
fn compare_with_first(lanes: &mut [Lane<'_>]) -> Result<()> {
    let Some((first, others)) = lanes.split_first_mut() else { return Ok(()) };
    let (done, all) = first.progress();
    let mut peers: Vec<_> = others.iter_mut().filter(|lane| lane.progress().1 == all).collect();
    if peers.iter().any(|lane| lane.progress().0 != done) {
        return Ok(());
    }
    for lane in &mut peers {
        if lane.divergence.len() < done {
            let latents = lane.generation.latents();
            lane.divergence.push(metrics::relative_l2(latents, first.generation.latents())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::with_scene;

    /// The order in which lanes with these numbers of steps run.
    fn order(steps: &[usize]) -> Vec<usize> {
        let mut lanes: Vec<(usize, usize)> = steps.iter().map(|all| (0, *all)).collect();
        let mut order = Vec::new();
        while let Some(at) = next(&lanes) {
            lanes[at].0 += 1;
            order.push(at);
        }
        order
    }

    #[test]
    fn who_goes_first_changes_with_every_step() {
        assert_eq!(order(&[3, 3, 3]), [0, 1, 2, 1, 2, 0, 2, 0, 1]);
        assert_eq!(order(&[2, 2]), [0, 1, 1, 0]);
    }

    #[test]
    fn a_shorter_run_is_spread_over_the_longer_one() {
        let order = order(&[6, 3, 2]);
        assert_eq!(order.len(), 11);
        for (lane, steps) in [(1, 3.0), (2, 2.0)] {
            let turns = order.iter().enumerate().filter(|(_, at)| **at == lane);
            for (n, (place, _)) in turns.enumerate() {
                let dense = order[..place].iter().filter(|at| **at == 0).count() as f64;
                assert!(
                    (dense / 6.0 - n as f64 / steps).abs() < 1.0 / 6.0 + 1e-9,
                    "lane {lane} in {order:?}"
                );
            }
        }
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[(2, 2), (3, 3)]), None);
    }

    #[test]
    fn divergence_is_from_the_first_lane_after_the_same_step() {
        with_scene(3, |scene, hooks| {
            let dense = Lane::new(scene, &Arc::default()).unwrap();
            let same = Lane::new(scene, &Arc::default()).unwrap();
            let cached = Lane::new(scene, &hooks("[[cache]]\nstrategy = \"schedule\"\nskip = [1]\n"));
            let short = Lane::new(&scene.with_steps(2), &Arc::default()).unwrap();
            let mut lanes = [dense, same, cached.unwrap(), short];
            let mut turns = 0;
            take_turns(&mut lanes, &|| false, &mut || turns += 1).unwrap();
            assert_eq!(turns, 3 + 3 + 3 + 2);
            assert_eq!(lanes[1].divergence, [0.0; 3]);
            let [before, at, after] = lanes[2].divergence[..] else { panic!("a value for each step") };
            assert!(before == 0.0 && at > 0.0 && after > 0.0, "{:?}", lanes[2].divergence);
            assert!(lanes[0].divergence.is_empty() && lanes[3].divergence.is_empty());
        });
    }
}
