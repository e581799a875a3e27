//! The kit of the core crate, on this strategy.

use magcache_core::testing;

#[test]
fn interval_keeps_every_rule() {
    magcache_plugin_interval::link();
    testing::conformance_of("interval");
}
