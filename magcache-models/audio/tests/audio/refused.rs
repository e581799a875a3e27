//! What is no recording, in words.

use std::{fs, path::Path};

use magcache_audio::{AudioError, SoundTrack, wav};

use crate::support::{changed, file, fixture, refusal};

#[test]
fn files_without_sound_are_named_for_what_they_are() {
    let text = file(b"a poem about the sea, which is longer than a header of any format\n");
    assert!(matches!(refusal(text.path()), AudioError::NotARecording { .. }), "{}", refusal(text.path()));
    assert!(matches!(refusal(file(b"").path()), AudioError::Empty { .. }));
    assert!(matches!(refusal(Path::new("/nowhere/at/all.wav")), AudioError::Io { .. }));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(refusal(folder.path()), AudioError::Io { .. }));
    let video = refusal(&fixture("silent.mp4"));
    assert_eq!(
        video.to_string().split("fixtures/").last().unwrap(),
        "silent.mp4 has no sound: none of its 1 tracks is audio"
    );
    assert_eq!(video.hint().unwrap(), "name a file that has sound");
    let opus = refusal(&fixture("opus.ogg"));
    assert!(opus.to_string().ends_with("opus.ogg: its sound cannot be decoded: Opus"), "{opus}");
    assert_eq!(opus.hint().unwrap(), "convert it to WAV or FLAC");
}

#[test]
fn files_that_end_early_say_how_much_is_there() {
    for (name, part) in
        [("click.mp3", 3000), ("click.m4a", 0), ("alac.m4a", 0), ("click.flac", 500), ("low.mp3", 1500)]
    {
        let cut = changed(name, |bytes| {
            // The index of these M4A files lies behind the samples, so that nothing is left of it.
            let half = if part == 0 { bytes.len() / 2 } else { part };
            bytes.truncate(half);
        });
        let error = refusal(cut.path());
        match error {
            AudioError::Cut { promised, there, .. } => {
                assert!((promised - 0.8).abs() < 0.002 && there < 0.7, "{name}: {error}");
            }
            AudioError::NotARecording { .. } => assert_eq!(part, 0, "{name}: {error}"),
            AudioError::Damaged { .. } => assert_eq!(name, "click.flac", "{error}"),
            error => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn a_piece_has_a_place_and_a_length() {
    let path = fixture("click.flac");
    for (start, seconds) in [(-1.0, 1.0), (0.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
        assert!(matches!(SoundTrack::cut(&path, start, seconds), Err(AudioError::BadPiece { .. })));
        assert!(matches!(wav::cut(&path, start, seconds), Err(AudioError::BadPiece { .. })));
    }
    for name in ["click.flac", "click.mp3", "click.m4a"] {
        let error = SoundTrack::cut(&fixture(name), 0.8, 1.0).unwrap_err();
        let AudioError::StartsBehindEnd { end, .. } = error else { panic!("{name}: {error}") };
        assert!((end - 0.8).abs() < 0.002, "{name}: {end}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let path = file(b"RIFF");
    fs::set_permissions(path.path(), fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything; then the content is what is wrong.
    let error = refusal(path.path());
    assert!(matches!(error, AudioError::Io { .. } | AudioError::NotARecording { .. }), "{error}");
}
