//! Runs that are killed at random times: the same command resumes, and its output is that of an uninterrupted
//! run.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use program::{answer, magcache, refused};
use safetensors::SafeTensors;
use serde_json::Value;

const STATE: &str = "state/state.safetensors";

/// A run and the files that it writes.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    config: &'static str,
    out: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "video, FBCache and TaylorSeer in bf16",
        args: &["--steps", "24", "--frames", "9", "--size", "48x48"],
        config: "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\nforecast = { type = \"taylor\" }\n[residuals]\ndtype = \"bf16\"",
        out: "out.mp4",
    },
    Case {
        name: "two experts, one of them on disk, EasyCache around the forward",
        args: &[
            "--model",
            "wan2.2-t2v-tiny",
            "--offload",
            "disk",
            "--steps",
            "20",
            "--frames",
            "5",
            "--size",
            "48x48",
        ],
        config: "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.3",
        out: "frames",
    },
    Case {
        name: "Flux from an image, modules",
        args: &["--model", "tiny-flux", "--steps", "24", "--image", "image.png", "--strength", "0.8"],
        config: "[[cache]]\nstrategy = \"schedule\"\nat = \"attn\"\nskip = [8, 9, 11, 12, 14, 16]",
        out: "out.png",
    },
    Case {
        name: "image to video, a CFG cache around MagCache",
        args: &["--model", "wan2.2-i2v-tiny", "--steps", "20", "--frames", "5", "--size", "48x48"],
        config: "[[cache]]\nstrategy = \"cfg-cache\"\n[[cache]]\nstrategy = \"magcache\"\nthreshold = 0.2",
        out: "out.gif",
    },
];

/// `xorshift64*`: the same sequence of kill times every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let fraction = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64;
        end.mul_f64(fraction)
    }
}

impl Case {
    /// A folder with the run's input files.
    fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.toml"), self.config).unwrap();
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images/rgb.png");
        fs::copy(image, folder.path().join("image.png")).unwrap();
        folder
    }

    fn args(&self, more: &[&'static str]) -> Vec<&'static str> {
        let own = ["run", "--config", "run.toml", "--out", self.out, "--trace", "trace.jsonl"];
        [&own[..], self.args, more].concat()
    }

    fn checkpointed(&self) -> Vec<&'static str> {
        self.args(&["--checkpoint", "state"])
    }
}

/// Every file that a run left in a folder, by name; traces without their times.
fn left(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path.clone());
                all.insert(path.strip_prefix(folder).unwrap().join(""), Vec::new());
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            if path.ends_with("trace.jsonl") {
                let lines = String::from_utf8(bytes).unwrap();
                let timeless = lines.lines().map(|line| {
                    let mut line: Value = serde_json::from_str(line).unwrap();
                    assert!(line.as_object_mut().unwrap().remove("microseconds").unwrap().is_number());
                    line.to_string() + "\n"
                });
                bytes = timeless.collect::<String>().into_bytes();
            }
            all.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
        }
    }
    all
}

