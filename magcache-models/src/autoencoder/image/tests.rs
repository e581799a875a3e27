//! Against `AutoencoderKL` and `AutoencoderKLFlux2` of diffusers 0.42.1 and the pipelines' functions for
//! latents.
//!
//! `tests/reference/flux_vae.py` made the reference data from the trained FLUX.1 model of this crate, whose
//! weights are in half precision, and from a small random FLUX.2 model.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use magcache_core::hint;

use super::*;

/// Largest error that rounding explains.
const TOLERANCE: f32 = 2e-5;

fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/vae")).join(path)
}

/// The folder of a model and its recordings.
fn models() -> [(PathBuf, Golden); 2] {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tiny/tiny-flux/vae");
    [
        (tiny.into(), Golden::open("flux1_tiny.safetensors")),
        (fixtures("flux2_small"), Golden::open("flux2_small/golden.safetensors")),
    ]
}

fn folder(path: &PathBuf) -> Folder {
    Folder::open(path).expect("fixture")
}

fn open(path: &PathBuf) -> ImageVae {
    ImageVae::open(&folder(path), &Device::Cpu).expect("loads")
}

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn open(path: &str) -> Self {
        Self(candle_core::safetensors::load(fixtures(path), &Device::Cpu).expect("fixture"))
    }

    fn get(&self, key: &str) -> &Tensor {
        self.0.get(key).unwrap_or_else(|| panic!("no {key}"))
    }

    fn check(&self, key: &str, ours: &Tensor) -> Result<()> {
        let expected = self.get(key);
        assert_eq!(ours.dims(), expected.dims(), "{key}");
        let error = worst(ours, expected)?;
        assert!(error <= TOLERANCE, "{key}: {error}");
        Ok(())
    }

    fn equal(&self, key: &str, ours: &Tensor) -> Result<()> {
        let expected = self.get(key);
        assert_eq!(ours.dims(), expected.dims(), "{key}");
        assert_eq!(values(ours)?, values(expected)?, "{key}");
        Ok(())
    }
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// `sin(0.37 i)` for the `i`th value, as in the script that made the fixtures.
fn waves(shape: [usize; 4]) -> Result<Tensor> {
    let values = (0..shape.iter().product::<usize>()).map(|i| (0.37 * i as f64).sin() as f32);
    Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape(&shape)?)
}

#[test]
fn encodes_and_decodes_as_the_reference() -> Result<()> {
    for (path, golden) in models() {
        let vae = open(&path);
        let (scale, channels) = (vae.config().spatial_scale(), vae.config().latent_channels);
        let x = waves([2, 3, 6 * scale, 4 * scale])?;
        let latents = vae.encode(&x, None)?;
        golden.check("encode.moments", latents.moments())?;
        golden.check("encode_odd.mode", &vae.encode(&waves([1, 3, 19, 27])?, None)?.mean()?)?;
        golden.check("decode.sample", &vae.decode(&waves([2, channels, 3, 5])?, None)?)?;
    }
    Ok(())
}

#[test]
fn tiles_are_cut_and_blended_as_in_the_reference() -> Result<()> {
    for (path, golden) in models() {
        let vae = open(&path);
        let (scale, channels) = (vae.config().spatial_scale(), vae.config().latent_channels);
        let tiling = Some(Tiling::square(4 * scale, 3 * scale));
        let (x, z) = (waves([1, 3, 7 * scale, 9 * scale])?, waves([1, channels, 7, 5])?);
        golden.check("tiled_encode.moments", vae.encode(&x, tiling)?.moments())?;
        golden.check("tiled_decode.sample", &vae.decode(&z, tiling)?)?;
        assert!(worst(&vae.decode(&z, None)?, golden.get("tiled_decode.sample"))? > 1e-3);
        let large = Some(Tiling::square(16 * scale, 12 * scale));
        assert_eq!(values(&vae.decode(&z, large)?)?, values(&vae.decode(&z, None)?)?);
        let (tiled, whole) = (vae.encode(&x, large)?, vae.encode(&x, None)?);
        assert_eq!(values(tiled.moments())?, values(whole.moments())?);
    }
    Ok(())
}

#[test]
fn latents_and_tokens_are_those_of_the_pipelines() -> Result<()> {
    for (path, golden) in models() {
        let vae = open(&path);
        let mode = golden.get("encode.moments").narrow(1, 0, vae.config().latent_channels)?;
        let latents = vae.normalize(&mode)?;
        golden.check("latents", &latents)?;
        assert!(worst(&vae.denormalize(&latents)?, &mode)? < 1e-5);
        let tokens = vae.to_tokens(&mode)?;
        golden.check("tokens", &tokens)?;
        assert!(worst(&vae.from_tokens(&tokens, [3, 2])?, &mode)? < 1e-5);
    }
    Ok(())
}

