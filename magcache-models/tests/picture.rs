//! Sizes and crops of pictures, and files that are not pictures. What is read and scaled is compared with
//! Pillow by `magcache verify tests/fixtures/golden/pictures`.

mod support;

use std::{fs, io::Cursor, path::PathBuf};

use image::{DynamicImage, ImageBuffer, ImageFormat};
use magcache_core::hint::Hint as _;
use magcache_models::{
    clip::ClipImageProcessor,
    image::{Filter, MAX_SIDE, Picture, PictureError, area_size},
};
use proptest::prelude::*;
use support::{DEVICE, fixtures};

fn folder() -> PathBuf {
    fixtures("golden/pictures/pillow")
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// 37 by 23 pixels that differ.
fn waves() -> Picture {
    Picture::from_rgb8(37, 23, (0..37 * 23 * 3).map(|i| (i * 7 % 251) as u8).collect()).unwrap()
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
fn a_sliver_is_too_long_for_the_image_processor() {
    let processor =
        serde_json::json!({"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}});
    let processor = ClipImageProcessor::from_value(&processor, "json").unwrap();
    let sliver = Picture::from_rgb8(1, 2000, vec![0; 6000]).unwrap();
    let error = processor.pixel_values(&sliver, &DEVICE);
    assert!(matches!(error, Err(PictureError::Target { width: 16, height: 32_000 })));
}

#[test]
fn crops_lie_in_the_middle() {
    let source = waves();
    assert_eq!(source.resize(37, 23, Filter::Bicubic).unwrap(), source, "its own size");
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
