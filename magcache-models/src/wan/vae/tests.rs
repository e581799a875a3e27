//! Against `AutoencoderKLWan` of diffusers 0.42.1: outputs, and every block of every chunk.
//!
//! The reference data (`tests/fixtures/golden/vaes/wan21_vae`) come from a tiny random model in f32; its own deviation
//! from a run in f64 is of the order of 1e-6.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Result, Tensor};

use super::*;

/// Largest error that rounding explains.
const TOLERANCE: f32 = 2e-5;

fn case() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/vaes/wan21_vae"))
}

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        Self(
            candle_core::safetensors::load(case().join("golden.safetensors"), &Device::Cpu).expect("fixture"),
        )
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

    /// Compares what the module `name` gave in chunk `chunk` of call `call`, if the reference recorded it.
    fn check_trace(&self, call: &str, chunk: usize, name: &str, x: &Tensor, seen: &mut usize) -> Result<()> {
        let key = format!("{call}.trace.chunk{chunk}.{name}");
        if self.0.contains_key(&key) {
            *seen += 1;
            self.check(&key, &channels_first(x)?)?;
        }
        Ok(())
    }

    fn traces(&self, call: &str) -> usize {
        self.0.keys().filter(|key| key.starts_with(&format!("{call}.trace."))).count()
    }
}

fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

fn vae() -> WanVae {
    WanVae::open(&Folder::open(case()).expect("fixture"), &Device::Cpu).expect("loads")
}

#[test]
fn decodes_as_the_reference() -> Result<()> {
    let (golden, vae) = (Golden::load(), vae());
    for call in ["decode_t1", "decode_t2", "decode_t3"] {
        let z = golden.get(&format!("{call}.z"));
        golden.check(&format!("{call}.z"), &vae.denormalize(golden.get(&format!("{call}.latents")))?)?;
        golden.check(&format!("{call}.sample"), &vae.decode(z)?)?;
    }
    Ok(())
}

#[test]
fn every_block_of_the_decoder_agrees() -> Result<()> {
    let (golden, vae) = (Golden::load(), vae());
    let z = golden.get("decode_t3.z");
    let (mut stream, mut seen, mut raw) = (vae.decode_stream(), 0, Vec::new());
    for chunk in 0..3 {
        raw.push(stream.push_traced(&z.narrow(2, chunk, 1)?, &mut |name, x| {
            golden.check_trace("decode_t3", chunk, &format!("decoder.{name}"), x, &mut seen)
        })?);
    }
    assert_eq!(seen, golden.traces("decode_t3"));
    golden.check("decode_t3.decoder_raw", &Tensor::cat(&raw, 2)?)
}

#[test]
fn encodes_as_the_reference() -> Result<()> {
    let (golden, vae) = (Golden::load(), vae());
    for call in ["encode_t1", "encode_t5", "encode_t9", "encode_t7_truncated", "encode_odd_hw"] {
        let (x, mut seen) = (golden.get(&format!("{call}.x")), 0);
        let moments = vae.moments_traced(x, &mut |chunk, name, x| {
            golden.check_trace(call, chunk, &format!("encoder.{name}"), x, &mut seen)
        })?;
        assert_eq!(seen, golden.traces(call));
        let mode = vae.encode(x)?;
        golden.check(&format!("{call}.mode"), &mode)?;
        if golden.0.contains_key(&format!("{call}.moments")) {
            golden.check(&format!("{call}.moments"), &moments)?;
            golden.check(&format!("{call}.latents"), &vae.normalize(&mode)?)?;
        }
    }
    Ok(())
}

/// Weights stored in half precision must give exactly what their values give when stored in f32.
#[test]
fn half_precision_weights_are_computed_with_in_f32() -> Result<()> {
    let (golden, folder) = (Golden::load(), Folder::open(case()).expect("fixture"));
    let config = WanVaeConfig::read(&folder).expect("fixture");
    let z = golden.get("decode_t2.z");
    for dtype in [DType::F16, DType::BF16] {
        let mut rounded =
            candle_core::safetensors::load(case().join("diffusion_pytorch_model.safetensors"), &Device::Cpu)?;
        for (_, tensor) in rounded.iter_mut().filter(|(name, _)| name.ends_with(".weight")) {
            *tensor = tensor.to_dtype(dtype)?.to_dtype(DType::F32)?;
        }
        let rounded = safetensors::serialize(&rounded, None).expect("can be written");
        let rounded =
            Weights::from_bytes("rounded", rounded, &Device::Cpu, WeightDtype::Keep).expect("is valid");
        let stored = Weights::open(&folder, &Device::Cpu, WeightDtype::Cast(dtype)).expect("fixture");
        let decode = |weights| WanVae::load(weights, &config).expect("loads").decode(z);
        let (expected, ours) = (decode(&rounded)?, decode(&stored)?);
        assert_eq!(ours.dtype(), DType::F32);
        assert!(worst(&ours, &expected)? < 1e-6, "{dtype:?}");
        assert!(worst(&ours, golden.get("decode_t2.sample"))? > 1e-4, "{dtype:?} was not rounded");
    }
    Ok(())
}

#[test]
fn uses_every_tensor_and_refuses_wrong_inputs() -> Result<()> {
    let folder = Folder::open(case()).expect("fixture");
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).expect("fixture");
    let vae = WanVae::load(&weights, &WanVaeConfig::read(&folder).expect("fixture")).expect("loads");
    assert_eq!(weights.unused(), Vec::<&str>::new());
    let zeros = |shape: [usize; 5]| Tensor::zeros(&shape, DType::F32, &Device::Cpu);
    assert!(vae.decode(&zeros([1, 5, 1, 2, 2])?).is_err());
    assert!(vae.decode(&zeros([1, 6, 0, 2, 2])?).is_err());
    assert!(vae.encode(&zeros([1, 3, 0, 16, 16])?).is_err());
    assert!(vae.encode(&zeros([1, 3, 1, 1, 16])?).is_err());
    assert!(vae.encode(&zeros([1, 4, 1, 16, 16])?).is_err());
    let mut wider = WanVaeConfig::read(&folder).expect("fixture");
    wider.base_dim *= 2;
    let error = WanVae::load(&weights, &wider).expect_err("other shapes").to_string();
    assert!(error.contains("has shape") && error.contains("encoder.conv_in.weight"), "{error}");
    Ok(())
}
