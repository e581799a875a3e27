//! Models and samplers of one's own give the same bits as before, and caches skip steps of them.

pub mod before;

use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor};
use magcache_core::{
    BlockHook, Branch, CachePlan, Cx, ModelMeta, Next, Output, Session, Streams, Trajectory,
    calibrate::Recorder, hint, metrics, profile::Profile,
};
use magcache_plugin_own::{FLUX, WAN, flux::Flux, sample, wan::Wan};

const FBCACHE: &str = include_str!("../plan.toml");

fn wave(tokens: usize, phase: f32) -> Tensor {
    let values = (0..tokens * 16).map(|i| (i as f32 * 0.3 + phase).sin()).collect();
    Tensor::from_vec(values, (1, tokens, 16), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn pair() -> [Wan; 2] {
    [0, 7].map(|phase| Wan::new(6, phase).unwrap())
}

fn pair_run(sigmas: &[f64]) -> Trajectory {
    Trajectory::from_sigmas(sigmas, &[Branch::Cond, Branch::Uncond]).switch_at(0.875)
}

fn video(session: &mut Session) -> Result<Tensor> {
    let (noise, cond, uncond, sigmas) = (wave(8, 0.0), wave(4, 1.0), wave(4, 2.0), sample::sigmas(30));
    sample::video(&pair(), &noise, [&cond, &uncond], &sigmas, &pair_run(&sigmas), session)
}

fn image(session: &mut Session) -> Result<Tensor> {
    let (flux, sigmas) = (Flux::new(3, 6)?, sample::sigmas(30));
    let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
    sample::image(&flux, &wave(8, 0.0), &wave(4, 1.0), &sigmas, &run, session)
}

/// Passes that were skipped, and how far the result is from `dense`.
fn compared(session: &Session, result: &Tensor, dense: &Tensor) -> (usize, f64) {
    let skipped = session.log().records().iter().filter(|record| record.reused).count();
    (skipped, metrics::relative_l1(result, dense).unwrap())
}

#[test]
fn without_caches_they_give_the_bits_of_before() {
    let sigmas = sample::sigmas(30);
    let (noise, cond, uncond) = (wave(8, 0.0), wave(4, 1.0), wave(4, 2.0));
    let old = [0, 7].map(|phase| before::wan::Wan::new(6, phase).unwrap());
    let old = before::sample::video(&old, &noise, [&cond, &uncond], &before::sample::sigmas(30)).unwrap();
    let dense = |meta: &ModelMeta| CachePlan::default().build(meta, None).unwrap().registry.session();
    assert_eq!(values(&old), values(&video(&mut dense(&WAN)).unwrap()));
    let old = before::flux::Flux::new(3, 6).unwrap();
    let old = before::sample::image(&old, &noise, &cond, &sigmas).unwrap();
    assert_eq!(values(&old), values(&image(&mut dense(&FLUX)).unwrap()));
}

#[test]
fn fbcache_skips_and_stays_near() {
    magcache_strategies::link();
    let plan = CachePlan::parse(FBCACHE).unwrap();
    let session = |meta: &ModelMeta| plan.build(meta, None).unwrap().registry.session();
    let dense = |meta: &ModelMeta| CachePlan::default().build(meta, None).unwrap().registry.session();
    let mut own = session(&WAN);
    let result = video(&mut own).unwrap();
    let (skipped, distance) = compared(&own, &result, &video(&mut dense(&WAN)).unwrap());
    assert!(skipped > 20 && distance > 0.0 && distance < 0.05, "video: {skipped} skipped, {distance}");
    let mut own = session(&FLUX);
    let result = image(&mut own).unwrap();
    let (skipped, distance) = compared(&own, &result, &image(&mut dense(&FLUX)).unwrap());
    assert!(skipped > 10 && distance > 0.0 && distance < 0.1, "image: {skipped} skipped, {distance}");
}

#[test]
fn a_profile_in_memory_is_enough_for_magcache() -> std::result::Result<(), Box<dyn std::error::Error>> {
    magcache_strategies::link();
    let (pair, sigmas) = (pair(), sample::sigmas(30));
    let (noise, cond, uncond, run) = (wave(8, 0.0), wave(4, 1.0), wave(4, 2.0), pair_run(&sigmas));
    let recorder = Recorder::new(&WAN);
    let mut dense = recorder.registry().session();
    let exact = sample::video(&pair, &noise, [&cond, &uncond], &sigmas, &run, &mut dense)?;
    let profile = Profile::of(&WAN, &run, &recorder.recording());

    let plan = CachePlan::parse("[[cache]]\nstrategy = \"magcache\"\nthreshold = 0.1")?;
    let mut session = plan.build_with(&WAN, Some(&run), &[profile])?.registry.session();
    let video = sample::video(&pair, &noise, [&cond, &uncond], &sigmas, &run, &mut session)?;
    let (skipped, distance) = compared(&session, &video, &exact);
    assert!(skipped > 20 && distance > 0.0 && distance < 0.05, "video: {skipped} skipped, {distance}");

    let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
    let recorder = Recorder::new(&FLUX);
    let exact = image(&mut recorder.registry().session())?;
    let profile = Profile::of(&FLUX, &run, &recorder.recording());
    let mut session = plan.build_with(&FLUX, Some(&run), &[profile])?.registry.session();
    let picture = image(&mut session)?;
    let (skipped, distance) = compared(&session, &picture, &exact);
    assert!(skipped > 10 && distance > 0.0 && distance < 0.1, "image: {skipped} skipped, {distance}");
    Ok(())
}

#[test]
fn another_number_of_blocks_is_an_error() {
    let flux = Flux::new(3, 5).unwrap();
    let mut session = CachePlan::default().build(&FLUX, None).unwrap().registry.session();
    let run = Trajectory::from_sigmas(&[1.0, 0.0], &[Branch::Cond]);
    let failed = sample::image(&flux, &wave(8, 0.0), &wave(4, 1.0), &run.sigmas, &run, &mut session);
    let failed = failed.unwrap_err();
    let said = "the model runs 3 + 5 blocks, its metadata \"own-flux\" names \"double\" of 3 blocks, \"single\" of 6 blocks";
    assert_eq!(failed.to_string(), said);
    let hint = "build the hooks with the sizes of the checkpoint: `meta.with_blocks(&[…])`";
    assert_eq!(hint::of(&failed).as_deref(), Some(hint));
}

/// A solver that owns its loop and calls the network with a timestep.
fn euler(
    sigmas: &[f64],
    mut x: Tensor,
    mut network: impl FnMut(&Tensor, f64) -> Result<Tensor>,
) -> Result<Tensor> {
    for pair in sigmas.windows(2) {
        x = (&x + (network(&x, 1000.0 * pair[0])? * (pair[1] - pair[0]))?)?;
    }
    Ok(x)
}

/// The same with a second look at the next noise level.
fn heun(
    sigmas: &[f64],
    mut x: Tensor,
    mut network: impl FnMut(&Tensor, f64) -> Result<Tensor>,
) -> Result<Tensor> {
    for pair in sigmas.windows(2) {
        let (first, by) = (network(&x, 1000.0 * pair[0])?, pair[1] - pair[0]);
        let there = (&x + (&first * by)?)?;
        let last = pair[1] == 0.0;
        let second = if last { first.clone() } else { network(&there, 1000.0 * pair[1])? };
        x = (&x + ((first + second)? * (0.5 * by))?)?;
    }
    Ok(x)
}

#[test]
fn a_solver_that_calls_a_closure_finds_its_steps() {
    magcache_strategies::link();
    let (flux, sigmas) = (Flux::new(3, 6).unwrap(), sample::sigmas(30));
    let (noise, text) = (wave(8, 0.0), wave(4, 1.0));
    let plan = CachePlan::parse(FBCACHE).unwrap();
    let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
    let mut session = plan.build(&FLUX, Some(&run)).unwrap().registry.session();
    let mut cursor = run.cursor();
    let result = euler(&sigmas, noise.clone(), |x, timestep| {
        let step = cursor.step(timestep).map_err(hint::wrap)?;
        flux.forward(x, &text, step.sigma, &mut session.pass(&step, Branch::Cond))
    });
    let mut own = plan.build(&FLUX, Some(&run)).unwrap().registry.session();
    assert_eq!(values(&result.unwrap()), values(&image(&mut own).unwrap()));
    assert_eq!(session.log().records(), own.log().records());

    let mut session = plan.build(&FLUX, Some(&run)).unwrap().registry.session();
    let mut cursor = run.cursor().second_order();
    let result = heun(&sigmas, noise, |x, timestep| {
        let step = cursor.step(timestep).map_err(hint::wrap)?;
        flux.forward(x, &text, step.sigma, &mut session.pass(&step, Branch::Cond))
    });
    result.unwrap();
    let looks = |eval: u8| session.log().records().iter().filter(|record| record.eval == eval).count();
    assert_eq!([looks(0), looks(1)], [30, 29]);
}

/// Counts what it surrounds.
#[derive(Clone, Debug, Default)]
struct Count(Arc<Mutex<usize>>);

impl BlockHook for Count {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        *self.0.lock().unwrap() += next.blocks().len();
        next.run(cx, x)
    }
}

#[test]
fn observers_see_all_passes_or_what_really_runs() {
    magcache_strategies::link();
    let plan = CachePlan::parse(FBCACHE).unwrap();
    let registry = plan.build(&FLUX, None).unwrap().registry;
    let (passes, computed) = (Count::default(), Count::default());
    let registry = registry.outside(Arc::new(passes.clone())).inside(Arc::new(computed.clone()));
    let mut session = registry.session();
    image(&mut session).unwrap();
    let skipped = session.log().records().iter().filter(|record| record.reused).count();
    // FBCache runs block 0 at every step.
    assert_eq!(*passes.0.lock().unwrap(), 30 * 9);
    assert_eq!(*computed.0.lock().unwrap(), 30 * 9 - skipped * 8);
}
