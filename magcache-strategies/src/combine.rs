//! Combinations of strategies that share one range and one stored residual.
//!
//! Every member sees every pass, so that each keeps its own state; the forecast and the limits belong to the
//! combination.

use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    Streams, TimestepCache, Verdict, Why, Window,
    forecast::{Forecast, LastResidual},
    inventory,
    keys::keys_of,
    meta,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    strategy::{AnyCache, AnyState, Base},
    typetag,
};
use serde::{Deserialize, Serialize};

/// The keys of `strategy = "priority"`: the first member that would skip decides.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorityConfig {
    /// Tables of strategies, the first asked first.
    pub members: Vec<Box<dyn CacheConfig>>,
}

/// The keys of `strategy = "any-veto"`: skips only what every member would skip.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnyVetoConfig {
    /// Tables of strategies, a static one first where there is one.
    pub members: Vec<Box<dyn CacheConfig>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Priority,
    AnyVeto,
}

/// The strategy.
#[derive(Debug)]
pub struct Combined {
    mode: Mode,
    members: Vec<(Box<dyn AnyCache>, Guards)>,
}

/// The state of one slot: that of every member.
#[derive(Default)]
pub struct CombinedState {
    members: Vec<Box<dyn AnyState>>,
    /// The verdicts of members before one that failed at this step; they are not asked again in a retry.
    asked: Option<Asked>,
    /// Number of members whose `tail` ran before one that failed.
    told: usize,
}

#[derive(Debug)]
struct Asked {
    step: usize,
    verdicts: Vec<Verdict>,
}

magcache_core::fields!(Asked { step, verdicts });

impl std::fmt::Debug for CombinedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CombinedState").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Persist for CombinedState {
    fn save(&self, to: &mut Writer<'_>) {
        for (i, member) in self.members.iter().enumerate() {
            to.field(&i.to_string(), member.as_ref());
        }
        to.field("asked", &self.asked);
        to.field("told", &self.told);
    }

    /// Restores into the states of the same members, which are configuration.
    fn load(&mut self, from: &Reader<'_>) -> Result<(), SnapshotError> {
        let mut members = self.members.iter_mut().enumerate();
        members.try_for_each(|(i, member)| member.load(&from.at(&i.to_string())))?;
        (self.asked, self.told) = (from.field("asked")?, from.field("told")?);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.members.iter().map(|member| member.bytes()).sum()
    }

    fn whole_bytes(&self) -> usize {
        self.members.iter().map(|member| member.whole_bytes()).sum()
    }
}

impl TimestepCache for Combined {
    type State = CombinedState;

    /// The largest window of all members: a member that could decide after fewer blocks is asked later.
    fn window(&self) -> Window {
        self.members
            .iter()
            .map(|(member, _)| member.any_window())
            .fold(Window::default(), |a, b| Window { front: a.front.max(b.front), back: a.back.max(b.back) })
    }

    fn state(&self) -> CombinedState {
        let members = self.members.iter().map(|(member, _)| member.any_state()).collect();
        CombinedState { members, ..CombinedState::default() }
    }

    /// The base of all members; combinations of different ones are refused.
    fn base(&self) -> Base {
        self.members.first().map_or(Base::Input, |(member, _)| member.any_base())
    }

    /// The forecast of the first member.
    fn forecast(&self, step: &Step) -> Box<dyn Forecast> {
        match self.members.first() {
            Some((member, _)) => member.any_forecast(step),
            None => Box::new(LastResidual::default()),
        }
    }

    fn uses_signals(&self) -> bool {
        self.members.iter().any(|(member, _)| member.any_uses_signals())
    }

    fn is_static(&self) -> bool {
        self.members.iter().all(|(member, _)| member.any_static())
    }

    fn head(
        &self,
        state: &mut CombinedState,
        step: &Step,
        branch: Branch,
        x: &Head<'_>,
    ) -> candle_core::Result<Verdict> {
        let CombinedState { members, asked, .. } = state;
        let before = asked.take().filter(|asked| asked.step == step.index);
        let mut verdicts = before.map_or_else(Vec::new, |asked| asked.verdicts);
        for ((member, guards), state) in self.members.iter().zip(members).skip(verdicts.len()) {
            let verdict = match member.any_head(state.as_mut(), step, branch, x) {
                Ok(verdict) => verdict,
                Err(error) => {
                    *asked = Some(Asked { step: step.index, verdicts });
                    return Err(error);
                }
            };
            verdicts.push(match guards.verdict(step, &x.history) {
                Some(why) => verdict.overruled(why),
                None => verdict,
            });
        }
        // A metric that is not finite is not outvoted: the slot, with the state of all members, is reset.
        if let Some(broken) = verdicts.iter().find(|verdict| !verdict.is_finite()) {
            return Ok(*broken);
        }
        let mut reusing = verdicts.iter().filter(|v| v.reuse);
        let first = verdicts.first().copied().unwrap_or(Verdict::compute(Why::NoHistory));
        Ok(match self.mode {
            Mode::Priority => reusing.next().copied().unwrap_or(first),
            Mode::AnyVeto => match verdicts.iter().find(|v| !v.reuse) {
                Some(veto) if first.reuse => veto.overruled(Why::Vetoed),
                Some(veto) => *veto,
                None => first,
            },
        })
    }

