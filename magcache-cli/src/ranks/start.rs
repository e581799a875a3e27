//! Starts the ranks of a run: threads of this process, or processes that a launcher started.

use std::{panic, process, sync::Arc, thread, time::Duration};

use anyhow::{Result, anyhow};
use magcache_core::group::{self, ControlPlane, GroupError};
#[cfg(unix)]
use magcache_models::ranks::MpiPlane;
use magcache_models::ranks::{Launcher, Layout, Ranks};

use crate::{
    args::RanksArgs,
    console::{Console, Told, bad_input_with},
};

/// Bytes of a rank's stack, as many as that of the main thread usually has.
const STACK: usize = 8 << 20;

/// Runs `run` on every rank: alone without ranks, as threads, or once in this process, which is one of them.
pub(crate) fn start(
    args: &RanksArgs,
    out: &Console,
    run: impl Fn(Option<&Ranks>, &Console) -> Result<()> + Sync,
) -> Result<()> {
    let patience = Duration::try_from_secs_f64(args.patience).map_err(|error| {
        bad_input_with(format!("--patience {}: {error}", args.patience), "--patience 600")
    })?;
    let launcher = Launcher::find().filter(|launcher| launcher.size > 1);
    let own = args.ranks.or(args.gpus).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    match (own, args.parallel, launcher) {
        (None, None, None) => run(None, out),
        (Some(n), _, Some(launcher)) => {
            let message = format!(
                "{} started {} processes, and each is to start {n} ranks",
                launcher.name, launcher.size
            );
            Err(bad_input_with(
                message,
                "one of the two: --parallel under a launcher, or --ranks without one",
            ))
        }
        (Some(n), layout, None) => {
            let layout = layout.unwrap_or(Layout { cfg: 1, ulysses: n });
            if layout.ranks() != n {
                let message = format!("{layout} needs {} ranks, {n} are asked for", layout.ranks());
                return Err(bad_input_with(message, format!("--ranks {}", layout.ranks())));
            }
            as_threads(layout, patience, out, &run)
        }
        (None, None, Some(launcher)) => {
            let message =
                format!("{} started {} processes, which would all do the same", launcher.name, launcher.size);
            Err(bad_input_with(message, format!("--parallel ulysses={}", launcher.size)))
        }
        (None, Some(layout), Some(launcher)) if !launcher.starts_ranks() => {
            if all_here(&launcher, layout)? {
                as_threads(layout, patience, out, &run)
            } else {
                Ok(())
            }
        }
        (None, Some(layout), None) if layout.ranks() == 1 => run(None, out),
        (None, Some(layout), _) => as_processes(layout, patience, out, &run),
    }
}

/// Whether this is the process that runs all ranks, of a launcher whose processes do not find each other. The
/// other processes have nothing to do.
///
/// # Errors
/// Processes on several machines; another number of them than ranks.
fn all_here(launcher: &Launcher, layout: Layout) -> Result<bool> {
    let Launcher { name, size, local, .. } = launcher;
    if layout.ranks() != *size {
        let message = format!("{layout} needs {} ranks, {name} started {size} processes", layout.ranks());
        return Err(bad_input_with(message, format!("--nproc-per-node {}", layout.ranks())));
    }
    if !launcher.is_on_one_machine() {
        let message = format!(
            "{name} started {size} processes, not all on this machine: they meet in PyTorch's own way, not spoken here"
        );
        return Err(bad_input_with(message, format!("mpirun -n {size} or srun -n {size} in its place")));
    }
    Ok(*local == Some(0))
}

/// One rank after its run: tells the others what went wrong here, or reports for all.
fn end(ranks: &Ranks, ran: Result<()>) -> Result<()> {
    let Err(error) = ran else { return Ok(()) };
    let world = ranks.world();
    let size = world.size();
    match world.fault() {
        // Whoever is the first to notice tells the others, so that they end at once.
        None => world.stop(&format!("{error:#}")),
        Some(GroupError::Stopped { .. }) => {}
        Some(fault) => world.stop(&fault.to_string()),
    }
    match world.fault() {
        // The first rank reports its own errors, and those of others, in the words of whom they happened to.
        Some(GroupError::Stopped { rank, why }) if ranks.is_first() => {
            Err(anyhow!("{why}").context(format!("rank {rank} of {size} stopped the run")))
        }
        _ if ranks.is_first() => Err(error),
        Some(GroupError::Late { rank: 0, .. } | GroupError::Ended { rank: 0, .. }) => {
            Err(error.context(format!("rank {} of {size}", world.place())))
        }
        _ => Err(Told(error).into()),
    }
}

