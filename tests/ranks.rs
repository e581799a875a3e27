//! Several ranks of the program: as threads, and as processes under `mpirun` where it is installed.

#[path = "support/program.rs"]
mod program;

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use program::Shell;
use serde_json::Value;

const RUN: &str =
    "run --frames 9 --size 48x48 --cache fbcache --set threshold=0.3 --trace trace.jsonl --out out.gif";

/// A run that takes a while.
const LONG: &str =
    "run --frames 9 --size 64x64 --steps 200 --cache fbcache --set threshold=0.3 --out out.gif";

/// The same, which ends within seconds: no shorter, so that what happens after the first step happens before
/// the last.
fn shorter() -> String {
    LONG.replace("--steps 200", "--steps 120")
}

/// A limit for what must not hang.
const LIMIT: Duration = Duration::from_mins(1);

/// Whether there is a launcher; the tests that need one say so and do nothing else without.
fn mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok_and(|out| out.status.success());
    if !found {
        println!("skipped: no mpirun is installed");
    }
    found
}

/// `mpirun` with apps, each a number of ranks and the arguments of the program.
fn launched(sh: &Shell, apps: &[(usize, &str)]) -> Command {
    let program = sh.command("");
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none"]).current_dir(sh.path(""));
    for (i, (ranks, line)) in apps.iter().enumerate() {
        command.args(if i > 0 { &[":"][..] } else { &[] });
        command.args(["-n", &ranks.to_string()]).arg(program.get_program());
        command.args(sh.command(line).get_args());
    }
    // Containers run as root.
    command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    command.envs([("RUST_BACKTRACE", "0"), ("RAYON_NUM_THREADS", "1")]);
    command
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[track_caller]
fn ran(sh: &Shell, ranks: usize, line: &str) -> String {
    let out = launched(sh, &[(ranks, line)]).output().unwrap();
    assert!(out.status.success(), "{ranks} ranks: {line}: {}", told(&out));
    String::from_utf8(out.stdout).unwrap()
}

/// The decisions of a trace.
fn decisions(sh: &Shell) -> Vec<Value> {
    let mut lines = sh.trace("trace.jsonl");
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("microseconds");
    }
    lines
}

/// What a run without ranks writes.
fn alone(line: &str) -> (Vec<u8>, Vec<Value>) {
    let sh = Shell::new();
    sh.said(line);
    (sh.bytes("out.gif"), decisions(&sh))
}

#[track_caller]
fn assert_as_alone(sh: &Shell, alone: &(Vec<u8>, Vec<Value>)) {
    assert!(sh.bytes("out.gif") == alone.0, "the pictures differ");
    assert_eq!(decisions(sh), alone.1);
    assert_eq!(sh.count(), 3, "the picture, its configuration and the trace: {:?}", sh.files().keys());
}

#[test]
fn threads_write_what_one_rank_writes() {
    let alone = alone(RUN);
    for ranks in
        ["--ranks 1", "--ranks 3", "--ranks 2 --parallel cfg=2", "--ranks 4 --parallel cfg=2,ulysses=2"]
    {
        let sh = Shell::new();
        sh.said(format!("{RUN} {ranks}"));
        assert_as_alone(&sh, &alone);
    }
}

#[test]
fn processes_write_what_one_rank_writes_and_the_first_one_alone_speaks() {
    if !mpirun() {
        return;
    }
    let alone = alone(RUN);
    for (ranks, parallel) in [
        (2, "ulysses=2"),
        (3, "ulysses=3 --shard"),
        (2, "cfg=2"),
        (4, "cfg=2,ulysses=2"),
        (4, "cfg=2,ulysses=2 --shard"),
    ] {
        let sh = Shell::new();
        let said = ran(&sh, ranks, &format!("{RUN} --parallel {parallel} --json"));
        let answer: Value = serde_json::from_str(&said).expect("one document");
        assert!(answer["outputs"].is_array());
        assert_as_alone(&sh, &alone);
    }
}

