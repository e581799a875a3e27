//! Speech to video: clips, sound and what can be wrong with a recording.

use std::fs;

use magcache_audio::Recording;
use serde_json::Value;

use crate::program::{Shell, list};

const RUN: &str = "run --model wan2.2-s2v-tiny --steps 2";

/// 16-bit PCM of one channel.
fn wav(rate: u32, samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    for number in [rate, 2 * rate] {
        file.extend(number.to_le_bytes());
    }
    file.extend(b"\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

/// A tone that begins after `silent` seconds.
fn tone(rate: u32, silent: f64, seconds: f64) -> Vec<u8> {
    let at = |i: u32| {
        let time = f64::from(i) / f64::from(rate);
        if time < silent { 0 } else { (12_000.0 * (time * 2_764.6).sin()) as i16 }
    };
    wav(rate, &(0..(seconds * f64::from(rate)) as u32).map(at).collect::<Vec<_>>())
}

/// Seconds of a file until its sound is loud.
fn onset(recording: &Recording) -> f64 {
    let first = recording.mono().iter().position(|x| x.abs() > 0.1).expect("it has a sound");
    first as f64 / f64::from(recording.rate)
}

#[test]
fn clips_are_written_with_their_sound_in_step_or_as_published() {
    let sh = Shell::new();
    // Frames of a sixteenth of a second; three of the first clip are cut off.
    sh.write("talk.wav", tone(22_050, 1.0, 3.0));
    let line = |mode: &str| format!("{RUN} --audio talk.wav --clips 2 --sound {mode} --out {mode}.mp4");
    for (mode, at) in [("in-sync", 1.0 - 3.0 / 16.0), ("published", 1.0)] {
        sh.answer(line(mode));
        let heard = Recording::read(&sh.path(&format!("{mode}.mp4")), None).unwrap();
        assert!((onset(&heard) - at).abs() < 0.01, "{mode}: {}", onset(&heard));
        assert!((heard.seconds() - 29.0 / 16.0).abs() < 0.03, "{mode}: {} s", heard.seconds());
    }
    sh.answer(line("none"));
    assert!(Recording::read(&sh.path("none.mp4"), None).is_err(), "there is no sound");
    // Beside what holds no sound; nothing is cut off of a video that begins with the picture.
    sh.answer(format!("{RUN} --audio talk.wav --clips 1 --start-from-ref --out from.gif"));
    let beside = Recording::read(&sh.path("from.wav"), None).unwrap();
    assert!((beside.seconds() - 1.0).abs() < 1e-3, "{} s", beside.seconds());
}

#[test]
fn as_many_clips_as_the_recording_lasts() {
    let sh = Shell::new();
    // 16 frames a clip: a recording that fills one exactly gives two.
    for (seconds, clips, frames) in [(0.9, 1, 13), (1.1, 2, 29), (2.5, 3, 45)] {
        sh.write("talk.wav", tone(16_000, 0.0, seconds));
        sh.answer(format!(
            "{RUN} --audio talk.wav --out frames --trace t.jsonl --cache schedule --set skip=[1] --overwrite"
        ));
        assert_eq!(fs::read_dir(sh.path("frames")).unwrap().count(), frames, "{seconds} s");
        fs::remove_dir_all(sh.path("frames")).unwrap();
        let lines = sh.trace("t.jsonl");
        assert_eq!(lines.len(), 2 * 2 * clips, "two steps of two branches for each clip");
        let last = lines.last().unwrap();
        assert_eq!(last["step"], 1);
        assert_eq!(last.get("clip").cloned(), (clips > 1).then(|| Value::from(clips - 1)), "{last}");
        assert!(lines.iter().all(|line| (line["decision"] == "reuse") == (line["step"] == 1)));
    }
}

#[test]
fn a_recording_that_cannot_be_used_is_refused_before_anything_is_written() {
    let sh = Shell::new();
    sh.write("empty.wav", wav(16_000, &[]));
    sh.write("short.wav", tone(16_000, 0.0, 0.03));
    sh.write("text.wav", "hello, world");
    let whole = tone(16_000, 0.0, 1.0);
    sh.write("cut.wav", &whole[..whole.len() / 2]);
    sh.write("silent.wav", wav(8_000, &[0; 8_000]));
    sh.write("pose.mp4", "no video");
    sh.write("long.wav", wav(1_000, &vec![1_000; 3 * 3_600 * 1_000]));
    for (args, error) in [
        ("--audio missing.wav", "missing.wav"),
        ("--audio empty.wav", "empty.wav"),
        ("--audio short.wav", "480 samples at 16 kHz"),
        ("--audio text.wav", "text.wav"),
        ("--audio cut.wav", "cut.wav"),
        ("--audio long.wav", "the recording is longer than 1800 seconds"),
        ("--audio silent.wav --pose pose.mp4", "pose.mp4"),
        ("--frames 15", "15 frames per clip, expected a multiple of 4"),
        ("--clips 0", "0 clips"),
        ("--fps 24", "`fps` is 24, the sound goes with 16 frames a second"),
        ("--last-image x.png", "x.png"),
    ] {
        let report = sh.document(format!("{RUN} {args} --out out.mp4"), 2);
        let told = report["error"].as_str().unwrap();
        assert!(told.contains(error), "{args}: {report}");
        assert!(!sh.path("out.mp4").exists() && !sh.path("out.mp4.toml").exists(), "{args}");
    }
    // Silence is a recording like any other.
    sh.answer(format!("{RUN} --audio silent.wav --clips 1 --out silent.mp4"));
    // And no other model takes one.
    let report = sh.document("run --model wan2.1-t2v-tiny --audio silent.wav --out out.mp4", 2);
    assert_eq!(report["hint"], "remove the recording");
}

#[test]
fn budgets_and_baselines_count_the_steps_of_a_clip() {
    let sh = Shell::new();
    sh.write("half.toml", "[[cache]]\nstrategy = 'schedule'\nskip = [1, 2]\n");
    let line = "--model wan2.2-s2v-tiny --steps 4 --clips 2";
    let found = sh.answer(format!("compare {line} half.toml --out out"));
    let names: Vec<&str> = list(&found["rows"]).iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense", "half", "2 steps"]);
    let line = "run --model wan2.2-s2v-tiny --steps 8 --clips 2 --cache magcache";
    let found = sh.answer(format!("{line} --budget 5 --out budget.mp4"));
    assert_eq!((&found["planned"]["computed"], &found["planned"]["steps"]), (&5.0.into(), &8.into()));
    sh.refused(format!("{line} --budget 9 --out none.mp4"), ["a budget of 9 computed steps, the run has 8"]);
}
