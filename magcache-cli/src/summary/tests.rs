//! A skipped whole forward counts once, on its own branch, whatever the hooks inside it would have done.

use candle_core::{DType, Device, Tensor};
use magcache_core::{
    Branch, CachePlan, Expert, ModelMeta, Modules, Phase, Session, Streams, Trajectory, no_signals,
};

use serde_json::json;

use super::{Module, Summary, strip};

const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// Eight steps of two experts; the model has four blocks, each with a module that multiplies by the step's
/// number.
fn run(tables: &str) -> (Session, ModelMeta, Trajectory) {
    magcache_strategies::link();
    let model =
        ModelMeta { modules: (&["mixer"]).into(), ..ModelMeta::of("toy", "tests").meta().with_blocks(&[4]) };
    let phases = vec![Phase { expert: Expert(0), steps: 0..4 }, Phase { expert: Expert(1), steps: 4..8 }];
    let run = Trajectory::plain(8, &BOTH).with_phases(phases);
    let plan = CachePlan::parse(tables).expect("the tables are sound");
    let built = plan.build(&model, Some(&run)).expect("the plan fits");
    let mut session = built.registry.session();
    for step in run.steps() {
        for branch in BOTH {
            let x = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).expect("a shape");
            let by = 1.0 + step.index as f64;
            let block = |_, x: Streams, modules: &mut Modules<'_>| {
                let mixed = modules.module("mixer", x.clone(), |x| x.map(|x| x * by))?;
                x.add(&mixed)
            };
            let forward = |x: Tensor, pass: &mut magcache_core::Pass<'_>| {
                pass.run_modules(4, &no_signals, Streams::Image(x), block)?.into_image()
            };
            session.pass(&step, branch).forward(x, forward).expect("nothing fails");
        }
    }
    (session, model, run)
}

fn summary(tables: &str) -> (Summary, Vec<(Branch, String)>) {
    let (session, model, run) = run(tables);
    let summary = Summary::of(session.log(), session.registry(), &model, &run);
    (summary, strip::strips(session.log(), &run))
}

fn skipped(summary: &Summary) -> Vec<((u8, Branch), Vec<usize>)> {
    summary.parts.iter().map(|((expert, branch), part)| ((expert.0, *branch), part.skipped.clone())).collect()
}

const CFG: &str = "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 3\nstart = 1\n";

#[test]
fn a_skipped_forward_is_one_pass_of_its_branch() {
    let (summary, _) = summary(CFG);
    // Steps 0, 3 and 6 are full; 4 begins the second phase.
    let expected = vec![
        ((0, Branch::Cond), vec![]),
        ((0, Branch::Uncond), vec![1, 2]),
        ((1, Branch::Cond), vec![]),
        ((1, Branch::Uncond), vec![5, 7]),
    ];
    assert_eq!(skipped(&summary), expected);
    assert_eq!((summary.passes, summary.skipped(), summary.computed(), summary.saved), (16, 4, 12, 4.0));
    assert!((summary.ceiling().expect("known") - 16.0 / 12.0).abs() < 1e-12);
}

#[test]
fn blocks_inside_a_skipped_forward_are_not_counted_again() {
    let blocks = "[[cache]]\nstrategy = \"schedule\"\nat = \"0..2\"\nskip = [1, 3, 5]\n";
    let (summary, strips) = summary(&format!("{CFG}{blocks}"));
    let expected = vec![
        ((0, Branch::Cond), vec![1, 3]),
        ((0, Branch::Uncond), vec![1, 2, 3]),
        ((1, Branch::Cond), vec![5]),
        ((1, Branch::Uncond), vec![5, 7]),
    ];
    assert_eq!(skipped(&summary), expected);
    // Four whole forwards, and half of the blocks in three conditional passes and one unconditional one.
    assert_eq!((summary.skipped(), summary.saved), (8, 4.0 + 4.0 * 0.5));
    assert!((summary.ceiling().expect("known") - 16.0 / 10.0).abs() < 1e-12);
    let marks = |branch| {
        let of = strips.iter().find(|(b, _)| *b == branch).map(|(_, s)| s.replace('|', ""));
        of.unwrap_or_default()
    };
    assert_eq!((marks(Branch::Cond).as_str(), marks(Branch::Uncond).as_str()), ("#.#.#.##", "#...#.#."));
}

const MODULES: &str = "[[cache]]\nstrategy = \"schedule\"\nat = \"mixer\"\nskip = [1, 2, 5]\n";

#[test]
fn a_forecast_module_is_no_skipped_pass_and_has_no_ceiling() {
    let (summary, strips) = summary(MODULES);
    assert_eq!((summary.skipped(), summary.computed(), summary.saved), (0, 16, 0.0));
    // Four blocks, two branches, three of eight steps.
    assert_eq!(summary.modules["mixer"], Module { computed: 4 * 2 * 5, forecast: 4 * 2 * 3 });
    assert_eq!((summary.ceiling(), summary.ceiling_text().as_str()), (None, "ceiling not known"));
    assert!(
        summary.text(&["a", "b"], &[]).contains("a cond: 4 steps, 4 computed (4 modules-only), 0 skipped\n")
    );
    assert_eq!(summary.modules_text(), "  mixer in every block: 40 computed, 24 forecast\n");
    assert!(strips.iter().all(|(_, strip)| !strip.contains('.')));
    let (session, _, run) = run(MODULES);
    let lines = strip::lines(session.log(), &run);
    assert_eq!(lines[0], (Branch::Cond, "####|####".to_owned()));
    assert_eq!(lines[2], (Branch::Cond, "#..#|#.## mixer".to_owned()));
    assert_eq!(lines.len(), 4);
}

#[test]
fn modules_of_skipped_blocks_are_not_counted() {
    let blocks = "[[cache]]\nstrategy = \"schedule\"\nat = \"0..2\"\nskip = [3, 5]\n";
    let (summary, _) = summary(&format!("{blocks}{MODULES}"));
    // Two of four blocks are skipped at steps 3 and 5; at step 5 the modules of the other two are forecast.
    let module = Module { computed: 2 * (4 * 5 - 2), forecast: 2 * (4 * 3 - 2) };
    assert_eq!((summary.skipped(), summary.modules["mixer"]), (4, module));
}

#[test]
fn nested_hooks_have_reasons_of_their_own() {
    let outer = "[[cache]]\nstrategy = \"schedule\"\nskip = [3]\nlast_steps = 1\n";
    let inner = "[[cache]]\nstrategy = \"schedule\"\nat = \"0..2\"\nskip = [2, 7]\nmax_skips = 1\n";
    let (summary, _) = summary(&format!("{outer}{inner}"));
    let names = ["outer".to_owned(), "inner".to_owned()];
    let told = summary.text(&["high", "low"], &names);
    let expected = "  high cond: 4 steps, 2 computed, 2 skipped\n\
        \x20   outer: computed 3 times (2 scheduled, 1 warmup), skipped 1\n\
        \x20   inner: computed 2 times (1 scheduled, 1 warmup), skipped 1\n";
    assert!(told.starts_with(expected), "{told}");
    let part = &summary.json(&["high", "low"], &names)[0];
    assert_eq!((&part["steps"], &part["computed"], &part["skipped"]), (&json!(4), &json!(2), &json!(2)));
    assert!(part["computed_because"].is_null(), "two hooks have no reasons in common: {part}");
    let inner = json!({
        "strategy": "inner", "skipped": 1, "computed_because": { "scheduled": 1, "warmup": 1 },
        "mean_metric": null, "max_metric": null, "audit": null,
    });
    assert_eq!(part["hooks"][1], inner);
}
