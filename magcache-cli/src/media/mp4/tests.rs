//! Reads the output with an independent reader and decoder: the `mp4` crate and `OpenH264`'s decoder.

use std::fs;
use std::io::Cursor;

use image::{Rgb, RgbImage};
use mp4::{Mp4Reader, TrackType};
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;

use super::super::testing::{psnr, test_frames, write};
use super::super::{Destination, VideoShape};
use super::*;

fn file(shape: VideoShape) -> (Vec<RgbImage>, Vec<u8>) {
    let root = tempfile::tempdir().unwrap();
    let frames = test_frames(&shape);
    let path = write(&Destination::prepare(root.path().join("a.mp4"), shape).unwrap(), &frames);
    (frames, fs::read(path).unwrap())
}

fn reader(bytes: &[u8]) -> Mp4Reader<Cursor<&[u8]>> {
    Mp4Reader::read_header(Cursor::new(bytes), bytes.len() as u64).unwrap()
}

/// A plane of a picture as a grey image, without row padding.
fn plane(samples: &[u8], stride: usize, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([samples[y as usize * stride + x as usize]; 3]))
}

fn planes(picture: &impl YUVSource) -> [RgbImage; 3] {
    let (width, height) = picture.dimensions();
    let (width, height) = (width as u32, height as u32);
    let (y, u, v) = picture.strides();
    [
        plane(picture.y(), y, width, height),
        plane(picture.u(), u, width / 2, height / 2),
        plane(picture.v(), v, width / 2, height / 2),
    ]
}

/// Follows the index to each frame and decodes it.
fn decode(bytes: &[u8]) -> Vec<[RgbImage; 3]> {
    const START: [u8; 4] = [0, 0, 0, 1];
    let mut reader = reader(bytes);
    let track = &reader.tracks()[&1];
    let sets = [track.sequence_parameter_set().unwrap(), track.picture_parameter_set().unwrap()];
    let mut decoder = Decoder::new().unwrap();
    decoder.decode(&sets.map(|set| [&START, set].concat()).concat()).unwrap();
    (1..=reader.sample_count(1).unwrap())
        .map(|id| {
            let sample = reader.read_sample(1, id).unwrap().unwrap();
            let (mut rest, mut nals) = (&sample.bytes[..], Vec::new());
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (nal, after) = after.split_at(u32::from_be_bytes(*length) as usize);
                nals.extend([&START, nal].concat());
                rest = after;
            }
            planes(&decoder.decode(&nals).unwrap().expect("each sample is one picture"))
        })
        .collect()
}

#[test]
fn every_frame_comes_back_nearly_as_it_was() {
    // The demo's size, the smallest, one that is not a multiple of a macroblock, and a large one.
    for (width, height, frames, least) in
        [(64, 64, 40, 45.0), (16, 16, 3, 45.0), (50, 34, 5, 45.0), (400, 336, 5, 42.0)]
    {
        let (frames, bytes) = file(VideoShape { width, height, frames, fps: 16.0 });
        let decoded = decode(&bytes);
        assert_eq!(decoded.len(), frames.len());
        let mut source = I420::new(width, height, Matrix::Bt601);
        for (i, (frame, decoded)) in frames.iter().zip(&decoded).enumerate() {
            source.fill(frame);
            for (name, (a, b)) in ["y", "u", "v"].iter().zip(decoded.iter().zip(&planes(&source))) {
                let psnr = psnr(a, b);
                assert!(psnr > least, "{width}x{height}, frame {i}, {name}: {psnr:.1} dB");
            }
        }
    }
}

#[test]
fn the_index_tells_size_speed_and_where_to_seek() {
    let (_, bytes) = file(VideoShape { width: 50, height: 34, frames: 70, fps: 23.976 });
    let mut reader = reader(&bytes);
    assert_eq!((reader.moov.mvhd.timescale, reader.moov.mvhd.duration), (23976, 70_000));
    let track = &reader.tracks()[&1];
    assert_eq!(track.track_type().unwrap(), TrackType::Video);
    assert_eq!((track.width(), track.height(), track.sample_count()), (50, 34, 70));
    assert_eq!((track.trak.tkhd.width.value(), track.trak.tkhd.height.value()), (50, 34));
    assert_eq!((track.timescale(), track.trak.mdia.mdhd.duration, track.language()), (23976, 70_000, "und"));
    let samples: Vec<_> = (1..=70).map(|id| reader.read_sample(1, id).unwrap().unwrap()).collect();
    assert!(
        (0..)
            .zip(&samples)
            .all(|(i, s)| (s.start_time, s.duration, s.rendering_offset) == (1000 * i, 1000, 0))
    );
    // Every two seconds at 24 frames per second.
    let keys: Vec<_> = samples.iter().enumerate().filter(|(_, s)| s.is_sync).map(|(i, _)| i).collect();
    assert_eq!(keys, [0, 48]);
}

#[test]
fn the_index_comes_before_the_data_and_names_the_colours() {
    let (_, bytes) = file(VideoShape { width: 64, height: 64, frames: 2, fps: 16.0 });
    let at = |kind: &[u8]| bytes.windows(kind.len()).position(|w| w == kind).unwrap();
    assert!(at(b"ftyp") == 4 && at(b"moov") < at(b"mdat"));
    // Primaries of BT.709, sRGB transfer, matrix of BT.601, limited range.
    assert_eq!(bytes[at(b"colr")..][..15], *b"colrnclx\0\x01\0\x0d\0\x06\0");
}

#[test]
fn the_same_frames_make_the_same_file() {
    let shape = VideoShape { width: 64, height: 64, frames: 9, fps: 16.0 };
    assert!(file(shape).1 == file(shape).1);
}

#[test]
fn start_codes_are_removed_and_nothing_else() {
    assert_eq!(payload(&[0, 0, 0, 1, 0x67, 0, 0, 1]), [0x67, 0, 0, 1]);
    assert_eq!(payload(&[0, 0, 1, 0x68]), [0x68]);
    assert_eq!(payload(&[0x65, 0, 0, 1]), [0x65, 0, 0, 1]);
    assert_eq!(payload(&[]), [0; 0]);
}
