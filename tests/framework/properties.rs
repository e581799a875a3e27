//! Laws on random input: the pure MagCache decision equals the accumulator form of the published scripts, and
//! no text makes the readers of plans and profiles panic.

use magcache_strategies::magcache::{Dialect, MagCache};
use proptest::{collection::vec, prelude::*};

use crate::prelude::*;

/// Parameters of a run; the curve has values for cond and uncond.
#[derive(Clone, Debug)]
struct Case {
    ratios: [Vec<f64>; 2],
    steps: usize,
    high: usize,
    threshold: f64,
    max_skips: usize,
    retention: f64,
}

impl Case {
    fn rule(&self, dialect: Dialect) -> MagCache {
        let [cond, uncond] = self.ratios.clone();
        let setting = (self.threshold, self.max_skips, self.retention);
        rule(dialect, setting, vec![curve(cond, uncond)])
    }

    fn phases(&self) -> Vec<Phase> {
        phases(&[self.high, self.steps - self.high])
    }

    /// The nearest value of a branch's curve, ties to the even index; a single step takes the last value.
    fn ratio(&self, branch: usize, step: usize) -> f64 {
        let values = &self.ratios[branch];
        let last = values.len() - 1;
        if self.steps == values.len() {
            values[step]
        } else if self.steps == 1 {
            values[last]
        } else {
            values[(step as f64 * (last as f64 / (self.steps - 1) as f64)).round_ties_even() as usize]
        }
    }

    /// One decision for both branches. Each phase starts afresh, computes its first step and its first
    /// `floor(n · R)`; after that a step is skipped while both summed errors stay below the threshold.
    fn agreeing(&self) -> Vec<bool> {
        let mut out = Vec::new();
        for Phase { steps, .. } in self.phases() {
            let (mut ratio, mut error, mut skips) = ([1.0; 2], [0.0; 2], 0);
            let kept = (steps.len() as f64 * self.retention).floor() as usize;
            for step in steps.clone() {
                let next = [0, 1].map(|b| ratio[b] * self.ratio(b, step));
                let sum = [0, 1].map(|b| error[b] + f64::abs(1.0 - next[b]));
                let fits = sum.iter().all(|e| *e < self.threshold) && skips < self.max_skips;
                if step == steps.start || step - steps.start < kept || !fits {
                    if step - steps.start >= kept {
                        (ratio, error, skips) = ([1.0; 2], [0.0; 2], 0);
                    }
                    out.push(false);
                } else {
                    (ratio, error, skips) = (next, sum, skips + 1);
                    out.push(true);
                }
            }
        }
        out
    }

