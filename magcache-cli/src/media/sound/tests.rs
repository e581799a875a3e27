//! A click in a recording and a flash in a video, written together and read again.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use magcache_audio::{Recording, wav};
use mp4::{Mp4Reader, TrackType};

use super::super::{Destination, MediaError, VideoReader, VideoShape};
use super::*;

/// Where the click of every recording is, in seconds.
const CLICK: f64 = 0.5;
/// Frames per second.
const FPS: f64 = 16.0;
/// Where a recording begins in a video that lacks its first three frames.
const IN_STEP: f64 = 3.0 / FPS;

/// The recordings that the audio crate is tested with; the delay of a plain AAC stream is unknown to all
/// readers.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../magcache-models/audio/tests/fixtures").join(name)
}

/// A WAV file of 0.8 s with the click.
fn recording(folder: &Path, rate: u32, channels: usize) -> PathBuf {
    let path = folder.join(format!("click-{rate}-{channels}.wav"));
    let sample = |n: usize| {
        let time = n as f64 / f64::from(rate) - CLICK;
        let inside = time.abs() < 0.001;
        if inside { 0.8 * (time * 2000.0 * std::f64::consts::TAU).cos() as f32 } else { 0.0 }
    };
    let plane: Vec<f32> = (0..rate as usize * 8 / 10).map(sample).collect();
    wav::write(&mut fs::File::create(&path).unwrap(), rate, &vec![plane; channels]).unwrap();
    path
}

/// `frames` grey frames, of which one is white.
fn flash(shape: VideoShape, at: usize) -> Vec<RgbImage> {
    let frame = |i| RgbImage::from_pixel(shape.width, shape.height, Rgb([if i == at { 255 } else { 40 }; 3]));
    (0..shape.frames).map(frame).collect()
}

fn shape(frames: usize) -> VideoShape {
    VideoShape { width: 32, height: 32, frames, fps: FPS }
}

fn written(path: PathBuf, frames: usize, flash_at: usize, sound: &Path, start: f64) -> PathBuf {
    let shape = shape(frames);
    let target = Destination::prepare(path, shape).unwrap().with_sound(sound, start).unwrap();
    super::super::testing::write(&target, &flash(shape, flash_at))
}

/// When a video shows its flash, in seconds.
fn flash_time(path: &Path) -> f64 {
    let reader = VideoReader::open(path).unwrap();
    let fps = reader.fps().unwrap_or(FPS);
    let bright = |picture: &magcache_models::image::Picture| picture.rgb8()[0] > 200;
    let at: Vec<_> =
        reader.map(Result::unwrap).enumerate().filter(|(_, p)| bright(p)).map(|(i, _)| i).collect();
    assert_eq!(at.len(), 1, "flashes");
    at[0] as f64 / fps
}

/// When a recording clicks, in seconds, and how long it is.
fn click_time(path: &Path) -> (f64, f64) {
    let sound = Recording::read(path, None).unwrap();
    let energy = |sample: &f32| f64::from(*sample).powi(2);
    let mono = sound.mono();
    let all: f64 = mono.iter().map(energy).sum();
    let moment: f64 = mono.iter().enumerate().map(|(n, sample)| n as f64 * energy(sample)).sum();
    (moment / all / f64::from(sound.rate), sound.seconds())
}

#[test]
fn the_click_is_heard_in_the_frame_that_it_belongs_to() {
    let root = tempfile::tempdir().unwrap();
    let recordings =
        [(8000, 1), (44_100, 2), (48_000, 1), (96_000, 1)].map(|(rate, n)| recording(root.path(), rate, n));
    let coded = ["click.mp3", "low.mp3", "click.m4a", "click.ogg", "click.flac"].map(fixture);
    for sound in recordings.iter().chain(&coded) {
        // Frame n shows the time (n + 3) / 16 of the recording if the first three frames were dropped.
        for (start, frame) in [(0.0, 8), (IN_STEP, 5)] {
            let path = written(root.path().join("a.mp4"), 10, frame, sound, start);
            let (flash, (click, seconds)) = (flash_time(&path), click_time(&path));
            let name = sound.file_name().unwrap().display();
            assert_eq!(flash, frame as f64 / FPS);
            assert!((flash - click).abs() < 0.001, "{name} from {start}: flash at {flash}, click at {click}");
            // As long as the video, or as the recording.
            let expected = (10.0 / FPS).min(0.8 - start);
            assert!((seconds - expected).abs() < 0.0015, "{name} from {start}: {seconds} s");
        }
    }
}

