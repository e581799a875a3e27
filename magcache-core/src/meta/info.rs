//! Metadata of strategies, forecasts and profiles.

use crate::keys::Keys;

/// Where a strategy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Around a range of blocks.
    Blocks,
    /// Around a module inside every block that has it. Never a strategy's own level, only chosen with `at`.
    Modules,
    /// Around the whole forward.
    Forward,
}

/// Metadata of a strategy. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct StrategyInfo {
    /// The name in a configuration.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Where it acts.
    pub level: Level,
    /// A `[[cache]]` table that parses and skips something on a guided model.
    pub example: &'static str,
    /// A `[[cache]]` table with which the strategy runs and skips nothing.
    pub never: &'static str,
    /// Its own keys: [`keys_of`](crate::keys::keys_of) of the type that reads them.
    pub keys: fn() -> Keys,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// Metadata of a forecast. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct ForecastInfo {
    /// The `type` in a configuration.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Its own keys: [`keys_of`](crate::keys::keys_of) of the type that reads them.
    pub keys: fn() -> Keys,
    /// The `forecast` table with which it extrapolates linearly through the last two computed steps, if it
    /// can. Used for schedules planned with [`Continuation::Line`](crate::planner::Continuation::Line).
    pub line: Option<&'static str>,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// A calibration profile that ships in a crate. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct ProfileInfo {
    /// The name in a configuration; equals the `name` in the profile.
    pub name: &'static str,
    /// The profile as TOML.
    pub toml: &'static str,
    /// The crate that registers it.
    pub origin: &'static str,
}
