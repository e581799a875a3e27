//! Denoisers of several requests: the network is loaded once, and each run is what it is alone.

mod support;

use std::{cell::Cell, sync::Arc};

use magcache_models::{
    image::Picture,
    pipeline::{self, LoadOptions, Request, Stage},
};
use support::{bits, run, run_with};

#[test]
fn several_requests_load_one_network_and_run_as_each_alone() {
    let bytes = (0..48 * 40 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let picture = Arc::new(Picture::from_rgb8(48, 40, bytes).unwrap());
    for (model, frames, from_image) in [
        ("tiny-flux", 1, false),
        ("tiny-flux", 1, true),
        ("wan2.1-t2v-tiny", 5, false),
        ("wan2.2-t2v-tiny", 5, false),
    ] {
        let embedded = pipeline::embedded().into_iter().find(|embedded| embedded.name == model).unwrap();
        let pipeline = pipeline::open((embedded.folder)(), LoadOptions::default()).unwrap();
        let image = from_image.then(|| Arc::clone(&picture));
        let (strength, own) = (from_image.then_some(0.6), pipeline.defaults().request.clone());
        let of = |(prompt, seed): (&str, u64)| {
            let (prompt, image) = (prompt.to_owned(), image.clone());
            Request { prompt, seed, steps: 4, size: [48, 32], frames, image, strength, ..own.clone() }
        };
        let all = [("a red circle", 0), ("a red circle", 1), ("a blue square", 0), ("a blue square", 1)];
        let requests = all.map(of);
        let loaded = Cell::new(0);
        let count =
            |stage: Stage| loaded.set(loaded.get() + usize::from(matches!(stage, Stage::LoadingTransformer)));
        let denoisers = pipeline.denoisers(&requests, &count, &mut Vec::new()).unwrap();
        assert_eq!((loaded.get(), denoisers.len()), (1, requests.len()), "{model}");
        let mut seen = Vec::new();
        for (request, denoiser) in requests.iter().zip(denoisers) {
            let own = bits(&run_with(denoiser, pipeline.as_ref(), request));
            assert_eq!(own, bits(&run(pipeline.as_ref(), request)), "{model}: {:?}", request.prompt);
            assert!(!seen.contains(&own), "{model}: two requests give the same");
            seen.push(own);
        }
    }
}