/// What another reader finds in the index.
#[test]
fn the_index_describes_the_sound() {
    let root = tempfile::tempdir().unwrap();
    let wav = recording(root.path(), 48_000, 2);
    for (sound, kind, rate, channels, per_packet, skip) in [
        (wav, 0x40, 48_000, 2, 1024, 1024),
        (fixture("click.mp3"), 0x6b, 44_100, 1, 1152, 1105),
        (fixture("low.mp3"), 0x69, 22_050, 1, 576, 1105),
        (fixture("click.m4a"), 0x40, 44_100, 1, 1024, 1024),
    ] {
        let bytes = fs::read(written(root.path().join("a.mp4"), 10, 0, &sound, 0.0)).unwrap();
        let mut reader = Mp4Reader::read_header(std::io::Cursor::new(&bytes), bytes.len() as u64).unwrap();
        assert_eq!((reader.moov.mvhd.duration, reader.moov.mvhd.next_track_id), (10_000, 3));
        let track = &reader.tracks()[&2];
        assert_eq!(track.track_type().unwrap(), TrackType::Audio);
        assert_eq!(
            (track.timescale(), track.trak.tkhd.duration, track.trak.tkhd.volume.value()),
            (rate, 10_000, 1)
        );
        let edits = track.trak.edts.as_ref().unwrap().elst.as_ref().unwrap();
        let [edit] = &*edits.entries else { panic!("{:?}", edits.entries) };
        assert_eq!((edit.segment_duration, edit.media_time), (10_000, skip));
        let entry = track.trak.mdia.minf.stbl.stsd.mp4a.as_ref().unwrap();
        assert_eq!((entry.channelcount, u32::from(entry.samplerate.value())), (channels, rate));
        assert_eq!(entry.esds.as_ref().unwrap().es_desc.dec_config.object_type_indication, kind);
        let count = reader.sample_count(2).unwrap();
        let samples: Vec<_> = (1..=count).map(|id| reader.read_sample(2, id).unwrap().unwrap()).collect();
        assert!(samples.iter().all(|sample| sample.duration == per_packet));
        let heard = u64::from(count * per_packet);
        let wanted = skip + u64::from(rate) * 10 / 16;
        assert!((wanted..wanted + u64::from(per_packet)).contains(&heard), "{heard} ticks");
        // The packets themselves lie where the index says.
        if let Ok(original) = fs::read(&sound)
            && kind != 0x40
        {
            assert!(
                samples.iter().all(|s| original.windows(s.bytes.len()).any(|window| window == &*s.bytes))
            );
        }
    }
}

#[test]
fn other_formats_have_their_sound_beside_them() {
    let root = tempfile::tempdir().unwrap();
    let sound = fixture("click.mp3");
    for (name, beside, frames) in
        [("a.gif", "a.wav", 10), ("b.c/", "b.c.wav", 10), ("d", "d.wav", 10), ("e.png", "e.wav", 1)]
    {
        let path = format!("{}/{name}", root.path().display());
        fs::write(root.path().join(beside), "an earlier one").unwrap();
        let target = Destination::prepare(&path, shape(frames)).unwrap().with_sound(&sound, IN_STEP).unwrap();
        let beside = root.path().join(beside);
        assert_eq!(
            (target.sound_path(), sound_beside(Path::new(&path))),
            (Some(&*beside), Some(beside.clone()))
        );

        let mut dropped = target.writer().unwrap();
        dropped.push(&flash(shape(frames), 0)[0]).unwrap();
        drop(dropped);
        assert_eq!(fs::read(&beside).unwrap(), b"an earlier one");
        let written = super::super::testing::write(&target, &flash(shape(frames), 5));
        let heard = Recording::read(&beside, None).unwrap();
        let expected = (frames as f64 / FPS).min(0.8 - IN_STEP);
        assert!((heard.seconds() - expected).abs() < 0.0001, "{name}: {}", heard.seconds());
        if frames > 1 {
            assert!((click_time(&beside).0 - 5.0 / FPS).abs() < 0.001);
            assert!((flash_time(&written) - 5.0 / FPS).abs() < 0.01);
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 8, "nothing else is left");
    assert_eq!([sound_beside(Path::new("a.mp4")), sound_beside(Path::new("a.avi"))], [None, None]);
}

#[test]
fn folders_that_were_made_go_with_what_failed() {
    let root = tempfile::tempdir().unwrap();
    let target = Destination::prepare(root.path().join("new/a.gif"), shape(2)).unwrap();
    let target = target.with_sound(&fixture("click.flac"), 0.0).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "cutting leaves nothing");
    drop(target.writer().unwrap());
    assert!(target.writer().unwrap().finish().is_err());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn sound_that_cannot_be_cut_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let refused = |name: &str, sound: &Path, start: f64| {
        let target = Destination::prepare(root.path().join(name), shape(4)).unwrap();
        let error = target.with_sound(sound, start).unwrap_err();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        error
    };
    for name in ["a.mp4", "a.gif"] {
        let error = refused(name, &fixture("click.mp3"), 0.8);
        assert!(
            error.to_string().ends_with("the sound is asked for from 0.8 s on, the file ends at 0.800 s"),
            "{error}"
        );
        assert_eq!(magcache_core::hint::of(&error).unwrap(), "name a longer recording, or begin earlier");
        let error = refused(name, &fixture("silent.mp4"), 0.0);
        assert!(matches!(error, MediaError::Sound(magcache_audio::AudioError::NoSound { .. })), "{error}");
    }
    fs::create_dir(root.path().join("a.wav")).unwrap();
    let target = Destination::prepare(root.path().join("a.gif"), shape(4)).unwrap();
    let error = target.with_sound(&fixture("click.mp3"), 0.0).unwrap_err();
    assert!(matches!(error, MediaError::WrongKind { .. }), "{error}");
}
