//! The cache bytes predicted before a run are those of the run, and a byte budget drops exactly what was
//! predicted.

use magcache_core::{
    hint,
    schedule::{Sizes, most_bytes, simulate_sized},
};
use proptest::prelude::*;

use crate::prelude::*;

/// The sizes of the toy models.
const SIZES: Sizes = Sizes { tokens: 6, text_tokens: 3, latents: 48, timesteps: 1, dtype: DType::F32 };

fn toy(with_text: bool) -> (Toy, ModelMeta) {
    let toy = if with_text { dual(6, 0) } else { Toy::image(6) };
    let meta = ModelMeta { hidden_size: 8, ..toy.meta().clone() };
    (toy, meta)
}

fn trajectory(steps: usize, with_uncond: bool, experts: bool) -> Trajectory {
    let run = if with_uncond { guided(steps) } else { alone(steps) };
    if experts { run.with_phases(phases(&[steps / 2, steps - steps / 2])) } else { run }
}

/// One `[[cache]]` table, or two nested ones.
fn tables() -> impl Strategy<Value = String> {
    let known = strategies();
    let table = move |at: &'static [&'static str]| {
        let forecast = prop::sample::select(vec![
            "",
            "forecast = { type = \"residual\" }",
            "forecast = { type = \"output\" }",
            "forecast = { type = \"taylor\" }",
            "forecast = { type = \"taylor\", order = 3 }",
        ]);
        let follow = prop::sample::select(vec!["", "branches = \"cond-decides\""]);
        (prop::sample::select(known.clone()), prop::sample::select(at), forecast, follow).prop_map(
            |(info, at, forecast, follow)| {
                format!("[[cache]]\n{at}\n{forecast}\n{follow}\n{}\n", info.example)
            },
        )
    };
    let outer = table(&["", "", "at = \"all\"", "at = \"1..6\"", "at = \"0..3\"", "at = \"forward\""]);
    let inner = prop::option::of(table(&["at = \"2..5\"", "at = \"0..4\"", ""]));
    (outer, inner).prop_map(|(outer, inner)| outer + &inner.unwrap_or_default())
}

/// Compares the prediction with what a run holds; `None` if the tables cannot be combined.
fn check(text: &str, with_text: bool, steps: &Trajectory) -> Option<()> {
    let (toy, meta) = toy(with_text);
    let built = build(text, &meta, steps).ok()?;
    let mut held = built.registry.session();
    run(&toy, Some(&mut held), steps, 1).unwrap();
    let peak = held.slots().peak_bytes();
    let plan = CachePlan::parse(text).unwrap();
    let most = most_bytes(plan, &meta, steps, &SIZES).unwrap().expect("can be known");
    assert!(peak <= most, "{peak} bytes held, at most {most} said:\n{text}");
    if built.registry.is_static() {
        let said = simulate_sized(&built.registry, &meta, steps, &SIZES).unwrap();
        assert_eq!(said.peak_bytes, peak, "{text}");
        let without_content = |line: &String| line.split(" metric ").next().map(str::to_owned);
        let lines = |log| transcript(log).iter().map(without_content).collect::<Vec<_>>();
        assert_eq!(lines(&said.log), lines(held.log()), "{text}");
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_is_said_before_a_run_is_held(
        tables in tables(),
        dual in any::<bool>(),
        (steps, guided, experts) in (6usize..14, any::<bool>(), any::<bool>()),
        dtype in prop::sample::select(vec!["", "dtype = \"f16\"\n", "dtype = \"bf16\"\n"]),
        budget in prop::option::of(0usize..3000),
    ) {
        let budget = budget.map_or(String::new(), |bytes| format!("budget = \"{bytes}\"\n"));
        let text = format!("{tables}\n[residuals]\n{dtype}{budget}");
        check(&text, dual, &trajectory(steps, guided, experts));
    }
}

#[test]
fn every_strategy_alone_is_known_and_some_hold_more_than_a_residual() {
    let steps = trajectory(12, true, false);
    let residual = SIZES.tokens * 8 * 4;
    let mut above = 0;
    for info in strategies() {
        let text = format!("[[cache]]\n{}", info.example);
        check(&text, false, &steps).unwrap_or_else(|| panic!("{} is a plan", info.name));
        let (_, meta) = toy(false);
        let most = most_bytes(CachePlan::parse(&text).unwrap(), &meta, &steps, &SIZES).unwrap();
        above += usize::from(most > Some(2 * residual));
    }
    assert!(above >= 4, "{above} strategies keep more than the residual of two branches");
}

#[test]
fn bytes_of_a_model_that_does_not_say_its_width_are_not_predicted() {
    let (steps, text) = (trajectory(8, true, false), "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3]");
    let meta = simple("outsider", 6);
    let registry = build(text, &meta, &steps).unwrap().registry;
    let most = most_bytes(CachePlan::parse(text).unwrap(), &meta, &steps, &SIZES).unwrap_err();
    let held = simulate_sized(&registry, &meta, &steps, &SIZES).unwrap_err();
    for (message, hint) in [(most.to_string(), most.hint()), (held.to_string(), hint::of(&held))] {
        assert!(message.contains("\"outsider\"") && message.contains("without `hidden_size`"), "{message}");
        assert!(hint.unwrap_or_default().contains("hidden_size(3072)"), "{message}");
    }
    // Decisions need no width.
    assert!(simulate(&registry, &meta, &steps).is_ok());
}

#[test]
fn a_budget_without_sizes_is_no_schedule() {
    let (_, meta) = toy(false);
    let steps = trajectory(8, true, false);
    let text = "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3]\n[residuals]\nbudget = \"1 KiB\"\n";
    let built = build(text, &meta, &steps).unwrap();
    let error = simulate(&built.registry, &meta, &steps).unwrap_err().to_string();
    assert!(error.contains("a budget of 1024 bytes"), "{error}");
}
