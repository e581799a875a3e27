//! What the recorded cases of `verify` do not show: streams, half precision, and what is refused.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::*;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/vaes").join(name)
}

fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

fn vae(name: &str) -> VideoVae {
    VideoVae::open(&Folder::open(case(name)).expect("fixture"), &Device::Cpu).expect("loads")
}

fn waves(shape: [usize; 5]) -> Result<Tensor> {
    let values = (0..shape.iter().product::<usize>()).map(|i| (0.37 * i as f64).sin() as f32);
    Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape(&shape)?)
}

#[test]
fn every_module_of_the_encoder_gives_the_same_however_the_video_is_cut() -> Result<()> {
    for name in ["wan21_vae_tiling", "wan22_vae"] {
        let vae = vae(name);
        let x = waves([1, 3, 9, 32, 48])?;
        let encode = |cuts: &[usize]| -> Result<Vec<(String, Tensor)>> {
            let (mut seen, mut start, mut moments) = (Vec::new(), 0, Vec::new());
            let mut observer = |x: &Observation<'_>| {
                seen.push((format!("{} {}", x.chunk, x.module), x.output.clone()));
                Ok(())
            };
            let mut stream = vae.encode_stream().observe(&mut observer);
            for length in cuts {
                moments.push(stream.push_moments(&x.narrow(2, start, *length)?)?);
                start += length;
            }
            drop(stream);
            seen.push(("moments".to_owned(), Tensor::cat(&moments, 2)?));
            Ok(seen)
        };
        let whole = encode(&[9])?;
        assert!(whole.len() > 3 * 5, "{} outputs", whole.len());
        for cuts in [&[1, 4, 4][..], &[5, 4], &[1, 8]] {
            let cut = encode(cuts)?;
            assert_eq!(cut.len(), whole.len());
            for ((place, ours), (expected_place, expected)) in cut.iter().zip(&whole) {
                assert_eq!(place, expected_place);
                assert_eq!(worst(ours, expected)?, 0.0, "{name} {cuts:?} {place}");
            }
        }
    }
    Ok(())
}

#[test]
fn tiles_larger_than_the_picture_change_nothing() -> Result<()> {
    let vae = vae("wan21_vae_tiling");
    let (z, x) = (waves([1, 6, 2, 3, 2])?, waves([1, 3, 5, 16, 24])?);
    let tiling = Some(Tiling::default());
    assert_eq!(worst(&vae.decode(&z, tiling)?, &vae.decode(&z, None)?)?, 0.0);
    assert_eq!(worst(&vae.moments(&x, tiling)?, &vae.moments(&x, None)?)?, 0.0);
    Ok(())
}

#[test]
fn a_condition_is_the_video_that_it_stands_for() -> Result<()> {
    for name in ["wan21_vae_tiling", "wan22_vae"] {
        let vae = vae(name);
        let images = waves([2, 3, 2, 48, 64])?;
        let (first, last) = (images.narrow(2, 0, 1)?, images.narrow(2, 1, 1)?);
        let zeros = |n| Tensor::zeros((2, 3, n, 48, 64), DType::F32, &Device::Cpu);
        for tiling in [None, Some(Tiling::square(32, 16))] {
            let video = Tensor::cat(&[&first, &zeros(8)?], 2)?;
            let ours = vae.encode_condition(&first.squeeze(2)?, None, 9, tiling)?;
            assert_eq!(worst(&ours, &vae.encode(&video, tiling)?)?, 0.0);
            let video = Tensor::cat(&[&first, &zeros(7)?, &last], 2)?;
            let ours = vae.encode_condition(&first.squeeze(2)?, Some(&last.squeeze(2)?), 9, tiling)?;
            assert_eq!(worst(&ours, &vae.encode(&video, tiling)?)?, 0.0);
        }
    }
    Ok(())
}

/// Weights stored in half precision must give exactly the results of the same values stored in f32.
#[test]
fn half_precision_weights_are_computed_with_in_f32() -> Result<()> {
    let folder = Folder::open(case("wan21_vae_tiling")).expect("fixture");
    let config = VideoVaeConfig::read(&folder).expect("fixture");
    let z = waves([1, 6, 2, 3, 2])?;
    let exact = vae("wan21_vae_tiling").decode(&z, None)?;
    for dtype in [DType::F16, DType::BF16] {
        let file = case("wan21_vae_tiling").join("diffusion_pytorch_model.safetensors");
        let mut rounded = candle_core::safetensors::load(file, &Device::Cpu)?;
        for (_, tensor) in rounded.iter_mut().filter(|(name, _)| name.ends_with(".weight")) {
            *tensor = tensor.to_dtype(dtype)?.to_dtype(DType::F32)?;
        }
        let rounded = safetensors::serialize(&rounded, None).expect("can be written");
        let rounded =
            Weights::from_bytes("rounded", rounded, &Device::Cpu, WeightDtype::Keep).expect("is valid");
        let stored = Weights::open(&folder, &Device::Cpu, WeightDtype::Cast(dtype)).expect("fixture");
        let decode = |weights| VideoVae::load(weights, &config).expect("loads").decode(&z, None);
        let (expected, ours) = (decode(&rounded)?, decode(&stored)?);
        assert_eq!(ours.dtype(), DType::F32);
        assert!(worst(&ours, &expected)? < 1e-6, "{dtype:?}");
        assert!(worst(&ours, &exact)? > 1e-4, "{dtype:?} was not rounded");
    }
    Ok(())
}