/// The `--json` output without times.
fn timeless(mut answer: Value) -> Value {
    for key in ["seconds", "transformer_seconds", "resumed_at", "text_keys_values"] {
        assert!(answer.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    answer
}

/// Checks that the state in a folder, if any, is complete; returns the step at which the run would resume.
fn stored_step(folder: &Path) -> Option<usize> {
    let state = folder.join("state");
    let names: Vec<_> = fs::read_dir(&state).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
    let known = |name: &std::ffi::OsString| name == "state.safetensors" || name == "state.safetensors.part";
    assert!(names.iter().all(known), "{names:?}");
    let bytes = fs::read(folder.join(STATE)).ok()?;
    SafeTensors::deserialize(&bytes).expect("a state that has its name is whole");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    Some(header.metadata().as_ref().unwrap()["state/next"].parse().unwrap())
}

/// Counts how often runs were killed, and when.
#[derive(Debug, Default)]
struct Killed {
    kills: usize,
    /// Kills before the first state, with a state between two steps, with one after the last step, and after
    /// its removal.
    phases: [usize; 4],
}

/// Kills a run at random times, up to `at_most` times in a row, then lets it finish and compares the output.
fn kill(case: &Case, random: &mut Random, at_most: usize, total: &mut Killed) {
    let unbroken = case.folder();
    let started = Instant::now();
    let expected = answer(&case.args(&[]), unbroken.path());
    let whole = started.elapsed();
    assert_eq!(expected["resumed_at"], Value::Null);
    let expected = (timeless(expected), left(unbroken.path()));
    assert!(
        expected.0["skipped"].as_object().unwrap().values().any(|s| s != &serde_json::json!([]))
            || case.out == "out.png"
    );

    let folder = case.folder();
    let mut kills = 0;
    let mut last = None;
    while kills < at_most {
        let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
        run.args(case.checkpointed()).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = run.spawn().unwrap();
        thread::sleep(random.below(whole));
        let ended = run.try_wait().unwrap();
        if ended.is_some() {
            break;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        kills += 1;
        let step = stored_step(folder.path());
        if step.is_none() && folder.path().join("trace.jsonl").exists() {
            // The outputs exist and the state is gone: only the run's report was missing.
            total.phases[3] += 1;
            let _ = fs::remove_dir(folder.path().join("state"));
            break;
        }
        assert!(step >= last, "{}: step {step:?} after {last:?}: a state was lost", case.name);
        last = step;
        let steps: usize =
            case.args[case.args.iter().position(|a| *a == "--steps").unwrap() + 1].parse().unwrap();
        total.phases[step.map_or(0, |step| 1 + usize::from(step == steps))] += 1;
    }
    total.kills += kills;
    let ended = !folder.path().join(STATE).exists() && folder.path().join("trace.jsonl").exists();
    if !ended {
        let done = answer(&case.checkpointed(), folder.path());
        assert_eq!(done["resumed_at"].as_u64().map(|n| n as usize), last, "{}", case.name);
        assert_eq!(timeless(done), expected.0, "{} after {kills} kills", case.name);
    }
    let got = left(folder.path());
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&expected.1), "{} after {kills} kills", case.name);
    for (name, bytes) in &got {
        assert!(bytes == &expected.1[name], "{} after {kills} kills: {} differs", case.name, name.display());
    }
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let mut random = Random(29);
    let mut killed = Killed::default();
    for case in &CASES {
        kill(case, &mut random, 2, &mut killed);
    }
    assert!(killed.kills >= 4, "{killed:?}");
}

/// `cargo test --release --workspace --test resume -- --nocapture fifty_kills` prints the numbers. Which
/// moments are hit depends on the speed of the machine, so the test continues until each kind was hit.
#[test]
#[allow(clippy::print_stderr, reason = "numbers for the record")]
fn fifty_kills() {
    let mut random = Random(50);
    let mut killed = Killed::default();
    let mut runs = 0;
    while runs < 400 && (killed.kills < 50 || killed.phases[..3].contains(&0)) {
        for case in &CASES {
            kill(case, &mut random, 4, &mut killed);
            runs += 1;
        }
    }
    let [none, between, after, done] = killed.phases;
    eprintln!(
        "{} kills of {runs} runs: {none} before the first state, {between} between steps, {after} after the last, {done} \
         after the outputs",
        killed.kills
    );
    assert!(killed.kills >= 50 && none > 0 && between > 0 && after > 0, "{killed:?}");
}

/// A run that was stopped at about its fourth step.
fn stopped(case: &Case) -> tempfile::TempDir {
    let folder = case.folder();
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    run.args(case.checkpointed()).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    while stored_step(folder.path()).is_none_or(|step| step < 4) {
        assert!(run.try_wait().unwrap().is_none(), "the run ended before it was stopped");
        thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    folder
}

#[test]
fn another_run_a_damaged_and_a_foreign_file_are_refused_and_kept() {
    let case = &CASES[0];
    let folder = stopped(case);
    let d = folder.path();
    let whole = fs::read(d.join(STATE)).unwrap();
    let step = stored_step(d).unwrap();

    let other = case.args(&["--checkpoint", "state", "--seed", "7"]);
    let other: Vec<_> = other.into_iter().map(|arg| if arg == "24" { "25" } else { arg }).collect();
    let expected = [
        "holds another run",
        "sampling.steps is 24 there and 25 here",
        "sampling.seed is 42 there and 7 here",
    ];
    refused(&other, d, &[&expected[..], &["hint: name another --checkpoint DIR, or delete"]].concat());

    let config = fs::read_to_string(d.join("run.toml")).unwrap();
    fs::write(d.join("run.toml"), config.replace("0.3", "0.25").replace("bf16", "f16")).unwrap();
    let args = case.args(&["--checkpoint", "state"]);
    refused(
        &args,
        d,
        &["cache[0].threshold is 0.3 there and 0.25 here", "residuals.dtype is \"bf16\" there"],
    );
    fs::write(d.join("run.toml"), config).unwrap();

    for damaged in [&whole[..whole.len() / 2], &whole[..7], b"", b"not a state"] {
        fs::write(d.join(STATE), damaged).unwrap();
        refused(&args, d, &["is not the state of a run", "hint: name another --checkpoint DIR"]);
        assert_eq!(fs::read(d.join(STATE)).unwrap(), damaged);
    }
    let weights = "../magcache-models/tiny/wan2.1-t2v-tiny/transformer/diffusion_pytorch_model.safetensors";
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(weights), d.join(STATE)).unwrap();
    refused(&args, d, &["is not the state of a run: its header does not say so"]);

    let plain = [&args[..], &["--reference-ops"]].concat();
    fs::write(d.join(STATE), &whole).unwrap();
    refused(&plain, d, &["reference_ops is false there and true here"]);

    // None of this damaged the state, and a folder that already existed is kept.
    fs::write(d.join(STATE), &whole).unwrap();
    fs::write(d.join("state/mine.txt"), "").unwrap();
    assert_eq!(answer(&case.checkpointed(), d)["resumed_at"], step);
    assert_eq!(fs::read_dir(d.join("state")).unwrap().count(), 1);
}

#[test]
fn a_folder_serves_one_run_at_a_time_and_an_interrupted_run_goes_on() {
    let case = &CASES[1];
    let folder = case.folder();
    let d = folder.path();
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    let args = case.args(&["--checkpoint", "state", "--checkpoint-every", "3"]);
    run.args(&args).current_dir(d).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    while stored_step(d).is_none_or(|step| step < 3) {
        assert!(run.try_wait().unwrap().is_none(), "the run ended before it was stopped");
        thread::sleep(Duration::from_millis(2));
    }
    let second = magcache(&args, d);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another run is using the folder state"));

    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    let out = run.wait_with_output().unwrap();
    let step = stored_step(d).unwrap();
    assert_eq!(out.status.code(), Some(130));
    assert!(step.is_multiple_of(3));
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(message.contains(&format!("the same command continues at step {step} of 20")), "{message}");

    let again = magcache(&args, d);
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.success() && message.contains(&format!("continues at step {step} of 20")),
        "{message}"
    );
    assert!(!d.join("state").exists());
    let unbroken = case.folder();
    answer(&case.args(&[]), unbroken.path());
    assert!(left(d) == left(unbroken.path()));
}

