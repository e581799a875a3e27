//! Given frames of a video against recorded runs of `WanImageToVideoPipeline.prepare_latents`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use magcache_models::{autoencoder::VideoVae, checkpoint::Folder, wan::FrameCondition};

const CASES: [&str; 2] = ["wan_i2v_condition", "wan_i2v_condition_seed7"];

struct Case {
    vae: VideoVae,
    golden: HashMap<String, Tensor>,
    frames: usize,
}

impl Case {
    fn open(name: &str) -> Self {
        let path: PathBuf =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/vaes").join(name);
        let vae = VideoVae::open(&Folder::open(&path).unwrap(), &Device::Cpu).unwrap();
        let golden = candle_core::safetensors::load(path.join("golden.safetensors"), &Device::Cpu).unwrap();
        let frames = vae.config().frames(golden["i2v.latents"].dim(2).unwrap());
        Self { vae, golden, frames }
    }

    fn tensor(&self, key: &str) -> &Tensor {
        &self.golden[key]
    }

    #[track_caller]
    fn check(&self, key: &str, ours: &Tensor) {
        let theirs = self.tensor(key);
        assert_eq!(ours.dims(), theirs.dims(), "{key}");
        let error = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let error = error.to_scalar::<f32>().unwrap();
        assert!(error < 2e-5, "{key}: {error}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn first_and_last_frames_become_channels() {
    for case in CASES.map(Case::open) {
        for call in ["i2v", "flf2v"] {
            let last = case.golden.get(&format!("{call}.last_image"));
            assert_eq!(last.is_some(), call == "flf2v");
            let first = case.tensor(&format!("{call}.image"));
            let condition = FrameCondition::channels(&case.vae, first, last, case.frames, None).unwrap();
            case.check(&format!("{call}.condition"), condition.tensor());
            let latents = case.tensor(&format!("{call}.latents"));
            case.check(&format!("{call}.model_input"), &condition.model_input(latents).unwrap());
            // Every frame is denoised, all at the same timestep.
            assert_eq!(values(&condition.finish(latents).unwrap()), values(latents));
            assert!(values(&condition.noise_mask().unwrap()).iter().all(|x| *x == 1.0));
            assert_eq!(values(&condition.timestep(700.0, 2, [1, 2, 2]).unwrap()), [700.0; 2]);
        }
    }
}

#[test]
fn a_first_frame_takes_the_place_of_the_first_latents() {
    for case in CASES.map(Case::open) {
        let condition =
            FrameCondition::first_frame(&case.vae, case.tensor("ti2v.image"), case.frames, None).unwrap();
        case.check("ti2v.condition", condition.tensor());
        case.check("ti2v.first_frame_mask", &condition.noise_mask().unwrap());
        case.check("ti2v.timestep_tokens", &condition.timestep(700.0, 1, [1, 2, 2]).unwrap());
        let latents = case.tensor("ti2v.latents");
        case.check("ti2v.model_input", &condition.model_input(latents).unwrap());
        case.check("ti2v.model_input", &condition.finish(latents).unwrap());
    }
}

#[test]
fn one_condition_serves_a_batch() {
    let case = Case::open(CASES[0]);
    let latents = case.tensor("i2v.latents");
    let both = Tensor::cat(&[latents, &(latents * 2.0).unwrap()], 0).unwrap();
    let image = case.tensor("i2v.image");
    for condition in [
        FrameCondition::channels(&case.vae, image, None, case.frames, None).unwrap(),
        FrameCondition::first_frame(&case.vae, image, case.frames, None).unwrap(),
    ] {
        let input = condition.model_input(&both).unwrap();
        for row in 0..2 {
            let one = condition.model_input(&both.narrow(0, row, 1).unwrap()).unwrap();
            assert_eq!(values(&input.narrow(0, row, 1).unwrap()), values(&one));
        }
    }
    let tokens = FrameCondition::first_frame(&case.vae, image, case.frames, None).unwrap();
    let tokens = tokens.timestep(3.0, 2, [1, 2, 2]).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(tokens[0], [vec![0.0; 6], vec![3.0; 12]].concat());
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::open(CASES[0]);
    let image = case.tensor("i2v.image");
    let error = |result: candle_core::Result<FrameCondition>| result.unwrap_err().to_string();
    for frames in [0, 8, 10] {
        let message = error(FrameCondition::channels(&case.vae, image, None, frames, None));
        assert!(message.contains(&format!("{frames} frames: this model makes 1 more than a multiple of 4")));
        assert!(FrameCondition::first_frame(&case.vae, image, frames, None).is_err());
    }
    let message = error(FrameCondition::channels(&case.vae, image, Some(image), 1, None));
    assert!(message.contains("the last of 1 frames") && message.contains("at least 5"), "{message}");
    let other = image.narrow(3, 0, 16).unwrap();
    let message = error(FrameCondition::channels(&case.vae, image, Some(&other), 5, None));
    assert!(message.contains("[1, 3, 32, 16]") && message.contains("[1, 3, 32, 48]"), "{message}");

    let condition = FrameCondition::first_frame(&case.vae, image, case.frames, None).unwrap();
    let latents = case.tensor("i2v.latents");
    for wrong in [latents.narrow(2, 0, 2), latents.narrow(1, 0, 5), latents.narrow(4, 0, 2)] {
        assert!(condition.model_input(&wrong.unwrap()).is_err());
    }
    assert!(condition.timestep(1.0, 1, [2, 2, 2]).is_err() && condition.timestep(1.0, 1, [1, 0, 2]).is_err());
}