#[test]
fn distributions_are_clamped_and_sampled_as_in_the_reference() -> Result<()> {
    let golden = Golden::open("flux_distribution.safetensors");
    let latents = LatentDistribution::new(golden.get("moments").clone(), 2);
    golden.equal("mean", &latents.mean()?)?;
    golden.equal("log_variance", &latents.log_variance()?)?;
    for (key, ours) in [("std", latents.std()?), ("sample", latents.sample(golden.get("noise"))?)] {
        let (ours, expected) = (values(&ours)?, values(golden.get(key))?);
        assert_eq!(ours.len(), expected.len());
        // From 3e-7 to 22026, so the tolerance is relative.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 4.0 * f32::EPSILON * b.abs();
        assert!(ours.iter().zip(&expected).all(close), "{key}: {ours:?} {expected:?}");
    }
    let error = latents.sample(&golden.get("noise").narrow(1, 0, 1)?).expect_err("one channel").to_string();
    assert!(error.contains("noise have shape [1, 1, 2, 3], expected [1, 2, 2, 3]"), "{error}");
    Ok(())
}

#[test]
fn packing_is_that_of_the_pipelines() -> Result<()> {
    let golden = Golden::open("flux_packing.safetensors");
    let whole = Tensor::arange(0f32, 144.0, &Device::Cpu)?.reshape((2, 3, 4, 6))?;
    let packed = packing::pack(&whole)?;
    golden.equal("packing.packed", &packed)?;
    assert_eq!(values(&packing::unpack(&packed, [2, 3])?)?, values(&whole)?);
    let patches = packing::patchify(&whole)?;
    golden.equal("packing.patches", &patches)?;
    assert_eq!(values(&packing::unpatchify(&patches)?)?, values(&whole)?);
    let flat = packing::flatten(&patches)?;
    golden.equal("packing.flat", &flat)?;
    assert_eq!(values(&packing::unflatten(&flat, [2, 3])?)?, values(&patches)?);
    Ok(())
}

/// Both layouts of the same random weights; `tests/reference/native_flux_vae.py` made them and ran the teams'
/// own modules on the native ones.
fn layouts() -> [(PathBuf, PathBuf); 2] {
    let native = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/native"));
    ["flux1-vae", "flux2-vae"]
        .map(|name| (native.join(name).join("diffusers"), native.join(name).join("native")))
}

fn same_bits(a: &ImageVae, b: &ImageVae) -> Result<()> {
    let z = waves([2, a.config().latent_channels, 4, 6])?;
    let image = a.decode(&z, None)?;
    assert_eq!(values(&b.decode(&z, None)?)?, values(&image)?);
    assert!(values(&image)?.iter().all(|x| x.is_finite()) && worst(&image, &image.zeros_like()?)? > 0.1);
    assert_eq!(values(b.encode(&image, None)?.moments())?, values(a.encode(&image, None)?.moments())?);
    let tokens = a.to_tokens(&z)?;
    assert_eq!(values(&b.to_tokens(&z)?)?, values(&tokens)?);
    assert_eq!(values(&b.from_tokens(&tokens, [2, 3])?)?, values(&a.from_tokens(&tokens, [2, 3])?)?);
    Ok(())
}

#[test]
fn both_layouts_give_the_same_bits() -> Result<()> {
    for (diffusers, native) in layouts() {
        let ours = open(&diffusers);
        let file = |path: &PathBuf, file: &str| {
            ImageVae::open_file(&folder(path), file, ours.config(), &Device::Cpu).expect("loads")
        };
        same_bits(&ours, &file(&native, "ae.safetensors"))?;
        same_bits(&ours, &file(&diffusers, "diffusion_pytorch_model.safetensors"))?;
    }
    Ok(())
}

#[test]
fn an_autoencoder_inside_of_a_larger_file_gives_the_same_bits() -> Result<()> {
    for (diffusers, native) in layouts() {
        let tensors = candle_core::safetensors::load(native.join("ae.safetensors"), &Device::Cpu)?;
        for prefix in ["vae.", "first_stage_model."] {
            let mut larger: HashMap<String, Tensor> =
                tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect();
            larger.insert("model.diffusion_model.img_in.bias".into(), waves([1, 1, 1, 4])?);
            let root = tempfile::tempdir().expect("a folder");
            candle_core::safetensors::save(&larger, root.path().join("all.safetensors"))?;
            let (ours, root) = (open(&diffusers), folder(&root.path().to_path_buf()));
            let all = ImageVae::open_file(&root, "all.safetensors", ours.config(), &Device::Cpu);
            same_bits(&ours, &all.expect("loads"))?;
        }
    }
    Ok(())
}

