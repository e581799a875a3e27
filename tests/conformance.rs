//! Every registered strategy keeps every rule; every pair of strategies changes nothing when nothing is skipped.

use magcache_core::{
    Branch, BuildCx, HookRegistry, Level, CacheEntry, CacheHook, ResidualConfig, Strategy, StrategyInfo,
    Trajectory, meta, testing,
};

fn strategies() -> Vec<&'static StrategyInfo> {
    magcache_strategies::link();
    meta::strategies()
}

#[test]
fn every_strategy_keeps_every_rule() {
    assert!(strategies().len() >= 5);
    for info in strategies() {
        testing::conformance(info);
    }
}