#[test]
fn every_tensor_is_used_and_a_wrong_shape_is_named() {
    for name in ["wan21_vae_tiling", "wan22_vae"] {
        let folder = Folder::open(case(name)).expect("fixture");
        let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("fixture");
        let mut config = VideoVaeConfig::read(&folder).expect("fixture");
        VideoVae::load(&weights, &config).expect("loads");
        assert_eq!(weights.unused(), Vec::<&str>::new());
        config.base_dim *= 2;
        let error = VideoVae::load(&weights, &config).expect_err("other shapes").to_string();
        assert!(error.contains("has shape") && error.contains("encoder.conv_in.weight"), "{error}");
    }
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_refused_with_both_values() -> Result<()> {
    let (vae21, vae22) = (vae("wan21_vae_tiling"), vae("wan22_vae"));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("fits");
    let refused = |result: Result<Tensor>, parts: &[&str]| {
        let message = magcache_core::hint::told(&result.expect_err(parts[0]));
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let latents = ["the latents have shape", "expected [batch, 6, frames, height, width]"];
    for shape in [&[1, 5, 1, 2, 2][..], &[1, 6, 0, 2, 2], &[1, 6, 1, 2], &[1, 6, 1, 0, 2], &[]] {
        refused(vae21.decode(&zeros(shape), None), &latents);
        refused(vae21.normalize(&zeros(shape)), &latents);
        refused(vae21.denormalize(&zeros(shape)), &latents);
        refused(vae21.decode_stream().push(&zeros(shape)), &latents);
    }
    for shape in [&[1, 3, 0, 16, 16][..], &[1, 4, 1, 16, 16], &[3, 16, 16]] {
        refused(vae21.encode(&zeros(shape), None), &["the frames have shape", "[batch, 3, frames"]);
    }
    refused(vae21.encode(&zeros(&[1, 3, 1, 7, 16]), None), &["16x7", "at least 8x8"]);
    refused(vae22.encode(&zeros(&[1, 3, 1, 24, 32]), None), &["32x24", "multiples of 16", "32x16"]);
    let tiles = Some(Tiling::square(8, 8));
    refused(vae21.encode(&zeros(&[1, 3, 1, 17, 16]), tiles), &["16x17", "in tiles"]);
    refused(vae22.decode(&zeros(&[1, 6, 1, 3, 3]), tiles), &["tile_height = 8", "multiple of 16"]);

    let mut stream = vae21.decode_stream();
    refused(stream.push(&zeros(&[1, 6, 2, 2, 3])), &["got 2 latent frames, expected 1"]);
    stream.push(&zeros(&[1, 6, 1, 2, 3]))?;
    refused(stream.push(&zeros(&[1, 6, 1, 3, 2])), &["batch 1 and 3x2", "batch 1 and 2x3"]);
    let mut stream = vae21.encode_stream();
    refused(stream.push(&zeros(&[1, 3, 4, 16, 16])), &["got 4 frames, expected 1 more than a multiple of 4"]);
    stream.push(&zeros(&[1, 3, 5, 16, 16]))?;
    refused(stream.push(&zeros(&[1, 3, 5, 16, 16])), &["got 5 frames, expected a multiple of 4"]);
    refused(stream.push(&zeros(&[2, 3, 4, 16, 16])), &["batch 1 and 16x16", "batch 2"]);

    let image = zeros(&[1, 3, 16, 16]);
    let condition = |last: Option<&Tensor>, frames| vae21.encode_condition(&image, last, frames, None);
    refused(condition(None, 4), &["got 4 frames"]);
    refused(condition(None, 0), &["got 0 frames"]);
    refused(condition(Some(&image), 1), &["got 1 frames", "at least 2"]);
    refused(condition(Some(&zeros(&[1, 3, 8, 16])), 5), &["the last image has shape [1, 3, 1, 8, 16]"]);
    refused(vae21.encode_condition(&zeros(&[3, 16, 16]), None, 5, None), &["the frames have shape"]);
    Ok(())
}

#[test]
fn an_observer_can_stop_a_stream() {
    let vae = vae("wan21_vae_tiling");
    let mut observer = |x: &Observation<'_>| match x.module {
        "decoder.mid_block" => Err(candle_core::Error::msg("enough")),
        _ => Ok(()),
    };
    let z = Tensor::zeros((1, 6, 1, 2, 2), DType::F32, &Device::Cpu).expect("fits");
    let error = vae.decode_stream().observe(&mut observer).push(&z).expect_err("stopped");
    assert!(error.to_string().contains("enough"));
}
