//! The library of the `magcache` program.

mod args;
mod calibration;
mod cmd;
mod compare;
mod console;
mod files;
mod job;
mod lanes;
mod machine;
pub mod media;
mod pareto;
mod plot;
pub mod quality;
mod ranks;
mod replay;
mod report;
mod resume;
mod search;
mod selftest;
mod summary;
mod threads;
mod timing;
pub mod verify;

use std::process::ExitCode;

use args::Command;
use console::Console;
use magcache_models::checkpoint::Ops;

/// The program's name, also that of a strategy.
pub(crate) const PROGRAM: &str = "magcache";

/// The whole program: parses the command line, runs the command, and reports how it ended. Models and
/// strategies registered by other crates work like its own. Call it before anything else, because it sets the
/// number of compute threads.
pub fn main() -> ExitCode {
    threads::settle();
    threads::join_pool();
    magcache_strategies::link();
    magcache_models::link();
    let args = match console::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let ops = if args.reference_ops { Ops::Reference } else { Ops::default() };
    let out = Console::new(args.json, args.quiet);
    if let Some(wrong) = console::verbose::listen(args.verbose) {
        out.warn(&wrong, Some("RUST_LOG=magcache_cli=debug"));
    }
    let done = match args.command {
        Command::Demo(args) => cmd::demo::run(&args, ops, &out),
        Command::Run(args) => {
            ranks::start(&args.ranks, &out, |ranks, out| cmd::run::run(&args, ops, ranks, out))
        }
        Command::Doctor(args) => cmd::doctor::run(&args, &out),
        Command::Selftest(args) => cmd::selftest::run(&args, ops, &out),
        Command::Compare(args) => {
            ranks::start(&args.ranks, &out, |ranks, out| cmd::compare::run(&args, ops, ranks, out))
        }
        Command::Calibrate(args) => {
            ranks::start(&args.ranks, &out, |ranks, out| cmd::calibrate::run(&args, ops, ranks, out))
        }
        Command::Pareto(args) => cmd::pareto::run(&args, ops, &out),
        Command::Schedule(args) => cmd::schedule::run(&args, &out),
        Command::List(args) => cmd::list::run(&args, &out),
        Command::Pull(args) => cmd::hub::pull(&args, &out),
        Command::Rm(args) => cmd::hub::rm(&args, &out),
        Command::Inspect(args) => cmd::inspect::run(&args, &out),
        Command::Verify(args) => cmd::verify::run(&args, ops, &out),
        Command::Profile(args) => cmd::diff::profiles(&args, &out),
        Command::Trace(args) => cmd::diff::traces(&args, &out),
        Command::Bench(args) => cmd::bench::run(&args, ops, &out),
        Command::Completions(args) => {
            cmd::shell::completions(&args, &out);
            Ok(())
        }
        Command::Man(args) => cmd::shell::man(&args, &out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => out.failure(&error),
    }
}
