//! The conformance kit finds the mistakes that an author can make.

use std::panic::catch_unwind;

use candle_core::{Result, Tensor};
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, ModelMeta, Problem, StackMeta, Step,
    Strategy, StrategyInfo, Streams, TimestepCache, Verdict, Why, Window, inventory,
    keys::keys_of,
    meta, schemars,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    testing, typetag,
};
use serde::{Deserialize, Serialize};

/// What is wrong with the strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// It is as it should be.
    Nothing,
    /// The anchor moves in `head`: it is another step's than the stored residual where the verdict is
    /// overruled.
    AnchorInHead,
    /// `head` changes the state before the last thing in it that can fail.
    HeadThatFailsHalfway,
    /// The state holds two tensors and says that it holds none.
    NoBytes,
}

/// Its keys.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct FaultyConfig {
    /// Bound of the distance.
    threshold: f64,
    /// What is wrong.
    fault: Fault,
}

/// FBCache's rule with a fault.
#[derive(Debug)]
struct Faulty(FaultyConfig);

#[derive(Debug, Default)]
struct State {
    anchor: Option<Tensor>,
    pending: Option<Tensor>,
    silent: bool,
}

impl Persist for State {
    fn save(&self, to: &mut Writer<'_>) {
        to.field("anchor", &self.anchor);
        to.field("pending", &self.pending);
    }

    fn load(&mut self, from: &Reader<'_>) -> std::result::Result<(), SnapshotError> {
        (self.anchor, self.pending) = (from.field("anchor")?, from.field("pending")?);
        Ok(())
    }

    fn bytes(&self) -> usize {
        if self.silent { 0 } else { self.anchor.bytes() + self.pending.bytes() }
    }
}

impl TimestepCache for Faulty {
    type State = State;

    fn window(&self) -> Window {
        Window { front: 1, back: 0 }
    }

    fn state(&self) -> State {
        State { silent: self.0.fault == Fault::NoBytes, ..State::default() }
    }

    fn head(&self, state: &mut State, _: &Step, _: Branch, x: &Head<'_>) -> Result<Verdict> {
        let now = x.front_residual()?;
        if self.0.fault == Fault::HeadThatFailsHalfway {
            state.pending = Some(now.clone());
            if state.anchor.is_none() {
                state.anchor = Some(now.clone());
                x.largest(0.0)?;
                return Ok(Verdict::compute(Why::NoHistory));
            }
        }
        let verdict = match &state.anchor {
            None => Verdict::compute(Why::NoHistory),
            Some(before) => Verdict::below(x.relative_l1(&now, before)?, self.0.threshold),
        };
        if self.0.fault != Fault::AnchorInHead {
            state.pending = Some(now);
        } else if !verdict.reuse {
            state.anchor = Some(now);
        }
        Ok(verdict)
    }

    fn tail(&self, state: &mut State, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        if self.0.fault != Fault::AnchorInHead {
            state.anchor = state.pending.take();
        }
        Ok(())
    }
}

#[typetag::serde(name = "faulty")]
impl CacheConfig for FaultyConfig {
    fn validate(&self, _: &BuildCx<'_>) -> Vec<Problem> {
        Vec::new()
    }

    fn build(&self, cx: &BuildCx<'_>) -> std::result::Result<Strategy, ConfigError> {
        let Self { threshold, fault } = *self;
        Ok(Strategy::cache(Faulty(Self { threshold, fault }), cx.guards(Guards::default())))
    }
}

/// The strategy as its author would register it.
macro_rules! with {
    ($fault:literal) => {
        StrategyInfo {
            name: "faulty",
            summary: "fbcache, with a fault",
            paper: "-",
            level: Level::Blocks,
            example: concat!("strategy = \"faulty\"\nthreshold = 0.3\nfault = \"", $fault, "\"\n"),
            never: concat!("strategy = \"faulty\"\nthreshold = 0.0\nfault = \"", $fault, "\"\n"),
            keys: keys_of::<FaultyConfig>,
            origin: env!("CARGO_PKG_NAME"),
        }
    };
}

inventory::submit! { with!("nothing") }

/// Every fault with the rule that it breaks.
static FAULTS: [(StrategyInfo, &str); 3] = [
    (with!("anchor-in-head"), "49: a pass that had to compute leaves the state of a computed pass"),
    (with!("head-that-fails-halfway"), "48: a step that is run again is the same step"),
    (with!("no-bytes"), "the slots hold tensors of"),
];

#[test]
fn every_fault_is_found_by_the_rule_that_it_breaks() {
    for (info, rule) in &FAULTS {
        let panic = catch_unwind(|| testing::conformance(info)).expect_err(rule);
        let told = panic.downcast_ref::<String>().unwrap();
        assert!(told.contains(rule), "{told}");
    }
}

#[test]
fn a_strategy_without_a_fault_passes() {
    testing::conformance_of("faulty");
}

const META: ModelMeta = ModelMeta::of("outsider", env!("CARGO_PKG_NAME"))
    .summary("a model of one's own")
    .stacks(&[StackMeta::dual("double", 2), StackMeta::dual("single", 3)])
    .modules(&["attn"])
    .meta();

inventory::submit! { META }

#[test]
fn metadata_written_as_a_constant_registers() {
    let found = meta::model("outsider").unwrap();
    assert_eq!((found, found.origin, found.problems()), (&META, "magcache-tests", Vec::new()));
    assert_eq!((found.range("single").unwrap(), found.signals.len()), (2..5, 0));
    assert!(meta::models().contains(&found));
}
