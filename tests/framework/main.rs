//! The framework and its strategies: the rules of docs/spec/strategy.md, the messages of configurations, and
//! what published code decides.

mod prelude;
mod support;

mod audit;
mod authors;
mod bytes;
mod calibrate;
mod clips;
mod conformance;
mod dbcache;
mod decisions;
mod dicache;
mod experts;
mod failsafes;
mod fbcache;
mod forward;
mod hints;
mod interpreter;
mod isolation;
mod knobs;
mod links;
mod messages;
mod modules;
mod numbers;
mod observers;
mod onion;
mod pair;
mod planner;
mod properties;
mod published;
mod ranks;
mod reads;
mod registry;
mod retry;
mod search;
mod solvers;
mod stored;
mod taylor;
mod text;
mod transformers;
mod windows;
mod words;
