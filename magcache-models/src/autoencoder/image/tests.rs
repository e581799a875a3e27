//! What the recorded cases of `verify` do not show: both layouts, round trips, and what is refused.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use magcache_core::hint;

use super::*;

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

/// The trained FLUX.1 model of this crate, whose weights are in eight bits, and a small random FLUX.2
/// model.
fn models() -> [Folder; 2] {
    [concat!(env!("CARGO_MANIFEST_DIR"), "/tiny/tiny-flux/vae").into(), fixtures("vae/flux2_small")]
        .map(folder)
}

fn folder(path: PathBuf) -> Folder {
    Folder::open(path).expect("fixture")
}

fn open(folder: &Folder) -> ImageVae {
    ImageVae::open(folder, &Device::Cpu).expect("loads")
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

fn waves(shape: [usize; 4]) -> Result<Tensor> {
    let values = (0..shape.iter().product::<usize>()).map(|i| (0.37 * i as f64).sin() as f32);
    Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape(&shape)?)
}

#[test]
fn tiles_larger_than_the_picture_change_nothing() -> Result<()> {
    for folder in models() {
        let vae = open(&folder);
        let (scale, channels) = (vae.config().spatial_scale(), vae.config().latent_channels);
        let (x, z) = (waves([1, 3, 7 * scale, 9 * scale])?, waves([1, channels, 7, 5])?);
        let large = Some(Tiling::square(16 * scale, 12 * scale));
        assert_eq!(values(&vae.decode(&z, large)?)?, values(&vae.decode(&z, None)?)?);
        let (tiled, whole) = (vae.encode(&x, large)?, vae.encode(&x, None)?);
        assert_eq!(values(tiled.moments())?, values(whole.moments())?);
    }
    Ok(())
}

#[test]
fn latents_come_back_from_every_form() -> Result<()> {
    for folder in models() {
        let vae = open(&folder);
        let z = waves([2, vae.config().latent_channels, 6, 4])?;
        assert!(worst(&vae.denormalize(&vae.normalize(&z)?)?, &z)? < 1e-5);
        assert!(worst(&vae.from_tokens(&vae.to_tokens(&z)?, [3, 2])?, &z)? < 1e-5);
    }
    let whole = waves([2, 3, 4, 6])?;
    let patches = packing::patchify(&whole)?;
    assert_eq!(values(&packing::unpack(&packing::pack(&whole)?, [2, 3])?)?, values(&whole)?);
    assert_eq!(values(&packing::unpatchify(&patches)?)?, values(&whole)?);
    assert_eq!(values(&packing::unflatten(&packing::flatten(&patches)?, [2, 3])?)?, values(&patches)?);
    Ok(())
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

/// `tests/reference/native_flux_vae.py` made both layouts of the same random weights and ran the teams' own
/// modules on the native ones.
#[test]
fn both_layouts_and_a_part_of_a_larger_file_give_the_same_bits() -> Result<()> {
    for name in ["flux1-vae", "flux2-vae"] {
        let [ours, native] = ["diffusers", "native"].map(|layout| fixtures("native").join(name).join(layout));
        let tensors = candle_core::safetensors::load(native.join("ae.safetensors"), &Device::Cpu)?;
        let (ours, root) = (folder(ours), tempfile::tempdir().expect("a folder"));
        let vae = open(&ours);
        let open_file = |folder: &Folder, file: &str| {
            ImageVae::open_file(folder, file, vae.config(), &Device::Cpu).expect("loads")
        };
        same_bits(&vae, &open_file(&folder(native), "ae.safetensors"))?;
        same_bits(&vae, &open_file(&ours, "diffusion_pytorch_model.safetensors"))?;
        for prefix in ["vae.", "first_stage_model."] {
            let mut larger: HashMap<String, Tensor> =
                tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect();
            larger.insert("model.diffusion_model.img_in.bias".into(), waves([1, 1, 1, 4])?);
            candle_core::safetensors::save(&larger, root.path().join("all.safetensors"))?;
            same_bits(&vae, &open_file(&folder(root.path().into()), "all.safetensors"))?;
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
    for (folder, unused) in models().into_iter().zip([vec![], vec!["bn.num_batches_tracked"]]) {
        let channels = if unused.is_empty() {
            ["[32, 48, 3, 3]", "[34, 48, 3, 3]"]
        } else {
            ["[6, 8, 3, 3]", "[8, 8, 3, 3]"]
        };
        let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("fixture");
        let mut config = ImageVaeConfig::read(&folder).expect("fixture");
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
    let [vae1, vae2] = models().map(|folder| open(&folder));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("fits");
    for shape in [&[1, 7, 2, 2][..], &[1, 16, 0, 2], &[16, 2, 2], &[]] {
        let latents = ["the latents have shape", "expected [batch, 16, height, width]"];
        refused(vae1.decode(&zeros(shape), None), &latents);
        refused(vae1.normalize(&zeros(shape)), &latents);
        refused(vae1.to_tokens(&zeros(shape)), &latents);
        refused(vae1.denormalize(&zeros(shape)), &latents);
    }
    refused(vae2.denormalize(&zeros(&[1, 3, 2, 2])), &["[1, 3, 2, 2]", "[batch, 12, height, width]"]);
    refused(vae1.encode(&zeros(&[1, 4, 16, 16]), None), &["the images have shape", "[batch, 3, height"]);
    refused(vae1.encode(&zeros(&[1, 3, 3, 16]), None), &["16x3", "at least 8x8"]);
    let tiles = Some(Tiling::square(16, 8));
    refused(vae1.encode(&zeros(&[1, 3, 33, 16]), tiles), &["16x33", "multiples of 8", "16x32"]);
    refused(
        vae1.decode(&zeros(&[1, 16, 3, 3]), Some(Tiling::square(16, 12))),
        &["stride_height = 12", "of 8"],
    );
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