#[test]
fn names_of_no_native_tensor_have_no_counterpart() {
    for other in ["decoder.up.3.block.0.norm1.weight", "decoder.mid.block_3.norm1.weight", "bn.running_mean"]
    {
        assert_eq!(names::to_diffusers(other, 3), None, "{other}");
    }
    assert!(!names::is_native(["decoder.mid_block.resnets.0.norm1.weight"]));
}

#[test]
fn every_tensor_is_used_and_a_missing_or_wrong_one_is_named() {
    for ((path, _), unused) in models().into_iter().zip([vec![], vec!["bn.num_batches_tracked"]]) {
        let channels = if unused.is_empty() {
            ["[16, 48, 3, 3]", "[18, 48, 3, 3]"]
        } else {
            ["[6, 8, 3, 3]", "[8, 8, 3, 3]"]
        };
        let weights = Weights::open(&folder(&path), &Device::Cpu, WeightDtype::Keep).expect("fixture");
        let mut config = ImageVaeConfig::read(&folder(&path)).expect("fixture");
        ImageVae::load(&weights, &config).expect("loads");
        assert_eq!(weights.unused(), unused);
        config.latent_channels += 1;
        let error = ImageVae::load(&weights, &config).expect_err("other shapes").to_string();
        assert!(error.contains("has shape") && error.contains("encoder.conv_out.weight"), "{error}");
        assert!(channels.iter().all(|shape| error.contains(shape)), "{channels:?}: {error}");
        config.latent_channels -= 1;
        config.layers_per_block += 1;
        let error = ImageVae::load(&weights, &config).expect_err("another block").to_string();
        assert!(error.contains("encoder.down_blocks.0.resnets.1.norm1.weight"), "{error}");
        config.norm_num_groups = 0;
        assert!(
            ImageVae::load(&weights, &config).expect_err("no groups").to_string().contains("norm_num_groups")
        );
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let message = hint::told(&result.expect_err(parts[0]));
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_refused_with_both_values() {
    let [vae1, vae2] = models().map(|(path, _)| open(&path));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("fits");
    for shape in [&[1, 7, 2, 2][..], &[1, 8, 0, 2], &[8, 2, 2], &[]] {
        let latents = ["the latents have shape", "expected [batch, 8, height, width]"];
        refused(vae1.decode(&zeros(shape), None), &latents);
        refused(vae1.normalize(&zeros(shape)), &latents);
        refused(vae1.to_tokens(&zeros(shape)), &latents);
        refused(vae1.denormalize(&zeros(shape)), &latents);
    }
    refused(vae2.denormalize(&zeros(&[1, 3, 2, 2])), &["[1, 3, 2, 2]", "[batch, 12, height, width]"]);
    refused(vae1.encode(&zeros(&[1, 4, 16, 16]), None), &["the images have shape", "[batch, 3, height"]);
    refused(vae1.encode(&zeros(&[1, 3, 3, 16]), None), &["16x3", "at least 4x4"]);
    let tiles = Some(Tiling::square(8, 4));
    refused(vae1.encode(&zeros(&[1, 3, 17, 16]), tiles), &["16x17", "multiples of 4", "16x16"]);
    refused(vae1.decode(&zeros(&[1, 8, 3, 3]), Some(Tiling::square(8, 6))), &["stride_height = 6", "of 4"]);
    for vae in [&vae1, &vae2] {
        let channels = vae.config().latent_channels;
        refused(vae.to_tokens(&zeros(&[1, channels, 3, 2])), &["2x3 do not divide", "hint"]);
        refused(vae.from_tokens(&zeros(&[1, 5, 4 * channels]), [2, 2]), &["the tokens have shape", "2 * 2"]);
    }
    refused(packing::unpack(&zeros(&[1, 4, 6]), [2, 2]), &["[1, 4, 6]", "4 * channels"]);
    refused(packing::unpatchify(&zeros(&[4, 6])), &["[4, 6]", "columns"]);
    refused(packing::flatten(&zeros(&[4, 6])), &["[4, 6]", "columns"]);
    refused(packing::pack(&zeros(&[4, 6])), &["[4, 6]", "height"]);
}
