//! Given frames of a video: what the recorded cases of `verify` do not show.

mod support;

use candle_core::Tensor;
use magcache_models::{autoencoder::VideoVae, wan::FrameCondition};
use support::{DEVICE, fixtures, folder, values, waves};

const FRAMES: usize = 9;

fn vae() -> VideoVae {
    VideoVae::open(&folder(fixtures("golden/vaes/wan_i2v_condition")), &DEVICE).unwrap()
}

fn image() -> Tensor {
    waves(&[1, 3, 32, 48], 0.37)
}

fn latents() -> Tensor {
    waves(&[1, 6, 3, 4, 6], 0.7)
}

#[test]
fn every_frame_of_a_video_with_given_channels_is_denoised() {
    let (vae, image, latents) = (vae(), image(), latents());
    for last in [None, Some(&image)] {
        let condition = FrameCondition::channels(&vae, &image, last, FRAMES, None).unwrap();
        assert_eq!(values(&condition.finish(&latents).unwrap()), values(&latents));
        assert!(values(&condition.noise_mask().unwrap()).iter().all(|x| *x == 1.0));
        assert_eq!(values(&condition.timestep(700.0, 2, [1, 2, 2]).unwrap()), [700.0; 2]);
    }
}

#[test]
fn one_condition_serves_a_batch() {
    let (vae, image, latents) = (vae(), image(), latents());
    let both = Tensor::cat(&[&latents, &(&latents * 2.0).unwrap()], 0).unwrap();
    for condition in [
        FrameCondition::channels(&vae, &image, None, FRAMES, None).unwrap(),
        FrameCondition::first_frame(&vae, &image, FRAMES, None).unwrap(),
    ] {
        let input = condition.model_input(&both).unwrap();
        for row in 0..2 {
            let one = condition.model_input(&both.narrow(0, row, 1).unwrap()).unwrap();
            assert_eq!(values(&input.narrow(0, row, 1).unwrap()), values(&one));
        }
    }
    let tokens = FrameCondition::first_frame(&vae, &image, FRAMES, None).unwrap();
    let tokens = tokens.timestep(3.0, 2, [1, 2, 2]).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(tokens[0], [vec![0.0; 6], vec![3.0; 12]].concat());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (vae, image, latents) = (vae(), image(), latents());
    let error = |result: candle_core::Result<FrameCondition>| result.unwrap_err().to_string();
    for frames in [0, 8, 10] {
        let message = error(FrameCondition::channels(&vae, &image, None, frames, None));
        assert!(message.contains(&format!("{frames} frames: this model makes 1 more than a multiple of 4")));
        assert!(FrameCondition::first_frame(&vae, &image, frames, None).is_err());
    }
    let message = error(FrameCondition::channels(&vae, &image, Some(&image), 1, None));
    assert!(message.contains("the last of 1 frames") && message.contains("at least 5"), "{message}");
    let other = image.narrow(3, 0, 16).unwrap();
    let message = error(FrameCondition::channels(&vae, &image, Some(&other), 5, None));
    assert!(message.contains("[1, 3, 32, 16]") && message.contains("[1, 3, 32, 48]"), "{message}");

    let condition = FrameCondition::first_frame(&vae, &image, FRAMES, None).unwrap();
    for wrong in [latents.narrow(2, 0, 2), latents.narrow(1, 0, 5), latents.narrow(4, 0, 2)] {
        assert!(condition.model_input(&wrong.unwrap()).is_err());
    }
    assert!(condition.timestep(1.0, 1, [2, 2, 2]).is_err() && condition.timestep(1.0, 1, [1, 0, 2]).is_err());
}
