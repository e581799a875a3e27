//! From a folder to a picture, as a library.

mod support;

use std::fs;

use candle_core::Tensor;
use magcache_core::{Branch, CachePlan, state::HookId};
use magcache_models::{
    checkpoint::Folder,
    pipeline::{self, Generation, LoadOptions, Pipeline, Request},
};

/// The image, and how many passes of the first branch were skipped.
fn made(pipeline: &dyn Pipeline, request: &Request, cache: &str) -> (Tensor, usize) {
    pipeline.check(request).unwrap();
    let run = pipeline.trajectory(request).unwrap();
    let plan = CachePlan::parse(cache).unwrap();
    let registry = plan.build(pipeline.meta(), Some(&run)).unwrap().registry;
    let denoiser = pipeline.denoiser(request, &|_| {}, &mut Vec::new()).unwrap();
    let (sampler, noise) = (pipeline.sampler(request).unwrap(), pipeline.noise(request).unwrap());
    let mut generation = Generation::new(denoiser, run, sampler, &noise, &registry).unwrap();
    generation.run(&|| false, &mut |_| {}).unwrap();
    let skipped =
        generation.session().map_or(0, |session| session.log().reused(HookId(0), Branch::Cond).count());
    let mut frames = Vec::new();
    let mut sink = |piece: &Tensor| {
        frames.push(piece.clone());
        Ok(())
    };
    pipeline.decode(request, generation.latents(), &|_| {}, &mut sink).unwrap();
    (Tensor::cat(&frames, 1).unwrap(), skipped)
}

#[test]
fn a_folder_becomes_a_picture() {
    magcache_plugin_mini::link();
    magcache_strategies::link();
    let folder = tempfile::tempdir().unwrap();
    support::write_checkpoint(folder.path()).unwrap();
    let open = || pipeline::open(Folder::open(folder.path()).unwrap(), LoadOptions::default());
    let pipeline = open().unwrap();
    assert_eq!((pipeline.meta().name.as_ref(), pipeline.meta().blocks()), ("mini", support::BLOCKS));
    let request =
        Request { prompt: "a lighthouse".to_owned(), size: [48, 32], ..pipeline.defaults().request.clone() };
    let (dense, none) = made(&*pipeline, &request, "");
    assert_eq!((dense.dims(), none), (&[3, 1, 32, 48][..], 0));
    let (cached, skipped) = made(&*pipeline, &request, "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1");
    let distance = magcache_core::metrics::relative_l1(&cached, &dense).unwrap();
    assert!(skipped > 3 && distance > 0.0 && distance < 0.1, "{skipped} of 20 steps, {distance}");
    // Every part of the request counts.
    for other in [
        Request { prompt: "a storm".to_owned(), ..request.clone() },
        Request { negative_prompt: "a storm".to_owned(), ..request.clone() },
        Request { seed: 7, ..request.clone() },
        Request { guidance: 1.0, ..request.clone() },
        Request { flow_shift: Some(9.0), ..request.clone() },
    ] {
        let (picture, _) = made(&*pipeline, &other, "");
        assert!(magcache_core::metrics::relative_l1(&picture, &dense).unwrap() > 0.0, "{other:?}");
    }
    let fault = |request: Request| pipeline.check(&request).unwrap_err().to_string();
    assert!(fault(Request { size: [60, 32], ..request.clone() }).contains("width 60 is not a multiple of 8"));
    assert!(fault(Request { frames: 5, ..request.clone() }).contains("5 frames"));
    assert_eq!(
        fault(Request { strength: Some(0.5), ..request.clone() }),
        "strength is 0.5, but mini does not take it"
    );
    fs::write(folder.path().join("transformer/config.json"), "{ \"layers\": 8 }").unwrap();
    assert!(open().unwrap_err().to_string().contains("config.json"));
}
