//! Coded files: the samples that the encoder was given, at their times.

use magcache_audio::{Recording, SoundFile, read_mono};

use crate::support::{centre, changed, fixture};

/// Name, rate, samples, and the place of the click as ffmpeg 5.1.9 decodes it; libsndfile 1.2 gives the same
/// places for MP3, Ogg and FLAC. What encoders put in front of the first sample is left out where the file
/// knows it: `untagged.mp3` and `click.aac` do not.
const FILES: [(&str, u32, usize, f64); 8] = [
    ("click.mp3", 44_100, 35_280, 0.5),
    ("low.mp3", 22_050, 17_640, 0.5),
    ("untagged.mp3", 44_100, 36_864, 0.525_06),
    ("click.m4a", 44_100, 35_280, 0.5),
    ("alac.m4a", 44_100, 35_280, 0.5),
    ("click.aac", 48_000, 39_936, 0.521_33),
    ("click.ogg", 44_100, 35_280, 0.499_99),
    ("click.flac", 44_100, 35_280, 0.5),
];

#[test]
fn a_click_is_where_other_decoders_find_it() {
    for (name, rate, samples, place) in FILES {
        let recording = Recording::read(&fixture(name), None).unwrap();
        let got = centre(&recording.mono(), recording.rate);
        assert_eq!(recording.rate, rate, "{name}");
        assert!((got - place).abs() < 0.0005, "{name}: {got}, expected {place}");
        let there = recording.samples.len() / recording.channels;
        assert!(there.abs_diff(samples) <= 45, "{name}: {there} samples, expected {samples}");
        let sixteen = read_mono(&fixture(name), 16_000, None).unwrap();
        let got = centre(&sixteen, 16_000);
        assert!((got - place).abs() < 0.0005, "{name} at 16 kHz: {got}, expected {place}");
    }
}

#[test]
fn the_loudness_is_that_of_the_original() {
    for (name, ..) in FILES {
        let peak =
            Recording::read(&fixture(name), None).unwrap().samples.iter().fold(0f32, |a, b| a.max(b.abs()));
        assert!((0.6..0.9).contains(&peak), "{name}: {peak}");
    }
}

#[test]
fn files_say_how_long_they_are() {
    for (name, rate, samples, _) in FILES {
        let Some(seconds) = SoundFile::open(&fixture(name)).unwrap().seconds() else {
            assert!(["untagged.mp3", "click.aac"].contains(&name), "{name}");
            continue;
        };
        let expected = samples as f64 / f64::from(rate);
        assert!((seconds - expected).abs() < 0.0015, "{name}: {seconds}, expected {expected}");
    }
}

/// Half a second of silence and a quarter of noise, which its first frames do not let one guess.
#[test]
fn an_mp3_without_a_header_is_as_long_as_its_frames() {
    let recording = Recording::read(&fixture("growing.mp3"), None).unwrap();
    assert_eq!((recording.rate, recording.samples.len()), (22_050, 31 * 576));
}

#[test]
fn the_edit_list_says_what_is_heard() {
    let edited = |edit: fn(&mut [u8])| {
        let file = changed("click.m4a", |bytes| {
            let at = bytes.windows(4).position(|word| word == b"elst").unwrap() + 12;
            assert_eq!(bytes[at..at + 8], [800u32.to_be_bytes(), 1024u32.to_be_bytes()].concat());
            edit(&mut bytes[at..at + 8]);
        });
        Recording::read(file.path(), None).unwrap()
    };
    // A millisecond may have been rounded away.
    let half = edited(|edit| edit[..4].copy_from_slice(&600u32.to_be_bytes()));
    assert_eq!(half.samples.len(), 26_460 + 44);
    assert!((centre(&half.samples, 44_100) - 0.5).abs() < 0.0005);
    let all = edited(|edit| edit[4..].fill(0));
    assert!((centre(&all.samples, 44_100) - 0.5 - 1024.0 / 44_100.0).abs() < 0.0005);
}

#[test]
fn what_lies_around_the_sound_of_an_mp3_is_passed_over() {
    let plain = Recording::read(&fixture("click.mp3"), None).unwrap();
    // A tag in front, with a picture's worth of bytes, and one behind.
    let tagged = changed("click.mp3", |bytes| {
        bytes.splice(..0, [&b"ID3\x03\0\0\0\0\x08\0TIT2\0\0\0\x02\0\0\0a"[..], &[0; 1024 - 12]].concat());
        bytes.extend(*b"TAG");
        bytes.extend([0; 125]);
    });
    assert_eq!(Recording::read(tagged.path(), None).unwrap(), plain);
}

/// The first packets of a piece cut out of a stream need data that lies before it.
#[test]
fn an_mp3_that_was_cut_out_of_another_is_read() {
    let whole = Recording::read(&fixture("untagged.mp3"), None).unwrap();
    let (packet, gone) = (157, 3 * 157);
    let piece = changed("untagged.mp3", |bytes| {
        let next = (gone - packet..bytes.len()).find(|at| bytes[*at..*at + 2] == [0xff, 0xfb]).unwrap();
        bytes.drain(..next);
    });
    let piece = Recording::read(piece.path(), None).unwrap();
    let missing = whole.samples.len() - piece.samples.len();
    assert!([2304, 3456].contains(&missing), "{missing}");
    assert!(
        (centre(&piece.samples, 44_100) - centre(&whole.samples, 44_100) + missing as f64 / 44_100.0).abs()
            < 1e-4
    );
}