#[test]
fn a_run_killed_after_its_outputs_finds_them() {
    let case = &CASES[1];
    let folder = stopped(case);
    let d = folder.path();
    // The state after the last step next to the finished folder, as a kill between the two leaves them.
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    run.args(case.checkpointed()).current_dir(d).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let mut last = Vec::new();
    while run.try_wait().unwrap().is_none() {
        if let Ok(state) = fs::read(d.join(STATE)) {
            last = state;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let before = left(d);
    fs::create_dir(d.join("state")).unwrap();
    fs::write(d.join(STATE), last).unwrap();
    assert_eq!(stored_step(d), Some(20));
    fs::write(d.join(".frames.abcdef.part"), "").unwrap();
    assert_eq!(answer(&case.checkpointed(), d)["resumed_at"], 20);
    assert!(left(d) == before);
    // A folder with anything that the run did not write is left alone.
    fs::write(d.join("frames/mine.txt"), "").unwrap();
    refused(&case.checkpointed(), d, &[]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_refused_and_a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    refused(&["run", "--checkpoint", "/proc/nowhere"], folder.path(), &["/proc"]);
    refused(&["run", "--checkpoint", "state", "--checkpoint-every", "0"], folder.path(), &["0"]);
    answer(&["run", "--checkpoint", "state", "--dry-run"], folder.path());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
