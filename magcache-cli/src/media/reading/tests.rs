use std::fs;
use std::path::PathBuf;

use ::gif::{Encoder, Frame, Repeat};
use image::{Rgb, RgbImage};
use magcache_core::hint;

use super::super::testing::{few_colours, psnr, test_frames, write};
use super::super::{Destination, VideoShape};
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/videos").join(name)
}

/// The frames of a file that is right.
fn frames(reader: VideoReader) -> Vec<RgbImage> {
    let count = reader.frames();
    let image = |picture: Picture| {
        RgbImage::from_raw(picture.width() as u32, picture.height() as u32, picture.rgb8().to_vec()).unwrap()
    };
    let frames: Vec<_> = reader.map(|picture| image(picture.unwrap())).collect();
    assert_eq!(frames.len(), count);
    frames
}

/// The first thing that is wrong with a file, with its hint.
fn refusal(path: &Path) -> String {
    let error = match VideoReader::open(path) {
        Ok(reader) => reader.into_iter().find_map(Result::err).expect("it is read without an error"),
        Err(error) => error,
    };
    hint::told(&error).replace(&path.display().to_string(), "FILE")
}

#[test]
fn what_was_written_is_read_again() {
    let root = tempfile::tempdir().unwrap();
    for (name, fps, least) in
        [("a.mp4", 16.0, 34.0), ("b.mp4", 23.976, 34.0), ("a.gif", 16.0, 60.0), ("a", 16.0, 60.0)]
    {
        let shape = VideoShape { width: 50, height: 34, frames: 16, fps };
        // Without hard edges of colour, which no video of this kind keeps.
        let smooth = |frame: RgbImage| image::imageops::blur(&frame, 3.0);
        let sources = test_frames(&shape).into_iter();
        let sources: Vec<_> = if name.ends_with("mp4") {
            sources.map(smooth).collect()
        } else {
            sources.map(|f| few_colours(&f)).collect()
        };
        let path = write(&Destination::prepare(root.path().join(name), shape).unwrap(), &sources);
        let reader = VideoReader::open(&path).unwrap();
        match reader.fps() {
            None => assert_eq!(name, "a"),
            Some(got) => assert!((got - fps).abs() < 1e-9, "{name}: {got}"),
        }
        let read = frames(reader);
        assert_eq!(read.len(), sources.len());
        for (i, (a, b)) in sources.iter().zip(&read).enumerate() {
            let psnr = psnr(a, b);
            assert!(psnr > least, "{name}, frame {i}: {psnr:.1} dB");
        }
    }
}

/// libx264, profile High, three frames between others that refer to both sides; frame `i` has the level 20 +
/// 18 i.
#[test]
fn frames_come_in_the_order_in_which_they_are_shown() {
    let reader = VideoReader::open(&fixture("reordered.mp4")).unwrap();
    assert_eq!((reader.fps(), reader.frames()), (Some(24.0), 12));
    for (i, frame) in frames(reader).iter().enumerate() {
        let Rgb(corner) = frame.get_pixel(2, 2);
        assert!(corner.iter().all(|level| level.abs_diff(20 + 18 * i as u8) < 4), "frame {i}: {corner:?}");
        let Rgb([red, green, _]) = *frame.get_pixel(4 * i as u32 + 4, 24);
        assert!(red > 200 && green < 70, "frame {i}: the block is elsewhere");
    }
}

#[test]
fn frames_of_a_gif_that_change_a_part_come_whole() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.gif");
    let mut encoder = Encoder::new(fs::File::create(&path).unwrap(), 8, 6, &[255, 0, 0, 0, 0, 255]).unwrap();
    encoder.set_repeat(Repeat::Infinite).unwrap();
    let whole = Frame { width: 8, height: 6, delay: 4, buffer: vec![0; 48].into(), ..Frame::default() };
    // Browsers show it for ten hundredths.
    let part = Frame {
        left: 2,
        top: 1,
        width: 3,
        height: 2,
        delay: 1,
        buffer: vec![1; 6].into(),
        ..Frame::default()
    };
    encoder.write_frame(&whole).unwrap();
    encoder.write_frame(&part).unwrap();
    drop(encoder);
    let reader = VideoReader::open(&path).unwrap();
    assert_eq!(reader.fps(), Some(200.0 / 14.0));
    let frames = frames(reader);
    let expected = RgbImage::from_fn(8, 6, |x, y| {
        if (2..5).contains(&x) && (1..3).contains(&y) { Rgb([0, 0, 255]) } else { Rgb([255, 0, 0]) }
    });
    assert_eq!(frames, [RgbImage::from_pixel(8, 6, Rgb([255, 0, 0])), expected]);
}