#[test]
fn a_rank_that_starts_late_is_waited_for() {
    if !mpirun() {
        return;
    }
    let (alone, sh) = (alone(RUN), Shell::new());
    let line = format!("{RUN} --parallel ulysses=2 --patience 30");
    let mut command = launched(&sh, &[(1, &line)]);
    let late = sh.command(&line);
    command.args([":", "-n", "1", "sh", "-c", "sleep 3; exec \"$@\"", "late"]).arg(late.get_program());
    let out = command.args(late.get_args()).output().unwrap();
    assert!(out.status.success(), "{}", told(&out));
    assert_as_alone(&sh, &alone);
}

/// A profile without when it was measured, and how long that took.
fn measured(sh: &Shell, name: &str) -> Vec<String> {
    let moving = ["name = ", "date = ", "cost = ", "seconds"];
    let lines = sh.text(name).lines().map(str::to_owned).collect::<Vec<_>>();
    lines.into_iter().filter(|line| !moving.iter().any(|word| line.contains(word))).collect()
}

#[test]
fn what_ranks_measure_and_compare_is_what_one_measures() {
    let sh = Shell::new();
    // Which schedules of windows are kept depends on measured times.
    let calibrate = "calibrate --frames 9 --size 48x48 --steps 5 --seeds 0 --reach 2 --growth 2 --windows none \
                     --sensitivities --out";
    sh.said(format!("{calibrate} one.toml"));
    sh.said(format!("{calibrate} three.toml --ranks 3 --shard"));
    assert_eq!(measured(&sh, "three.toml"), measured(&sh, "one.toml"));
    assert!(measured(&sh, "one.toml").iter().any(|line| line.contains("ratios")));
    let compare = "compare magcache fbcache --frames 9 --size 48x48 --steps 5 --out";
    sh.said(format!("{compare} one"));
    for (folder, ranks) in [("tokens", "--ranks 3"), ("branches", "--ranks 2 --parallel cfg=2")] {
        sh.said(format!("{compare} {folder} {ranks}"));
        for file in ["dense.mp4", "magcache.mp4", "fbcache.mp4", "fbcache.mp4.toml"] {
            assert!(
                sh.bytes(&format!("{folder}/{file}")) == sh.bytes(&format!("one/{file}")),
                "{folder}/{file}"
            );
        }
    }
    if mpirun() {
        ran(&sh, 2, &format!("{calibrate} two.toml --parallel ulysses=2"));
        assert_eq!(measured(&sh, "two.toml"), measured(&sh, "one.toml"));
    }
}

#[test]
fn memory_is_counted_for_each_rank() {
    let sh = Shell::new();
    let network = |line: &str| {
        let all = sh.answer(format!("run --dry-run --cache magcache {line}"))["memory"]["phases"].clone();
        all.as_array().unwrap().iter().find(|phase| phase["name"] == "transformer").unwrap().clone()
    };
    let (alone, four, shard) = (network(""), network("--ranks 4"), network("--ranks 4 --shard"));
    let of = |phase: &Value, key: &str| phase[key].as_u64().unwrap();
    assert_eq!(of(&four, "weights"), of(&alone, "weights"));
    assert!(of(&shard, "weights") < of(&alone, "weights"), "{shard}");
    assert!(of(&alone, "caches") > 0 && of(&four, "caches") == of(&alone, "caches").div_ceil(4), "{four}");
    assert!(of(&four, "activations") < of(&alone, "activations"), "{four}");
}

/// One of so many processes that `torchrun` started, some of them on this machine.
fn torchrun(sh: &Shell, rank: usize, [all, here]: [usize; 2], line: &str) -> Output {
    let mut command = sh.command(line);
    command.envs([("MASTER_ADDR", "localhost"), ("TORCHELASTIC_RUN_ID", "none")]);
    let numbers = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", all), ("LOCAL_WORLD_SIZE", here)];
    command.envs(numbers.map(|(name, number)| (name, number.to_string()))).output().unwrap()
}

