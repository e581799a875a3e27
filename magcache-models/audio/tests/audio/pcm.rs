//! WAV files of every form.

use std::io::{Seek, SeekFrom, Write};

use magcache_audio::{AudioError, MAX_SAMPLES, Recording, SoundFile, read_mono, wav};

use crate::support::{MONO, Wav, click, file, refusal};

fn samples(wav: Wav, data: &[u8]) -> Vec<f32> {
    let recording = Recording::read(file(&wav.holding(data)).path(), None).unwrap();
    assert_eq!((recording.rate, recording.channels), (wav.rate, usize::from(wav.channels)));
    recording.samples
}

#[test]
fn integers_and_floats_have_their_values() {
    let bits = |bits| Wav { bits, ..MONO };
    assert_eq!(samples(bits(8), &[0, 128, 192, 255]), [-1.0, 0.0, 0.5, 127.0 / 128.0]);
    assert_eq!(samples(bits(16), &[0, 128, 0, 0, 1, 0, 0, 64]), [-1.0, 0.0, 1.0 / 32768.0, 0.5]);
    assert_eq!(samples(bits(24), &[0, 0, 128, 1, 0, 0, 0, 0, 64]), [-1.0, 0.5f32.powi(23), 0.5]);
    assert_eq!(samples(bits(32), &[0, 0, 0, 128, 0, 0, 0, 64]), [-1.0, 0.5]);
    let floats: Vec<u8> = [1.5f32, -1e-9].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(samples(Wav { kind: 3, bits: 32, ..MONO }, &floats), [1.5, -1e-9]);
    let doubles: Vec<u8> = [1.5f64, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(samples(Wav { kind: 3, bits: 64, ..MONO }, &doubles), [1.5, -0.25]);
}

#[test]
fn channels_are_averaged_and_then_resampled() {
    let surround = Wav { channels: 8, rate: 48_000, ..MONO };
    let frame: Vec<u8> = (1..=8i16).flat_map(|c| (c * 1024).to_le_bytes()).collect();
    let path = file(&surround.holding(&frame));
    assert_eq!(read_mono(path.path(), 48_000, None).unwrap(), [4.5 * 1024.0 / 32768.0]);
    assert_eq!(Recording::read(path.path(), None).unwrap().mono(), [4.5 * 1024.0 / 32768.0]);

    let stereo = Wav { channels: 2, rate: 44_100, ..MONO };
    let sound = click(44_100, 0.3, 0.1);
    let path = file(&stereo.of(&sound));
    let recording = Recording::read(path.path(), None).unwrap();
    let mono = read_mono(path.path(), 16_000, None).unwrap();
    assert_eq!(mono.len(), 4800);
    assert_eq!(mono, recording.mono_at(16_000), "in blocks or at once");
    assert_eq!(recording.seconds(), 0.3);
}

#[test]
fn a_rate_of_192_khz_is_read() {
    let tone: Vec<f32> =
        (0..96_000).map(|n| 0.5 * (n as f32 / 192_000.0 * 440.0 * std::f32::consts::TAU).sin()).collect();
    let path = file(&Wav { rate: 192_000, ..MONO }.of(&tone));
    let mono = read_mono(path.path(), 16_000, None).unwrap();
    assert_eq!(mono.len(), 8000);
    for (n, sample) in mono.iter().enumerate().skip(200).take(7600) {
        let expected = 0.5 * (n as f32 / 16_000.0 * 440.0 * std::f32::consts::TAU).sin();
        assert!((sample - expected).abs() < 2e-4, "sample {n}: {sample} and {expected}");
    }
}

#[test]
fn silence_is_a_recording() {
    let path = file(&MONO.of(&[0.0; 1600]));
    assert_eq!(read_mono(path.path(), 16_000, None).unwrap(), [0.0; 1600]);
}

#[test]
fn a_sample_that_is_no_number_is_named() {
    let form = Wav { kind: 3, bits: 32, channels: 2, rate: 8000 };
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut values = vec![0.25f32; 20_000];
        values[16_001] = bad;
        let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let path = file(&form.holding(&data));
        let AudioError::NotFinite { sample, channel, value, seconds, .. } = refusal(path.path()) else {
            panic!("another error");
        };
        assert_eq!((sample, channel, value.to_bits(), seconds), (8000, 1, bad.to_bits(), 1.0));
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let refused = |bytes: &[u8]| refusal(file(bytes).path());
    assert!(matches!(refused(&MONO.holding(&[])), AudioError::NoSamples { .. }));
    assert!(matches!(refused(&Wav { rate: 500, ..MONO }.of(&[0.0; 9])), AudioError::Rate { rate: 500, .. }));
    let AudioError::Cut { promised, there, .. } = refused(&MONO.with_length(64_000, &[0; 16_000])) else {
        panic!("another error");
    };
    assert_eq!((promised, there), (2.0, 0.5));
}

/// A program that writes to a pipe does not know the length when it writes the header.
#[test]
fn a_header_that_knows_no_length_promises_nothing() {
    let path = file(&MONO.with_length(u32::MAX, &[1; 16_000]));
    assert_eq!(SoundFile::open(path.path()).unwrap().seconds(), None);
    assert_eq!(read_mono(path.path(), 16_000, None).unwrap().len(), 8000);
}

#[test]
fn only_what_is_asked_for_of_three_hours_is_read_and_five_are_too_long() {
    // Holes in a file cost no space.
    let long = |hours: u32| {
        let bytes = hours * 3600 * MONO.rate * 2;
        let mut file = file(&MONO.with_length(bytes, &[]));
        file.seek(SeekFrom::Current(i64::from(bytes) - 1)).unwrap();
        file.write_all(&[0]).unwrap();
        file
    };
    let three = long(3);
    assert_eq!(SoundFile::open(three.path()).unwrap().seconds(), Some(10_800.0));
    assert_eq!(read_mono(three.path(), 16_000, Some(2.0)).unwrap().len(), 32_000);
    assert_eq!(wav::cut(three.path(), 1.0, 0.5).unwrap().len(), 44 + 16_000);
    let five = long(5);
    let begun = std::time::Instant::now();
    for error in
        [read_mono(five.path(), 16_000, None).unwrap_err(), Recording::read(five.path(), None).unwrap_err()]
    {
        let AudioError::TooLong { seconds, .. } = error else { panic!("{error}") };
        assert_eq!(seconds, MAX_SAMPLES as f64 / 16_000.0);
    }
    assert!(begun.elapsed().as_secs_f64() < 0.5, "the header is enough to see it");
    assert_eq!(read_mono(five.path(), 16_000, Some(1.0)).unwrap().len(), 16_000);
}

#[test]
fn a_cut_is_written_as_it_was() {
    let sound = click(16_000, 0.5, 0.2);
    let path = file(&Wav { channels: 2, ..MONO }.of(&sound));
    let written = wav::cut(path.path(), 0.1, 0.2).unwrap();
    let again = Recording::read(file(&written).path(), None).unwrap();
    let whole = Recording::read(path.path(), None).unwrap();
    assert_eq!((again.rate, again.channels), (16_000, 2));
    assert_eq!(again.samples, whole.samples[2 * 1600..2 * 4800]);
    // Longer than the file: what there is.
    assert_eq!(wav::cut(path.path(), 0.4, 9.0).unwrap().len(), 44 + 4 * 1600);
    let AudioError::StartsBehindEnd { end, .. } = wav::cut(path.path(), 0.5, 9.0).unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(end, 0.5);
}

#[test]
fn surround_becomes_stereo_no_louder_than_before() {
    let mut out = Vec::new();
    wav::write(&mut out, 8000, &[vec![2.0, -2.0, 0.5 / 32768.0], vec![0.25; 3]]).unwrap();
    let again = Recording::read(file(&out).path(), None).unwrap();
    assert_eq!(
        again.samples,
        [32767.0 / 32768.0, 0.25, -1.0, 0.25, 1.0 / 32768.0, 0.25],
        "clipped and rounded"
    );

    // One channel at a time: left, right, middle, rumble, back left and right, side left and right.
    let surround = Wav { channels: 8, rate: 8000, ..MONO };
    let levels: Vec<[f32; 2]> = (0..8)
        .map(|loud| {
            let frame: Vec<u8> =
                (0..8).flat_map(|c| if c == loud { 16_384i16 } else { 0 }.to_le_bytes()).collect();
            let cut = wav::cut(file(&surround.holding(&frame)).path(), 0.0, 1.0).unwrap();
            let stereo = Recording::read(file(&cut).path(), None).unwrap();
            [stereo.samples[0], stereo.samples[1]]
        })
        .collect();
    let sum = 1.0 + 3.0 * std::f32::consts::FRAC_1_SQRT_2;
    let (front, behind) = (0.5 / sum, 0.5 / sum * std::f32::consts::FRAC_1_SQRT_2);
    let expected = [
        [front, 0.0],
        [0.0, front],
        [behind, behind],
        [0.0, 0.0],
        [behind, 0.0],
        [0.0, behind],
        [behind, 0.0],
        [0.0, behind],
    ];
    for (got, expected) in levels.iter().flatten().zip(expected.iter().flatten()) {
        assert!((got - expected).abs() < 1.0 / 32768.0, "{levels:?}");
    }
}