    /// Each branch decides for itself; the first `floor(2N · R)` forwards of both are computed.
    fn alone(&self, branch: usize) -> Vec<bool> {
        let (mut ratio, mut error, mut skips) = (1.0, 0.0, 0);
        let kept = (2.0 * self.steps as f64 * self.retention).floor() as usize;
        let mut out = Vec::new();
        for step in 0..self.steps {
            if 2 * step + branch < kept {
                out.push(false);
                continue;
            }
            ratio *= self.ratio(branch, step);
            skips += 1;
            error += f64::abs(1.0 - ratio);
            let skip = error < self.threshold && skips <= self.max_skips;
            if !skip {
                (ratio, error, skips) = (1.0, 0.0, 0);
            }
            out.push(skip);
        }
        out
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let curves = (2usize..60).prop_flat_map(|n| [vec(0.6..1.3f64, n), vec(0.6..1.3f64, n)]);
    // Published values lie close to 1; with a wide range alone hardly any step would be skipped.
    let narrow = (2usize..60).prop_flat_map(|n| [vec(0.97..1.02f64, n), vec(0.97..1.02f64, n)]);
    (prop_oneof![curves, narrow], 1usize..70, 0usize..70, 0.0..0.5f64, 0usize..8, 0.0..1.0f64).prop_map(
        |(ratios, steps, high, threshold, max_skips, retention)| Case {
            ratios,
            steps,
            high: high % steps,
            threshold,
            max_skips,
            retention,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pure_decision_is_the_accumulator_of_agreeing_branches(case in cases()) {
        let rule = case.rule(Dialect::Magcache);
        for branch in [Branch::Cond, Branch::Uncond, Branch::Batched] {
            prop_assert_eq!(rule.schedule(&case.phases(), branch), case.agreeing());
        }
    }

    #[test]
    fn the_pure_decision_is_the_accumulator_of_a_branch_alone(case in cases()) {
        let case = Case { high: 0, ..case };
        let rule = case.rule(Dialect::OfficialWan);
        for (i, branch) in [Branch::Cond, Branch::Uncond].into_iter().enumerate() {
            prop_assert_eq!(rule.schedule(&case.phases(), branch), case.alone(i));
        }
    }

    #[test]
    fn no_rule_skips_past_its_cap(case in cases(), dialect in 0..Dialect::ALL.len()) {
        let dialect = Dialect::ALL[dialect];
        let experts = [Dialect::Magcache, Dialect::OfficialWan22T2v, Dialect::OfficialWan22I2v];
        let case = if experts.contains(&dialect) { case } else { Case { high: 0, ..case } };
        let skips = case.rule(dialect).schedule(&case.phases(), Branch::Cond);
        let longest = skips.split(|skip| !skip).map(<[bool]>::len).max().unwrap_or(0);
        prop_assert!(longest <= case.max_skips, "{skips:?}");
    }
}

/// Valid input of the readers: every example, and the shortest profile of each kind.
fn documents() -> Vec<String> {
    let examples = meta::strategies().iter().map(|s| format!("[[cache]]\n{}", s.example)).collect::<Vec<_>>();
    let words =
        "warmup = 0.2\nlast_steps = 1\nmax_skips = 2\nmax_total_skips = 9\nbranches = \"cond-decides\"\n";
    let residuals = "[residuals]\ndtype = \"bf16\"\nbudget = \"2 GiB\"\ndevice = \"same\"\n";
    let profile = "[[cache]]\nstrategy = \"magcache\"\nprofile = \"flux.1-dev\"\nvariant = \"vllm-omni\"\n";
    let chosen = ["mochi", "flux.1-kontext-dev", "hidream-i1"];
    let profiles =
        meta::profiles().into_iter().filter(|p| chosen.contains(&p.name)).map(|p| p.toml.to_owned());
    let own = [format!("{}{words}{residuals}", examples[0]), profile.to_owned()];
    examples.into_iter().chain(own).chain(profiles).collect()
}

/// Reads a text as every kind of document, and builds whatever could be read.
fn read(text: &str) {
    let _ = Profile::parse(text, "file.toml");
    if let Ok(plan) = CachePlan::parse(text) {
        let model = simple("toy", 3);
        let run = guided(9);
        let _ = plan.build(&model, Some(&run));
        for entry in &plan.cache {
            entry.to_table().unwrap();
        }
    }
}

/// Fragments that mean something to the readers.
const PIECES: &str =
    "-1 1e400 nan inf 0 9223372036854775807 \"\" [] {} = [[cache]] true -0.0 \u{fe0f} magcache";

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_read_without_a_panic(text in any::<String>(), bytes in vec(any::<u8>(), 0..200)) {
        read(&text);
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn damaged_documents_are_read_without_a_panic(
        which in any::<prop::sample::Index>(),
        cuts in vec((any::<prop::sample::Index>(), 0usize..12, any::<prop::sample::Index>()), 1..4),
    ) {
        let documents = documents();
        let mut text: Vec<char> = which.get(&documents).chars().collect();
        let pieces: Vec<&str> = PIECES.split(' ').chain(["\n"]).collect();
        for (at, cut, piece) in cuts {
            let start = at.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            text.splice(start..end, piece.get(&pieces).chars());
        }
        read(&text.into_iter().collect::<String>());
    }
}
