//! Runs that are killed at random times: the same command resumes, and its output is that of an uninterrupted
//! run.

#[path = "support/program.rs"]
mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use program::{Shell, fixture, tiny};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const STATE: &str = "state/state.safetensors";

/// A run and the files that it writes.
struct Case {
    name: &'static str,
    /// Of each clip.
    steps: usize,
    clips: usize,
    args: &'static str,
    config: &'static str,
    out: &'static str,
}

const CASES: [Case; 5] = [
    Case {
        name: "video, FBCache and TaylorSeer in bf16",
        steps: 24,
        clips: 1,
        args: "--frames 9 --size 48x48",
        config: "residuals.dtype = 'bf16'\n[[cache]]\nstrategy = 'fbcache'\nthreshold = 0.3\nforecast.type = 'taylor'",
        out: "out.mp4",
    },
    Case {
        name: "two experts, one of them on disk, EasyCache around the forward",
        steps: 20,
        clips: 1,
        args: "--model wan2.2-t2v-tiny --offload disk --frames 5 --size 48x48",
        config: "[[cache]]\nstrategy = 'easycache'\nthreshold = 0.3",
        out: "frames",
    },
    Case {
        name: "Flux from an image, modules",
        steps: 24,
        clips: 1,
        args: "--model tiny-flux --image image.png --strength 0.8",
        config: "[[cache]]\nstrategy = 'schedule'\nat = 'attn'\nskip = [8, 9, 11, 12, 14, 16]",
        out: "out.png",
    },
    Case {
        name: "image to video, a CFG cache around MagCache",
        steps: 20,
        clips: 1,
        args: "--model wan2.2-i2v-tiny --frames 5 --size 48x48",
        config: "[[cache]]\nstrategy = 'cfg-cache'\n[[cache]]\nstrategy = 'magcache'\nthreshold = 0.2",
        out: "out.gif",
    },
    Case {
        name: "speech to video, three clips, FBCache",
        steps: 8,
        clips: 3,
        args: "--model wan2.2-s2v-tiny --clips 3",
        config: "[[cache]]\nstrategy = 'fbcache'\nthreshold = 0.3",
        out: "out.mp4",
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
    fn shell(&self) -> Shell {
        let sh = Shell::new();
        sh.write("run.toml", self.config);
        fs::copy(fixture("golden/pictures/pillow/rgb.png"), sh.path("image.png")).unwrap();
        sh
    }

    fn plain(&self) -> String {
        let Self { steps, args, out, .. } = self;
        format!("run --config run.toml --out {out} --trace trace.jsonl --steps {steps} {args}")
    }

    fn checkpointed(&self) -> String {
        self.plain() + " --checkpoint state"
    }

    /// Starts the run, with a state folder.
    fn started(&self, sh: &Shell, more: &str) -> Child {
        let mut run = sh.command(format!("{} {more}", self.checkpointed()));
        run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Every file and folder that a run left; the trace without its times.
fn left(sh: &Shell) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = sh.files();
    if let Some(trace) = all.get_mut(Path::new("trace.jsonl")) {
        let mut lines = sh.trace("trace.jsonl");
        for line in &mut lines {
            assert!(line.as_object_mut().unwrap().remove("microseconds").unwrap().is_number());
        }
        *trace = json!(lines).to_string().into_bytes();
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

/// Checks that the state, if any, is complete; returns the step at which the run would resume.
fn stored_step(sh: &Shell) -> Option<usize> {
    let entries = fs::read_dir(sh.path("state")).into_iter().flatten();
    let names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
    let known = |name: &std::ffi::OsString| name == "state.safetensors" || name == "state.safetensors.part";
    assert!(names.iter().all(known), "{names:?}");
    let bytes = fs::read(sh.path(STATE)).ok()?;
    SafeTensors::deserialize(&bytes).expect("a state that has its name is whole");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    Some(header.metadata().as_ref().unwrap()["state/next"].parse().unwrap())
}

/// Waits until a run that goes on has stored the state of a step.
fn wait_for_step(sh: &Shell, run: &mut Child, at_least: usize) {
    while stored_step(sh).is_none_or(|step| step < at_least) {
        assert!(run.try_wait().unwrap().is_none(), "the run ended before it was stopped");
        thread::sleep(Duration::from_millis(2));
    }
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
    let unbroken = case.shell();
    let started = Instant::now();
    let expected = unbroken.answer(case.plain());
    let whole = started.elapsed();
    assert_eq!(expected["resumed_at"], Value::Null);
    let (expected, files) = (timeless(expected), left(&unbroken));
    let skips = expected["skipped"].as_object().unwrap().values().any(|steps| *steps != json!([]));
    assert!(skips || case.out == "out.png");

    let sh = case.shell();
    let mut kills = 0;
    let mut last = None;
    while kills < at_most {
        let mut run = case.started(&sh, "");
        thread::sleep(random.below(whole));
        if run.try_wait().unwrap().is_some() {
            break;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        kills += 1;
        let step = stored_step(&sh);
        if step.is_none() && sh.path("trace.jsonl").exists() {
            // The outputs exist and the state is gone: only the run's report was missing.
            total.phases[3] += 1;
            let _ = fs::remove_dir(sh.path("state"));
            break;
        }
        assert!(step >= last, "{}: step {step:?} after {last:?}: a state was lost", case.name);
        last = step;
        total.phases[step.map_or(0, |step| 1 + usize::from(step == case.steps * case.clips))] += 1;
    }
    total.kills += kills;
    let place = format!("{} after {kills} kills", case.name);
    let ended = !sh.path(STATE).exists() && sh.path("trace.jsonl").exists();
    if !ended {
        let done = sh.answer(case.checkpointed());
        assert_eq!(done["resumed_at"].as_u64().map(|n| n as usize), last, "{place}");
        assert_eq!(timeless(done), expected, "{place}");
    }
    let got = left(&sh);
    assert_eq!(got.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "{place}");
    for (name, bytes) in &got {
        assert!(bytes == &files[name], "{place}: {} differs", name.display());
    }
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
fn stopped(case: &Case) -> Shell {
    let sh = case.shell();
    let mut run = case.started(&sh, "");
    wait_for_step(&sh, &mut run, 4);
    run.kill().unwrap();
    run.wait().unwrap();
    sh
}

#[test]
fn another_run_a_damaged_and_a_foreign_file_are_refused_and_kept() {
    let case = &CASES[0];
    let (sh, run) = (stopped(case), case.checkpointed());
    let (whole, step) = (sh.bytes(STATE), stored_step(&sh).unwrap());
    let other = [
        "holds another run",
        "sampling.steps is 24 there and 25 here",
        "sampling.seed is 42 there and 7 here",
        "hint: name another --checkpoint DIR, or delete",
    ];
    sh.refused(format!("{run} --seed 7").replace("--steps 24", "--steps 25"), other);

    sh.write("run.toml", case.config.replace("0.3", "0.25").replace("bf16", "f16"));
    let keys = ["cache[0].threshold is 0.3 there and 0.25 here", "residuals.dtype is \"bf16\" there"];
    sh.refused(&run, keys);
    sh.write("run.toml", case.config);

    for damaged in [&whole[..whole.len() / 2], &whole[..7], b"", b"not a state"] {
        sh.write(STATE, damaged);
        sh.refused(&run, ["is not the state of a run", "hint: name another --checkpoint DIR"]);
    }
    let weights = tiny("wan2.1-t2v-tiny").join("text_encoder/model.safetensors");
    fs::copy(weights, sh.path(STATE)).unwrap();
    sh.refused(&run, ["is not the state of a run: its header does not say so"]);
    sh.write(STATE, &whole);
    sh.refused(format!("{run} --reference-ops"), ["reference_ops is false there and true here"]);

    // A folder that already existed is kept.
    sh.write("state/mine.txt", "");
    assert_eq!(sh.answer(run)["resumed_at"], step);
    assert_eq!(fs::read_dir(sh.path("state")).unwrap().count(), 1);
}

#[test]
fn a_folder_serves_one_run_at_a_time_and_an_interrupted_run_goes_on() {
    let case = &CASES[1];
    let sh = case.shell();
    let every = "--checkpoint-every 3";
    let mut run = case.started(&sh, every);
    wait_for_step(&sh, &mut run, 3);
    let id = run.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    // It waits, so that it does not end before the other one has started.
    signal("-STOP");
    let again = format!("{} {every}", case.checkpointed());
    let second = sh.run(&again);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another run is using the folder state"));

    signal("-INT");
    signal("-CONT");
    let out = run.wait_with_output().unwrap();
    let step = stored_step(&sh).unwrap();
    assert_eq!(out.status.code(), Some(130));
    assert!(step.is_multiple_of(3));
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(message.contains(&format!("the same command continues at step {step} of 20")), "{message}");

    let [_, message] = sh.said(again);
    assert!(message.contains(&format!("continues at step {step} of 20")), "{message}");
    assert!(!sh.path("state").exists());
    let unbroken = case.shell();
    unbroken.answer(case.plain());
    assert!(left(&sh) == left(&unbroken));
}

#[test]
fn a_run_killed_after_its_outputs_finds_them() {
    let case = &CASES[1];
    let sh = stopped(case);
    // The state after the last step next to the finished folder, as a kill between the two leaves them.
    let mut run = case.started(&sh, "");
    let mut last = Vec::new();
    while run.try_wait().unwrap().is_none() {
        if let Ok(state) = fs::read(sh.path(STATE)) {
            last = state;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let before = left(&sh);
    sh.inside("state");
    sh.write(STATE, last);
    assert_eq!(stored_step(&sh), Some(20));
    sh.write(".frames.abcdef.part", "");
    assert_eq!(sh.answer(case.checkpointed())["resumed_at"], 20);
    assert!(left(&sh) == before);
    // A folder with anything that the run did not write is left alone.
    sh.write("frames/mine.txt", "");
    sh.refused(case.checkpointed(), []);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_refused_and_a_dry_run_writes_nothing() {
    let sh = Shell::new();
    sh.refused("run --checkpoint /proc/nowhere", ["/proc"]);
    sh.refused("run --checkpoint state --checkpoint-every 0", ["0"]);
    sh.answer("run --checkpoint state --dry-run");
    assert_eq!(sh.count(), 0);
}
