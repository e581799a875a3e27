//! One run that is not timed.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::HookRegistry;

use super::{Lane, Scene};

/// The result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The frames, `[frames, height, width, channels]` in 0..=1, f32.
    pub(crate) frames: Tensor,
    /// Passes of the network in which every block ran.
    pub(crate) computed: usize,
    /// Passes in which something was skipped.
    pub(crate) skipped: usize,
}

/// Runs a request to its end with the hooks of `registry`. `stop` is checked before each pass.
pub(crate) fn run_once(
    scene: &Scene<'_>,
    registry: &Arc<HookRegistry>,
    stop: &dyn Fn() -> bool,
) -> Result<Outcome> {
    let mut lane = Lane::new(scene, registry)?;
    lane.generation.run(stop, &mut |_| {})?;
    let frames = scene.decode(lane.generation.latents(), stop)?;
    let summary = lane.summary();
    Ok(Outcome { frames, computed: summary.computed(), skipped: summary.skipped() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{quality, scene::testing::with_scene};

    #[test]
    fn one_run_gives_what_a_lane_gives() {
        with_scene(3, |scene, hooks| {
            let dense = run_once(scene, &Arc::default(), &|| false).unwrap();
            assert_eq!((dense.computed, dense.skipped), (6, 0));
            assert_eq!(dense.frames.dims(), [5, 64, 64, 3]);
            let skip = hooks("[[cache]]\nstrategy = \"schedule\"\nskip = { cond = [1, 2], uncond = [2] }\n");
            let cached = run_once(scene, &skip, &|| false).unwrap();
            assert_eq!((cached.computed, cached.skipped), (3, 3));

            let mut lane = Lane::new(scene, &skip).unwrap();
            super::super::take_turns(std::slice::from_mut(&mut lane), &|| false, &mut || {}).unwrap();
            let shown = lane.decode(&|| false).unwrap();
            assert!(quality(&cached.frames, &shown).unwrap().identical());
            let far = quality(&cached.frames, &dense.frames).unwrap();
            assert!(far.psnr() > 5.0 && far.psnr() < 60.0, "{} dB", far.psnr());
        });
    }

    #[test]
    fn a_run_stops_when_it_is_asked_to() {
        with_scene(2, |scene, _| assert!(run_once(scene, &Arc::default(), &|| true).is_err()));
    }
}
