//! The names that most of these tests use.

pub(crate) use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Mutex},
};

pub(crate) use candle_core::{DType, Device, Tensor};
pub(crate) use magcache_core::{
    BlockHook, Branch, CachePlan, ConfigError, Cx, Expert, Guards, Head, HookRegistry, Level, ModelMeta,
    Modules, Next, Output, Pass, Phase, Role, Session, Signal, Stacks, Step, StrategyInfo, Streams,
    TimestepCache, Trajectory, Verdict, Warmup, Why, Window,
    forecast::ResidualConfig,
    hint::Hint,
    meta, metrics, no_signals,
    profile::Profile,
    schedule::simulate,
    state::{HookId, StoragePolicy},
    strategy::CacheHook,
    testing::{self, Calls, Fault, Ran, SpyForecast, Toy, run, run_pass, same_bits, toys, transcript},
};

pub(crate) use crate::support::*;