/// Tells the others if this rank panics.
struct Watched<'r>(&'r Ranks);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.world().stop("it panicked");
        }
    }
}

fn one(
    engine: Arc<dyn ControlPlane>,
    layout: Layout,
    patience: Duration,
    run: impl Fn(&Ranks) -> Result<()>,
) -> Result<()> {
    let ranks = Ranks::new(engine, layout, patience)?;
    let watched = Watched(&ranks);
    let ran = run(&ranks);
    if ran.is_ok() {
        ranks.settle();
    }
    drop(watched);
    end(&ranks, ran)
}

/// Each rank is a thread with its share of the cores.
fn as_threads(
    layout: Layout,
    patience: Duration,
    out: &Console,
    run: &(impl Fn(Option<&Ranks>, &Console) -> Result<()> + Sync),
) -> Result<()> {
    let threads = (rayon::current_num_threads() / layout.ranks()).max(1);
    let silent = Console::silent();
    thread::scope(|scope| {
        let mut started = Vec::new();
        for plane in group::threads(layout.ranks()) {
            let out = if plane.rank() == 0 { out } else { &silent };
            let rank = move || {
                // Fails only if the thread is in a pool already, which works as well.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
                let ran = one(Arc::new(plane), layout, patience, |ranks| run(Some(ranks), out));
                drop(pool);
                ran
            };
            started.push(thread::Builder::new().stack_size(STACK).spawn_scoped(scope, rank)?);
        }
        let ends: Vec<_> = started.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let ends = ends.into_iter().map(|end| end.unwrap_or_else(|fault| panic::resume_unwind(fault)));
        // The error that the first of them reports, if one does.
        let (told, others): (Vec<_>, Vec<_>) =
            ends.filter_map(Result::err).partition(|error| !error.is::<Told>());
        told.into_iter().chain(others).next().map_or(Ok(()), Err)
    })
}

/// Ends this process, which has waited for others to start: whoever launched it ends them too.
pub(crate) fn absent(patience: Duration) {
    let seconds = patience.as_secs_f64();
    let message = format!("not every rank has started within {seconds} s");
    let error = bad_input_with(message, "do all processes run this program, with --parallel?");
    Console::new(false, false).failure(&error);
    process::exit(1);
}

/// MPI is loaded on Unix alone.
#[cfg(not(unix))]
fn as_processes(
    layout: Layout,
    _: Duration,
    _: &Console,
    _: &impl Fn(Option<&Ranks>, &Console) -> Result<()>,
) -> Result<()> {
    let message = "ranks as processes need MPI, which this system is not supported with";
    Err(bad_input_with(message, format!("--ranks {}: threads of this process", layout.ranks())))
}

/// This process is one of those that a launcher started.
#[cfg(unix)]
fn as_processes(
    layout: Layout,
    patience: Duration,
    out: &Console,
    run: &impl Fn(Option<&Ranks>, &Console) -> Result<()>,
) -> Result<()> {
    let engine = Arc::new(MpiPlane::join(patience, move || absent(patience))?);
    let (rank, size) = (engine.rank(), engine.size());
    let silent = Console::silent();
    let out = if rank == 0 { out } else { &silent };
    let ran = if size == layout.ranks() {
        one(Arc::clone(&engine) as Arc<dyn ControlPlane>, layout, patience, |ranks| run(Some(ranks), out))
    } else {
        let message = format!("{layout} needs {} ranks, {} sees {size}", layout.ranks(), engine.version());
        let error = bad_input_with(message, format!("mpirun -n {} magcache run ...", layout.ranks()));
        Err(if rank == 0 { error } else { Told(error).into() })
    };
    if let Err(error) = &ran
        && !error.is::<Told>()
    {
        // Before the launcher notices and talks.
        out.failure(error);
        engine.leave(false);
        return ran.map_err(|error| Told(error).into());
    }
    engine.leave(ran.is_ok());
    ran
}
