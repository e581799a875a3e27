//! The program as a user meets it: exit codes, messages, files, and what scripts may rely on.

#[path = "../../magcache-models/tests/support/gguf.rs"]
#[expect(dead_code, reason = "a benchmark uses the rest")]
mod gguf;
#[path = "../support/program.rs"]
mod program;

mod audit;
mod bytes;
mod calibrate;
mod compare;
mod demo;
mod experts;
mod files;
mod floats;
mod flux;
mod inspect;
mod lpips;
mod memory;
mod messages;
mod parts;
mod plan;
mod profiles;
mod quality;
mod reference;
mod refusals;
mod replay;
mod run;
mod search;
mod selftest;
mod signals;
mod speech;
mod weights;
mod windows;