    fn tail(
        &self,
        state: &mut CombinedState,
        step: &Step,
        branch: Branch,
        x: &Streams,
        y: &Streams,
    ) -> candle_core::Result<()> {
        let CombinedState { members, told, .. } = state;
        for ((member, _), state) in self.members.iter().zip(members).skip(*told) {
            member.any_tail(state.as_mut(), step, branch, x, y)?;
            *told += 1;
        }
        *told = 0;
        Ok(())
    }
}

fn validate(members: &[Box<dyn CacheConfig>], cx: &BuildCx<'_>) -> Vec<Problem> {
    let mut out = Vec::new();
    if members.len() < 2 {
        let message = format!("`members` has {} strategies, a combination needs two", members.len());
        out.push(Problem::error(cx.place, message).hint("members = [{ strategy = \"fbcache\" }, ...]"));
    }
    for (i, member) in members.iter().enumerate() {
        let place = format!("{}, members[{i}]", cx.place);
        let name = member.typetag_name();
        if meta::strategies().iter().any(|s| s.name == name && s.level == Level::Forward) {
            let message = format!("{name:?} acts on the whole forward, a combination on blocks");
            out.push(Problem::error(&place, message).hint("give it a `[[cache]]` table of its own"));
            continue;
        }
        out.extend(BuildCx { place: &place, range: cx.range.clone(), ..*cx }.check(&**member));
    }
    out
}

fn build(mode: Mode, members: &[Box<dyn CacheConfig>], cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
    let mut built = Vec::with_capacity(members.len());
    for (i, member) in members.iter().enumerate() {
        match member.build(cx)?.on_tensors() {
            Ok(cache) => built.push(cache),
            Err(_) => {
                let message = format!("members[{i}] is not a strategy that decides for a range of blocks");
                return Err(ConfigError::Problems(vec![Problem::error(cx.place, message)]));
            }
        }
    }
    let base = |(cache, _): &(Box<dyn AnyCache>, Guards)| cache.any_base();
    if let Some(other) = built.iter().position(|member| Some(base(member)) != built.first().map(base)) {
        let message = format!(
            "members[0] and members[{other}] do not go together: one rebuilds a range from its input, the other from \
             another branch"
        );
        return Err(ConfigError::Problems(vec![Problem::error(cx.place, message)]));
    }
    Ok(Strategy::cache(Combined { mode, members: built }, cx.guards(Guards::default())))
}

#[typetag::serde(name = "priority")]
impl CacheConfig for PriorityConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        validate(&self.members, cx)
    }

    fn members(&self) -> &[Box<dyn CacheConfig>] {
        &self.members
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        build(Mode::Priority, &self.members, cx)
    }
}

#[typetag::serde(name = "any-veto")]
impl CacheConfig for AnyVetoConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        validate(&self.members, cx)
    }

    fn members(&self) -> &[Box<dyn CacheConfig>] {
        &self.members
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        build(Mode::AnyVeto, &self.members, cx)
    }
}

inventory::submit! {
    StrategyInfo {
        name: "priority",
        summary: "asks several strategies; the first that would skip decides",
        paper: "-",
        level: Level::Blocks,
        example: r#"
            strategy = "priority"
            members = [
                { strategy = "fbcache", threshold = 0.3 },
                { strategy = "teacache", threshold = 0.3, policy = "linear", signal = "modulated-input" },
            ]
        "#,
        never: r#"
            strategy = "priority"
            members = [
                { strategy = "fbcache", threshold = 0.0 },
                { strategy = "teacache", threshold = 0.0, policy = "linear", signal = "modulated-input" },
            ]
        "#,
        keys: keys_of::<PriorityConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}

inventory::submit! {
    StrategyInfo {
        name: "any-veto",
        summary: "skips only what every member would skip: a fixed schedule that a cheap signal can stop",
        paper: "-",
        level: Level::Blocks,
        example: r#"
            strategy = "any-veto"
            members = [
                { strategy = "magcache", threshold = 0.12, ratios = [1.0, 0.999, 0.998, 0.997, 0.99, 0.98] },
                { strategy = "fbcache", threshold = 0.3 },
            ]
        "#,
        never: r#"
            strategy = "any-veto"
            members = [
                { strategy = "magcache", threshold = 0.12, ratios = [1.0, 0.999, 0.998, 0.997, 0.99, 0.98] },
                { strategy = "fbcache", threshold = 0.0 },
            ]
        "#,
        keys: keys_of::<AnyVetoConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
