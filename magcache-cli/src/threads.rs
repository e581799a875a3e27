//! The number of compute threads.
#![expect(unsafe_code, reason = "setting a variable of the process before it has a second thread")]

use magcache_models::ranks::Launcher;

/// The variable that rayon and candle read.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads for the whole process: what the user set, else the number of physical
/// cores, or the share of them that one of several ranks on the machine has.
///
/// candle asks for the number at every matrix product, and without the variable it counts the cores each time
/// by reading `/proc/cpuinfo`. On the embedded model that was two fifths of a forward
/// (`docs/adr/0004-threads.md`).
///
/// Call it before anything else.
pub(crate) fn settle() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Ranks on one machine share its cores.
    let launcher = Launcher::find().filter(Launcher::starts_ranks);
    let ranks = launcher.and_then(|launcher| launcher.local_size).unwrap_or(1).max(1);
    let threads = (num_cpus::get_physical() / ranks).clamp(1, allowed);
    // SAFETY: `main` calls this first, so no other thread exists that could read the environment at the same
    // time.
    unsafe { std::env::set_var(VARIABLE, threads.to_string()) };
}

/// Makes the calling thread part of the pool: otherwise it would sleep and be woken at every operation, which
/// on a small model takes longer than a skipped step.
pub(crate) fn join_pool() {
    // Fails only if a pool already exists, which works as well.
    _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
}