#[test]
fn of_the_processes_of_torchrun_the_first_runs_all_ranks_of_one_machine() {
    let (alone, sh) = (alone(RUN), Shell::new());
    for (started, line, expected) in [
        ([4, 2], "run --parallel ulysses=4", "torchrun started 4 processes, not all on this machine"),
        ([2, 2], "run --parallel ulysses=4", "ulysses=4 needs 4 ranks, torchrun started 2"),
        ([2, 2], "run", "which would all do the same"),
        ([2, 2], "run --ranks 2", "each is to start 2 ranks"),
    ] {
        let out = torchrun(&sh, 1, started, &format!("{line} --out x.gif"));
        assert!(!out.status.success() && told(&out).contains(expected), "{line}: {}", told(&out));
    }
    let line = format!("{RUN} --parallel ulysses=3");
    let out = torchrun(&sh, 2, [3, 3], &line);
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{}", told(&out));
    assert_eq!(sh.count(), 0);
    let out = torchrun(&sh, 0, [3, 3], &line);
    assert!(out.status.success(), "{}", told(&out));
    assert_as_alone(&sh, &alone);
    let doctor = torchrun(&sh, 0, [3, 3], "doctor --ranks").stdout;
    assert!(String::from_utf8(doctor).unwrap().contains("MPI: not needed"));
}

#[test]
fn a_wrong_number_of_ranks_is_refused_with_what_would_be_right() {
    let sh = Shell::new();
    sh.hinted("run --ranks 3 --parallel cfg=2", ["cfg=2 needs 2 ranks, 3 are asked for", "--ranks 2"]);
    sh.refused("run --ranks 2 --parallel ring=2", ["is neither `cfg` nor `ulysses`"]);
    sh.hinted(
        "run --ranks 2 --parallel cfg=2 --cache cfg-cache",
        ["cfg-cache rebuilds one branch of guidance from the other", "--parallel ulysses=2"],
    );
    sh.hinted("run --shard", ["--shard divides weights among the ranks that divide the tokens", "ulysses=2"]);
    sh.refused("run --ranks 2 --parallel cfg=2 --shard", ["--shard divides weights"]);
    sh.hinted("run --gpus 2", ["cannot use device \"cuda:0\"", "--features cuda"]);
    sh.hinted("calibrate --ranks 2 --parallel cfg=2", ["cfg=2 runs them apart", "--parallel ulysses=2"]);
    sh.refused("run --model tiny-flux --ranks 5", ["4 attention heads cannot be divided among 5 ranks"]);
    if !mpirun() {
        return;
    }
    for (line, expected) in [
        ("run --out out.gif", "--parallel ulysses=2"),
        ("run --out out.gif --parallel ulysses=3", "ulysses=3 needs 3 ranks"),
        ("run --out out.gif --ranks 2", "each is to start 2 ranks"),
    ] {
        let out = launched(&sh, &[(2, line)]).output().unwrap();
        assert!(!out.status.success() && told(&out).contains(expected), "{line}: {}", told(&out));
    }
    assert_eq!(sh.count(), 0);
}

#[test]
fn ranks_with_other_settings_are_refused_with_both_values() {
    if !mpirun() {
        return;
    }
    let line = format!("{RUN} --parallel ulysses=2");
    for (other, expected) in [
        (
            line.replace("threshold=0.3", "threshold=0.2"),
            "cache[0].threshold: 0.3 on rank 0 and 0.2 on rank 1",
        ),
        (format!("{line} --seed 7"), "sampling.seed: "),
        (format!("{line} --steps 9"), "sampling.steps: "),
    ] {
        let sh = Shell::new();
        let out = launched(&sh, &[(1, &line), (1, &other)]).output().unwrap();
        let told = told(&out);
        assert!(!out.status.success() && told.contains(expected) && told.contains("on rank 1"), "{told}");
        assert_eq!(told.matches("error: ").count(), 1, "{told}");
        assert_eq!(sh.count(), 0, "nothing is written");
    }
}

