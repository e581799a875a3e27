//! What strategies, forecasts and profiles say about themselves.

use crate::keys::Keys;

/// Where a strategy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Around a range of blocks.
    Blocks,
    /// Around a module inside every block that has it. No strategy is at home there; `at` places it.
    Modules,
    /// Around the whole forward.
    Forward,
}

/// What a strategy says about itself. Registered with `inventory::submit!`.
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
    /// A `[[cache]]` table that parses and skips something on a guided model; with `never` set, nothing.
    pub example: &'static str,
    /// A `[[cache]]` table with which the strategy runs and skips nothing.
    pub never: &'static str,
    /// Its own keys: [`keys_of`](crate::keys::keys_of) of the type that reads them.
    pub keys: fn() -> Keys,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// What a forecast says about itself. Registered with `inventory::submit!`.
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
    /// The `forecast` table with which it continues the line through the last two computed steps, if it can: what
    /// [`Continuation::Line`](crate::planner::Continuation::Line) is planned with.
    pub line: Option<&'static str>,
    /// The crate that registers it.
    pub origin: &'static str,
}

/// A calibration profile that ships in a crate. Registered with `inventory::submit!`.
#[derive(Debug)]
pub struct ProfileInfo {
    /// The name in a configuration; equals the profile's own.
    pub name: &'static str,
    /// The profile.
    pub toml: &'static str,
    /// The crate that registers it.
    pub origin: &'static str,
}
