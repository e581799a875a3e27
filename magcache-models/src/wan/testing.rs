//! Reference tensors for the unit tests of the network's modules.

use super::WanConfig;
use crate::testing::Golden;
pub(super) use crate::testing::close;

pub(super) fn golden(case: &str) -> Golden<WanConfig> {
    Golden::open(case, WanConfig::from_json)
}