/// What two ranks say that each start in a folder of their own.
fn in_folders(sh: &Shell, folders: [&str; 2], line: &str) -> String {
    let mut command = launched(sh, &[]);
    for (i, folder) in folders.into_iter().enumerate() {
        command.args(if i > 0 { &[":"][..] } else { &[] });
        command.args(["-n", "1", "-wdir"]).arg(sh.path(folder)).arg(sh.command("").get_program());
        command.args(sh.command(line).get_args());
    }
    told(&command.output().unwrap())
}

#[test]
fn ranks_with_other_weights_are_refused() {
    if !mpirun() {
        return;
    }
    let line =
        "run --model m --frames 5 --size 48x48 --steps 4 --parallel ulysses=2 --cache magcache --out out.gif";
    let sh = Shell::new();
    for folder in ["a", "b"] {
        program::copy(&program::tiny("wan2.1-t2v-tiny"), &sh.inside(folder).path("m"));
    }
    let weights = sh.path("b/m/transformer/diffusion_pytorch_model.gguf");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let told = in_folders(&sh, ["a", "b"], line);
    assert!(told.contains("the weights' SHA-256: "), "{told}");
}

#[test]
fn ranks_with_another_curve_are_refused() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    sh.said("calibrate --frames 5 --size 48x48 --steps 6 --seeds 0 --reach 0 --out curve.toml");
    let curve = sh.text("curve.toml");
    // One digit of one number of the curve.
    let at =
        curve.find("ratios").and_then(|ratios| Some(ratios + curve[ratios..].find(", 0.9")? + 4)).unwrap();
    let mut other = curve.clone();
    other.replace_range(at..=at, "8");
    for (folder, curve) in [("a", &curve), ("b", &other)] {
        sh.inside(folder).write("curve.toml", curve);
    }
    let line = "run --frames 5 --size 48x48 --steps 6 --parallel ulysses=2 --cache magcache --profile curve.toml \
                --force --out out.gif";
    let told = in_folders(&sh, ["a", "b"], line);
    assert!(told.contains("the caches as they were built: "), "{told}");
    assert!(told.contains("on rank 0") && told.contains("on rank 1"), "{told}");
}

/// The processes of the program that a launcher started.
fn ranks_of(launcher: &Child) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(launcher.id()) && stat.contains("(magcache") {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for the end of a launcher, and that none of its ranks is left.
fn end(mut launcher: Child, ranks: &[u32]) -> String {
    until("the launcher ends", || launcher.try_wait().unwrap().is_some());
    until("every rank ends", || ranks.iter().all(|pid| !fs::exists(format!("/proc/{pid}/exe")).unwrap()));
    let out = launcher.wait_with_output().unwrap();
    assert!(!out.status.success());
    told(&out)
}

/// Starts a long run with its state in a folder, and waits until all ranks run and some steps are stored.
fn begun(sh: &Shell, ranks: usize, line: &str) -> (Child, Vec<u32>) {
    let mut command = launched(sh, &[(ranks, line)]);
    let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let state = sh.path("state/state.safetensors");
    let mut own = Vec::new();
    until("all ranks run and a state is stored", || {
        own = ranks_of(&launcher);
        own.len() == ranks && state.exists()
    });
    (launcher, own)
}

#[test]
fn a_rank_that_dies_ends_all_and_the_same_command_goes_on() {
    if !mpirun() {
        return;
    }
    let long = shorter() + " --trace trace.jsonl";
    let alone = alone(&long);
    let line = format!("{long} --parallel ulysses=3 --checkpoint state");
    let sh = Shell::new();
    // One rank, then all of them.
    for dies in [vec![1], vec![0, 1, 2]] {
        let (launcher, own) = begun(&sh, 3, &line);
        dies.iter().for_each(|rank| signal(own[*rank], "-9"));
        end(launcher, &own);
        assert!(!sh.path("out.gif").exists(), "nothing partial");
    }
    let other = line.replace("ulysses=3", "ulysses=2");
    let out = launched(&sh, &[(2, &other)]).output().unwrap();
    assert!(told(&out).contains("parallel is ulysses=3 there and ulysses=2 here"), "{}", told(&out));
    ran(&sh, 3, &line);
    assert_as_alone(&sh, &alone);
}

#[test]
fn a_silent_rank_is_named_in_time() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    let line = format!("{LONG} --parallel ulysses=2 --patience 3 --checkpoint state");
    let (launcher, own) = begun(&sh, 2, &line);
    signal(own[1], "-STOP");
    let told = end(launcher, &own);
    assert!(told.contains("rank 1 has not answered for 3 s"), "{told}");
    assert!(told.contains("hint: ") && told.contains("--patience"), "{told}");
    assert!(!sh.path("out.gif").exists());
}

