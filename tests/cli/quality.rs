//! PSNR and SSIM against scikit-image, and input that cannot be compared.

use std::fs;

use candle_core::{DType, Device, Tensor};
use magcache_cli::quality::{Frames, Quality, QualityError, compare, compare_tensors};
use proptest::prelude::*;
use serde_json::Value;

use crate::program::fixture;

#[test]
fn every_frame_equals_scikit_image() {
    let dir = fixture("quality");
    let tensors = candle_core::safetensors::load(dir.join("frames.safetensors"), &Device::Cpu).unwrap();
    let recorded: Value = serde_json::from_str(&fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (a, b) = (&tensors[&format!("{name}.a")], &tensors[&format!("{name}.b")]);
        let quality = compare_tensors(a, b, case["data_range"].as_f64().unwrap()).unwrap();
        let want = case["frames"].as_array().unwrap();
        assert_eq!(quality.frames.len(), want.len());
        for (got, want) in quality.frames.iter().zip(want) {
            let ssim = want["ssim"].as_f64().unwrap();
            assert!((got.ssim - ssim).abs() < 1e-4, "{name}: ssim {} instead of {ssim}", got.ssim);
            match want["psnr"].as_f64() {
                Some(psnr) => {
                    assert!((got.psnr - psnr).abs() < 1e-4, "{name}: {} dB instead of {psnr}", got.psnr);
                }
                None => assert!(got.identical(), "{name}: {} dB", got.psnr),
            }
        }
    }
    assert_eq!(cases.len(), 10);
}

/// Noise around a level, frame by frame.
fn video(levels: &[u8], seed: usize) -> Vec<u8> {
    let sample = |i: usize| levels[i / 192] + ((i + seed) * 7919 % 31) as u8;
    (0..192 * levels.len()).map(sample).collect()
}

fn compare_u8(a: &[u8], b: &[u8]) -> Quality {
    let shape = [a.len() / 192, 8, 8, 3];
    compare(Frames::new(a, shape).unwrap(), Frames::new(b, shape).unwrap(), 255.0).unwrap()
}

#[test]
fn equal_videos_are_infinitely_good_and_null_in_json() {
    let a = video(&[10, 90], 0);
    let quality = compare_u8(&a, &a);
    assert!(quality.identical());
    assert_eq!((quality.psnr(), quality.worst_psnr(), quality.ssim()), (f64::INFINITY, f64::INFINITY, 1.0));
    assert_eq!(serde_json::to_string(&quality.frames[0]).unwrap(), r#"{"psnr":null,"ssim":1.0}"#);
}

#[test]
fn an_equal_frame_does_not_hide_the_others() {
    let a = video(&[10, 90, 40], 0);
    let mut b = a.clone();
    for (i, v) in b.iter_mut().enumerate().skip(192) {
        *v += if i < 384 { 1 } else { 10 };
    }
    let quality = compare_u8(&a, &b);
    let [first, second, third] = quality.frames[..] else { panic!("three frames") };
    assert!(first.identical() && !quality.identical());
    assert!((second.psnr - 48.1308).abs() < 1e-3 && (third.psnr - 28.1308).abs() < 1e-3);
    assert!((quality.psnr() - 38.1308).abs() < 1e-3);
    assert!((quality.ssim() - (1.0 + second.ssim + third.ssim) / 3.0).abs() < 1e-12);
    assert_eq!((quality.worst_psnr(), quality.worst_ssim()), (third.psnr, third.ssim));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let data = [0.5_f32; 192];
    let frames = |shape| Frames::new(&data, shape).unwrap();
    let message = |a, b, range| compare(a, b, range).unwrap_err().to_string();
    let whole = frames([1, 8, 8, 3]);
    assert_eq!(
        Frames::new(&data, [2, 8, 8, 3]).unwrap_err().to_string(),
        "got 192 samples for frames of shape [2, 8, 8, 3]"
    );
    assert!(Frames::new(&data, [usize::MAX, 2, 1, 1]).is_err());
    assert!(
        message(whole, frames([1, 8, 12, 2]), 1.0)
            .contains("[1, 8, 8, 3] with frames of shape [1, 8, 12, 2]")
    );
    assert!(message(frames([1, 6, 32, 1]), frames([1, 6, 32, 1]), 1.0).contains("too small"));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(whole, whole, bad).starts_with("data_range = "), "{bad}");
    }
    let mut broken = data;
    broken[191] = f32::NAN;
    let err = compare(whole, Frames::new(&broken, [1, 8, 8, 3]).unwrap(), 1.0).unwrap_err();
    assert!(matches!(err, QualityError::NotFinite { frame: 0 }));
    let flat = Tensor::zeros((8, 8, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(compare_tensors(&flat, &flat, 1.0), Err(QualityError::Tensor(_))));
    let none = Frames::<u8>::new(&[], [0, 8, 8, 3]).unwrap();
    assert!(matches!(compare(none, none, 255.0), Err(QualityError::Small { .. })));
}

proptest! {
    #[test]
    fn the_order_of_the_two_does_not_matter_and_more_error_is_worse(seed in 0_usize..1000, step in 1_u8..40) {
        let a = video(&[60], seed);
        let near: Vec<u8> = a.iter().enumerate().map(|(i, v)| if i % 2 == 0 { v + step } else { *v }).collect();
        let far: Vec<u8> = a.iter().enumerate().map(|(i, v)| if i % 2 == 0 { v + 2 * step } else { *v }).collect();
        let (ab, ba, af) = (compare_u8(&a, &near), compare_u8(&near, &a), compare_u8(&a, &far));
        prop_assert!((ab.psnr() - ba.psnr()).abs() < 1e-9 && (ab.ssim() - ba.ssim()).abs() < 1e-12);
        prop_assert!(af.psnr() < ab.psnr() && ab.ssim() < 1.0 && ab.ssim() > -1.0);
    }
}
