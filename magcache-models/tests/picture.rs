//! Pictures against Pillow's reading and scaling of the same files and against the image processors of
//! diffusers and transformers, and files that are not pictures.

mod support;

use std::{collections::HashMap, fs, io::Cursor, path::PathBuf};

use candle_core::Tensor;
use image::{DynamicImage, ImageBuffer, ImageFormat};
use magcache_core::hint::Hint as _;
use magcache_models::{
    clip::ClipImageProcessor,
    image::{Filter, MAX_SIDE, Picture, PictureError, area_size},
};
use proptest::prelude::*;
use support::{DEVICE, fixtures, values};

fn folder() -> PathBuf {
    fixtures("images")
}

fn expected() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join("expected.safetensors"), &DEVICE).unwrap()
}

/// A recorded picture, `[height, width, 3]` bytes.
fn picture(tensor: &Tensor) -> Picture {
    let (height, width, _) = tensor.dims3().unwrap();
    Picture::from_rgb8(width, height, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

/// The largest and the mean difference between two pictures of the same size.
fn difference(a: &Picture, b: &Picture) -> (u8, f64) {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    let differences: Vec<u8> = a.rgb8().iter().zip(b.rgb8()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
    (differences.iter().copied().max().unwrap(), sum / differences.len() as f64)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// One valid file per format.
fn samples() -> Vec<Vec<u8>> {
    ["rgb.png", "palette_transparent.png", "rgb.jpg", "progressive.jpg", "turned6.jpg", "palette.gif"]
        .iter()
        .chain(&["rgb.webp", "turned6.webp", "rgb.bmp", "rgb.tiff"])
        .map(|name| fs::read(folder().join(name)).unwrap())
        .collect()
}

#[test]
fn files_read_as_pillow_reads_them() {
    let expected = expected();
    let mut seen = 0;
    for (key, tensor) in &expected {
        let Some(name) = key.strip_prefix("file.") else { continue };
        seen += 1;
        let (largest, mean) = difference(&Picture::read(folder().join(name)).unwrap(), &picture(tensor));
        // Two correct JPEG decoders round differently, and upsample colours of half resolution with different
        // filters.
        let allowed = match name {
            "subsampled.jpg" => (14, 2.0),
            name if name.contains(".jpg") => (3, 1.0),
            _ => (0, 0.0),
        };
        assert!(largest <= allowed.0 && mean <= allowed.1, "{name}: {largest} {mean}");
    }
    assert_eq!(seen, fs::read_dir(folder()).unwrap().count() - 1);
}

#[test]
fn the_content_says_the_format_not_the_name() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("photo.jpg");
    fs::copy(folder().join("rgb.png"), &path).unwrap();
    assert_eq!(Picture::read(&path).unwrap(), Picture::read(folder().join("rgb.png")).unwrap());
}

#[test]
fn sixteen_bits_are_scaled_to_eight() {
    let values = [0u16, 128, 129, 257, 32_768, 65_407, 65_535];
    let gray = ImageBuffer::from_vec(7, 1, values.to_vec()).unwrap();
    let gray = encoded(&DynamicImage::ImageLuma16(gray), ImageFormat::Png);
    let colour =
        ImageBuffer::from_vec(7, 1, values.into_iter().flat_map(|v| [v, 0, 65_535]).collect()).unwrap();
    let colour = encoded(&DynamicImage::ImageRgb16(colour), ImageFormat::Tiff);
    let want = [0u8, 0, 1, 1, 128, 255, 255];
    assert_eq!(Picture::decode("gray", &gray).unwrap().rgb8(), want.map(|v| [v; 3]).concat());
    assert_eq!(Picture::decode("colour", &colour).unwrap().rgb8(), want.map(|v| [v, 0, 255]).concat());
}

#[test]
fn scaling_is_pillows() {
    let expected = expected();
    let source = picture(&expected["scale.source"]);
    let mut seen = 0;
    for (key, tensor) in &expected {
        let want = match key.split('.').collect::<Vec<_>>()[..] {
            ["scale", filter, _] => {
                let filter = match filter {
                    "bilinear" => Filter::Bilinear,
                    "bicubic" => Filter::Bicubic,
                    _ => Filter::Lanczos,
                };
                let want = picture(tensor);
                (source.resize(want.width(), want.height(), filter).unwrap(), want)
            }
            ["cover", _] => {
                let want = picture(tensor);
                (source.cover(want.width(), want.height()).unwrap(), want)
            }
            _ => continue,
        };
        seen += 1;
        let (largest, mean) = difference(&want.0, &want.1);
        // Halves may be rounded either way; one pixel has too few values for a mean.
        assert!(largest <= 1 && (mean < 0.02 || want.0.rgb8().len() == 3), "{key}: {largest} {mean}");
    }
    assert_eq!(seen, 3 * 6 + 3);
    assert_eq!(source.resize(37, 23, Filter::Bicubic).unwrap(), source);
}

#[test]
fn frames_are_those_of_the_video_processor() {
    let expected = expected();
    let source = picture(&expected["scale.source"]);
    for (width, height) in [(24, 16), (48, 32)] {
        let ours = source.pixels(width, height, &DEVICE).unwrap();
        let theirs = &expected[&format!("frame.{width}x{height}")];
        assert_eq!(ours.dims(), theirs.dims());
        let errors = values(&(ours - theirs).unwrap().abs().unwrap());
        // Either equal, or one step of 255 apart.
        assert!(errors.iter().all(|e| *e < 1e-6 || (*e - 2.0 / 255.0).abs() < 1e-6));
        assert!(errors.iter().filter(|e| **e > 1e-6).count() * 10 < errors.len());
    }
}

#[test]
fn pixels_are_those_of_the_image_processor() {
    let expected = expected();
    let processor =
        serde_json::json!({"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}});
    let processor = ClipImageProcessor::from_value(&processor, "json").unwrap();
    for size in ["37x23", "23x37", "16x16", "40x16"] {
        let source = picture(&expected[&format!("clip.{size}.source")]);
        let ours = processor.pixel_values(&source, &DEVICE).unwrap();
        let theirs = &expected[&format!("clip.{size}.pixel_values")];
        assert_eq!(ours.dims(), theirs.dims());
        let errors = values(&(ours - theirs).unwrap().abs().unwrap());
        // One step of 255 in the scaled picture; no error if it is not scaled.
        let allowed = if size.ends_with("x16") { 1e-6 } else { 1.001 / 255.0 / 0.261 };
        assert!(errors.iter().all(|error| *error <= allowed), "{size}: {errors:?}");
        let mean = errors.iter().sum::<f32>() / errors.len() as f32;
        assert!(mean < 2e-3, "{size}: {mean}");
    }
    let sliver = Picture::from_rgb8(1, 2000, vec![0; 6000]).unwrap();
    let error = processor.pixel_values(&sliver, &DEVICE);
    assert!(matches!(error, Err(PictureError::Target { width: 16, height: 32_000 })));
}

#[test]
fn crops_lie_in_the_middle() {
    let source = picture(&expected()["scale.source"]);
    let crop = source.center_crop(4, 2).unwrap();
    let pixel = |p: &Picture, x: usize, y: usize| p.rgb8()[3 * (y * p.width() + x)..][..3].to_vec();
    for (x, y) in [(0, 0), (3, 1)] {
        assert_eq!(pixel(&crop, x, y), pixel(&source, 16 + x, 10 + y));
    }
    assert!(matches!(source.center_crop(38, 2), Err(PictureError::Target { width: 38, height: 2 })));
    for (width, height) in [(0, 5), (5, 0), (MAX_SIDE + 1, 5)] {
        assert!(matches!(source.resize(width, height, Filter::Lanczos), Err(PictureError::Target { .. })));
        assert!(matches!(source.cover(width, height), Err(PictureError::Target { .. })));
        assert!(matches!(Picture::from_rgb8(width, height, vec![]), Err(PictureError::Target { .. })));
    }
    assert!(matches!(Picture::from_rgb8(2, 2, vec![0; 11]), Err(PictureError::Pixels { bytes: 11, .. })));
}

#[test]
fn videos_take_the_shape_of_the_picture() {
    let of = |width, height| Picture::from_rgb8(width, height, vec![0; 3 * width * height]).unwrap();
    // From numpy, with the expressions of the published example.
    for (width, height, area, multiple, want) in [
        (1024, 1024, 480 * 832, 16, (624, 624)),
        (1600, 900, 480 * 832, 16, (832, 464)),
        (900, 1600, 480 * 832, 16, (464, 832)),
        (1500, 1000, 720 * 1280, 16, (1168, 784)),
        (1600, 900, 704 * 1280, 32, (1248, 704)),
        (10, 4000, 480 * 832, 16, (32, 12_624)),
        // The width is 495.996 before rounding, then 399.41.
        (300, 487, 480 * 832, 16, (496, 800)),
        (300, 751, 480 * 832, 16, (384, 992)),
    ] {
        assert_eq!(area_size(&of(width, height), area, multiple), want, "{width} x {height}");
    }
    assert_eq!(area_size(&of(4, 4000), 100, 16), (16, 304));
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("first.png");
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Picture::read(&path).unwrap_err();
        assert!(error.to_string().contains("first.png"), "{error}");
        error
    };
    assert!(matches!(error(b""), PictureError::Empty { .. }));
    let text = error(b"hello, world\n");
    assert!(text.to_string().contains("it begins with \"hello, w\"") && text.hint().is_some(), "{text}");
    assert!(matches!(error(b"\0"), PictureError::NotAPicture { .. }));
    for (start, name) in [
        (&b"\0\0\0\x20ftypavif"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"P6\n2 2\n255\n", "PBM"),
        (b"qoif", "QOI"),
    ] {
        let error = error(start);
        assert!(matches!(&error, PictureError::Unsupported { format, .. } if format == name), "{error}");
    }
    let missing = Picture::read(root.path().join("none.png")).unwrap_err();
    assert!(missing.to_string().contains("none.png: No such file"), "{missing}");
    assert!(matches!(Picture::read(root.path()), Err(PictureError::Io { .. })));
}

#[test]
fn what_is_cut_off_is_refused() {
    for file in samples() {
        let whole = Picture::decode("whole", &file).unwrap();
        for kept in [file.len() / 4, file.len() / 2, 3 * file.len() / 4, file.len() - 12] {
            let error = Picture::decode("part", &file[..kept]);
            let start = file[..4].escape_ascii().to_string();
            let refused = matches!(error, Err(PictureError::Truncated { .. } | PictureError::Damaged { .. }));
            // The end of a file may be metadata; the picture must then be complete.
            assert!(refused || error.as_ref().is_ok_and(|p| *p == whole), "{start} {kept}: {error:?}");
        }
    }
    let photo = fs::read(folder().join("turned6.jpg")).unwrap();
    let error = Picture::decode("photo", &photo[..photo.len() - 40]).unwrap_err().to_string();
    let bytes = format!("photo is cut off: it ends after {} bytes", photo.len() - 40);
    assert!(error.starts_with(&bytes), "{error}");
}

#[test]
fn the_header_alone_tells_that_a_picture_is_too_large() {
    // A PNG header with a correct checksum, not followed by any pixel.
    let png = |width: u32, height: u32| {
        let mut head = b"IHDR".to_vec();
        head.extend(width.to_be_bytes());
        head.extend(height.to_be_bytes());
        head.extend([8, 2, 0, 0, 0]);
        let crc = head.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
            })
        });
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        file.extend(head);
        file.extend((!crc).to_be_bytes());
        file.extend(b"\0\0\0\x04IDAT");
        file
    };
    for (width, height) in [(20_000, 10), (10, 20_000), (12_000, 12_000)] {
        let error = Picture::decode("wide.png", &png(width, height)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, PictureError::TooLarge { .. }), "{message}");
        assert!(
            message.contains(&format!("{width} x {height} pixels, at most 16384 on a side and 134 million"))
        );
    }
    let error = Picture::decode("endless.png", &png(u32::MAX >> 1, u32::MAX >> 1)).unwrap_err();
    assert!(matches!(error, PictureError::Memory { .. } | PictureError::TooLarge { .. }), "{error}");
    // A photo of 50 megapixels is not refused for its size: it is reported as cut off.
    let error = Picture::decode("photo.png", &png(8688, 5792)).unwrap_err();
    assert!(matches!(error, PictureError::Truncated { .. } | PictureError::Damaged { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), sample in 0usize..10, keep in 0usize..40) {
        let _ = Picture::decode("random", &bytes);
        let mut file: Vec<u8> = samples()[sample].iter().copied().take(keep).collect();
        file.extend(bytes);
        let _ = Picture::decode("random after a true beginning", &file);
    }

    #[test]
    fn every_picture_covers_every_size(
        from in (1usize..120, 1usize..120), to in (1usize..120, 1usize..120), value in any::<u8>()
    ) {
        let picture = Picture::from_rgb8(from.0, from.1, vec![value; 3 * from.0 * from.1]).unwrap();
        let cover = picture.cover(to.0, to.1).unwrap();
        prop_assert_eq!(cover.rgb8(), vec![value; 3 * to.0 * to.1]);
    }

    #[test]
    fn no_damage_panics(
        sample in 0usize..10,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut file = samples().swap_remove(sample);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if cuts {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(picture) = Picture::decode("damaged", &file) {
            prop_assert_eq!(picture.rgb8().len(), 3 * picture.width() * picture.height());
        }
    }
}