#[test]
fn a_rank_that_never_starts_is_missed_in_time() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    let mut command = launched(&sh, &[(1, &format!("{RUN} --parallel ulysses=2 --patience 3"))]);
    command.args([":", "-n", "1", "sleep", "300"]);
    let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let told = end(launcher, &[]);
    assert!(told.contains("not every rank has started within 3 s"), "{told}");
    assert_eq!(sh.count(), 0);
}

#[test]
fn a_fault_on_the_first_rank_ends_all_and_leaves_nothing() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    fs::create_dir(sh.path("there")).unwrap();
    let line = shorter().replace("out.gif", "there/out.gif");
    let (launcher, own) = begun(&sh, 2, &format!("{line} --parallel ulysses=2 --checkpoint state"));
    // Where it was to write, there is a file.
    fs::remove_dir_all(sh.path("there")).unwrap();
    sh.write("there", "");
    let told = end(launcher, &own);
    assert!(told.contains("error: "), "{told}");
    assert_eq!(sh.text("there"), "");
}

#[test]
fn a_full_disk_on_the_first_rank_ends_all_and_leaves_nothing() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    let small = sh.path("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small).output();
    if !mount.is_ok_and(|out| out.status.success()) {
        println!("skipped: a small disk cannot be mounted here");
        return;
    }
    let line = shorter().replace("out.gif", "small/out.gif");
    let (launcher, own) = begun(&sh, 2, &format!("{line} --parallel ulysses=2 --checkpoint state"));
    // Someone else fills it while the run goes on.
    _ = fs::write(small.join("other"), vec![0; 2 << 20]);
    let told = end(launcher, &own);
    let left: Vec<_> = fs::read_dir(&small).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert!(told.contains("No space left") && told.contains("small/out.gif"), "{told}");
    assert_eq!(left, ["other"], "nothing partial");
}

#[test]
fn an_interrupted_run_ends_on_all_ranks() {
    if !mpirun() {
        return;
    }
    let sh = Shell::new();
    let (launcher, own) = begun(&sh, 2, &format!("{LONG} --parallel ulysses=2 --checkpoint state"));
    // On one rank alone.
    signal(own[1], "-INT");
    let told = end(launcher, &own);
    assert!(
        told.contains("interrupted at step") && told.contains("the same command continues at step"),
        "{told}"
    );
}

#[test]
fn the_doctor_says_what_there_is() {
    let sh = Shell::new();
    let said = sh.said("doctor")[0].clone();
    assert!(said.contains("launcher: none") && said.contains("NCCL: not in this build"), "{said}");
    assert!(sh.answer("doctor")["nccl"].is_null());
    if !mpirun() {
        return;
    }
    let said = ran(&sh, 2, "doctor --ranks");
    assert!(said.contains("mpirun of Open MPI, 2 ranks") && said.contains("GB/s"), "{said}");
    assert_eq!(said.matches("launcher").count(), 1, "{said}");
    // The library of one MPI under the launcher of another: one process that was told to be two.
    let mut command = sh.command("run --parallel ulysses=2 --out x.gif");
    let out = command.env("PMI_SIZE", "2").env("PMI_RANK", "0").output().unwrap();
    assert!(told(&out).contains("launcher and library do not belong together"), "{}", told(&out));
}