#[test]
fn pictures_of_a_folder_come_as_people_count() {
    let root = tempfile::tempdir().unwrap();
    let names = ["f10.png", "f9.png", "f009b.png", "F1.PNG", "f0.png"];
    for (i, name) in names.iter().enumerate() {
        let picture = RgbImage::from_pixel(2 + i as u32, 2, Rgb([9; 3]));
        picture.save_with_format(root.path().join(name), image::ImageFormat::Png).unwrap();
    }
    fs::write(root.path().join(".hidden.png"), "no picture").unwrap();
    fs::write(root.path().join("notes.txt"), "no picture").unwrap();
    let order: Vec<u32> =
        frames(VideoReader::open(root.path()).unwrap()).iter().map(RgbImage::width).collect();
    assert_eq!(order, [5, 6, 3, 4, 2], "F1, f0, f9, f009b, f10");

    fs::write(root.path().join("f2.png"), "no picture").unwrap();
    assert!(refusal(root.path()).contains("f2.png"), "{}", refusal(root.path()));
    let empty = tempfile::tempdir().unwrap();
    assert!(
        refusal(empty.path())
            .starts_with("FILE is not a video that can be read: it holds no file that ends in .png")
    );
}

#[test]
fn what_is_no_video_is_refused_in_words() {
    let root = tempfile::tempdir().unwrap();
    let refused = |content: &[u8], text: &str| {
        let path = root.path().join("v.mp4");
        fs::write(&path, content).unwrap();
        let got = refusal(&path);
        assert!(got.starts_with(text) && got.contains("\nhint: "), "{got}");
    };
    let no_video = "FILE is not a video that can be read: ";
    refused(b"", &format!("{no_video}it begins like no format that is read"));
    refused(b"a poem about the sea", &format!("{no_video}it begins like no format that is read"));
    refused(b"GIF89a", no_video);
    refused(&fs::read(fixture("mpeg4.mp4")).unwrap(), &format!("{no_video}its codec is not H.264"));
    let sound =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../magcache-models/audio/tests/fixtures/click.m4a");
    refused(&fs::read(sound).unwrap(), &format!("{no_video}it has no video track"));
    let x264 = fs::read(fixture("reordered.mp4")).unwrap();
    refused(&x264[..x264.len() - 200], "FILE is ");
    let mut deep = x264.clone();
    let profile = deep.windows(4).position(|word| word == b"avcC").unwrap() + 5;
    assert_eq!(deep[profile], 100);
    deep[profile] = 110;
    refused(&deep, &format!("{no_video}its H.264 has profile 110, expected one of 8 bits and 4:2:0"));

    let shape = VideoShape { width: 32, height: 32, frames: 16, fps: 16.0 };
    for (name, text) in [
        ("a.mp4", "FILE is cut off: its index says 1.000 s, only 0."),
        ("a.gif", "FILE: cannot decode frame "),
    ] {
        let path = write(&Destination::prepare(root.path().join(name), shape).unwrap(), &test_frames(&shape));
        let bytes = fs::read(path).unwrap();
        refused(&bytes[..bytes.len() * 3 / 4], text);
    }
    assert!(refusal(&root.path().join("nothing")).starts_with("FILE: cannot open"));
}

#[test]
fn damaged_frames_end_in_an_error_or_in_frames() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("v");
    let original = fs::read(fixture("reordered.mp4")).unwrap();
    let (mut read, mut refused) = (0, 0);
    for round in 0..300usize {
        let mut bytes = original.clone();
        for k in 0..=round % 3 {
            let at = (round * 7919 + k * 104_729) % bytes.len();
            bytes[at] ^= 1 << (round % 8);
        }
        fs::write(&path, bytes).unwrap();
        match VideoReader::open(&path).map(|mut reader| reader.all(|picture| picture.is_ok())) {
            Ok(true) => read += 1,
            Ok(false) | Err(_) => refused += 1,
        }
    }
    assert!(read > 20 && refused > 20, "{read} were read, {refused} refused");
}
