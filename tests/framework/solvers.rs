//! Loops of authors: branches in their natural order, solvers that own their loop and call a closure, and
//! experts that switch at a noise level.

use candle_core::Result;
use magcache_core::{
    StackMeta, hint,
    run::{NoStep, steps_above},
};

use crate::prelude::*;

const META: ModelMeta = ModelMeta::of("outsider", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::image("blocks", 4)])
    .signals(&[Signal::ModulatedInput])
    .meta();

const PLANS: [&str; 2] = [
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.12\n",
    "[[cache]]\nstrategy = \"teacache\"\nthreshold = 0.3\npolicy = \"linear\"\n",
];

/// Noise levels of a shifted schedule.
fn shifted(shift: f64, steps: usize) -> Vec<f64> {
    let u = |i: usize| 1.0 - i as f64 / steps as f64;
    (0..=steps).map(|i| shift * u(i) / (1.0 + (shift - 1.0) * u(i))).collect()
}

fn noise() -> Tensor {
    let values = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, (1, 6, 8), &Device::Cpu).unwrap()
}

/// The velocity of a model of four blocks at a noise level.
fn velocity(pass: &mut Pass<'_>, x: &Tensor, sigma: f64, branch: Branch) -> Result<Tensor> {
    let shift = if branch == Branch::Cond { 0.5 } else { -0.3 };
    Stacks::default()
        .image(&[0.2, 0.3, 0.25, 0.15], |w, x| x + (x.affine(0.8, shift * sigma)?.tanh()? * *w)?)
        .signals(|_, x| x.image()?.affine(1.0 + 0.3 * sigma, 0.1 * sigma))
        .run(pass, x.clone())
}

#[test]
fn branches_in_their_natural_order_are_those_of_a_session_each() {
    let run = Trajectory::from_sigmas(&shifted(3.0, 20), &BOTH);
    for plan in PLANS {
        let [mut both, mut first, mut second] = [(); 3].map(|()| session(plan, &META, &run));
        let mut x = noise();
        for (step, sigmas) in run.steps().zip(run.sigmas.windows(2)) {
            let cond = velocity(&mut both.pass(&step, Branch::Cond), &x, step.sigma, Branch::Cond).unwrap();
            let uncond =
                velocity(&mut both.pass(&step, Branch::Uncond), &x, step.sigma, Branch::Uncond).unwrap();
            let alone = velocity(&mut first.pass(&step, Branch::Cond), &x, step.sigma, Branch::Cond).unwrap();
            assert!(same_bits(&cond, &alone), "{plan}");
            let alone =
                velocity(&mut second.pass(&step, Branch::Uncond), &x, step.sigma, Branch::Uncond).unwrap();
            assert!(same_bits(&uncond, &alone), "{plan}");
            let guided = (&uncond + ((cond - &uncond).unwrap() * 4.0).unwrap()).unwrap();
            x = (x + (guided * (sigmas[1] - sigmas[0])).unwrap()).unwrap();
        }
        for (alone, branch) in [(first, Branch::Cond), (second, Branch::Uncond)] {
            let own = reused(&both, 0, branch);
            assert!(!own.is_empty() && own == reused(&alone, 0, branch), "{plan}: {own:?}");
        }
        // A signal is that of both branches here, the first block's residual is not.
        let alike = reused(&both, 0, Branch::Cond) == reused(&both, 0, Branch::Uncond);
        assert_eq!(alike, plan.contains("teacache"));
    }
}

/// A network as solvers call it: the sample and the timestep.
type Network<'a> = dyn FnMut(&Tensor, f64) -> Result<Tensor> + 'a;

fn euler(sigmas: &[f64], mut x: Tensor, network: &mut Network<'_>) -> Result<Tensor> {
    for pair in sigmas.windows(2) {
        let d = network(&x, 1000.0 * pair[0])?;
        x = (x + (d * (pair[1] - pair[0]))?)?;
    }
    Ok(x)
}

fn heun(sigmas: &[f64], mut x: Tensor, network: &mut Network<'_>) -> Result<Tensor> {
    for pair in sigmas.windows(2) {
        let by = pair[1] - pair[0];
        let d = network(&x, 1000.0 * pair[0])?;
        x = if pair[1] == 0.0 {
            (x + (d * by)?)?
        } else {
            let there = network(&(&x + (&d * by)?)?, 1000.0 * pair[1])?;
            (x + ((d + there)? * (by / 2.0))?)?
        };
    }
    Ok(x)
}

/// Guidance in a closure that finds its step by `find`.
fn guide<'a>(
    session: &'a mut Session,
    mut find: impl FnMut(f64) -> std::result::Result<Step, NoStep> + 'a,
) -> impl FnMut(&Tensor, f64) -> Result<Tensor> + 'a {
    move |x, timestep| {
        let step = find(timestep).map_err(hint::wrap)?;
        let mut predict = |branch| velocity(&mut session.pass(&step, branch), x, timestep / 1000.0, branch);
        let (cond, uncond) = (predict(Branch::Cond)?, predict(Branch::Uncond)?);
        &uncond + ((cond - &uncond)? * 4.0)?
    }
}

#[test]
fn a_solver_that_owns_its_loop_finds_the_step_by_the_timestep() {
    let sigmas = shifted(3.0, 20);
    let run = Trajectory::from_sigmas(&sigmas, &BOTH).switch_at(0.8);
    for plan in PLANS {
        let [mut owned, mut plain] = [(); 2].map(|()| session(plan, &META, &run));
        let mut cursor = run.cursor();
        let x = euler(&sigmas, noise(), &mut guide(&mut owned, |t| cursor.step(t))).unwrap();
        let mut y = noise();
        for (step, sigmas) in run.steps().zip(run.sigmas.windows(2)) {
            let d = guide(&mut plain, |_| Ok(step.clone()))(&y, step.timestep).unwrap();
            y = (y + (d * (sigmas[1] - sigmas[0])).unwrap()).unwrap();
        }
        assert!(same_bits(&x, &y), "{plan}");
        assert_eq!(owned.log(), plain.log(), "{plan}");
        assert!(!reused(&owned, 0, Branch::Cond).is_empty(), "{plan}");
    }
}

#[test]
fn the_second_look_of_a_step_has_its_own_slot() {
    let sigmas = shifted(3.0, 20);
    let run = Trajectory::from_sigmas(&sigmas, &BOTH);
    for plan in PLANS {
        let [mut owned, mut by_hand] = [(); 2].map(|()| session(plan, &META, &run));
        let mut cursor = run.cursor().second_order();
        let x = heun(&sigmas, noise(), &mut guide(&mut owned, |t| cursor.step(t))).unwrap();
        let mut y = noise();
        for (step, pair) in run.steps().zip(sigmas.windows(2)) {
            let by = pair[1] - pair[0];
            let d = guide(&mut by_hand, |_| Ok(step.clone()))(&y, step.timestep).unwrap();
            let ahead = (&y + (&d * by).unwrap()).unwrap();
            if step.index + 1 == run.len() {
                y = ahead;
                continue;
            }
            let look = Step { eval: 1, timestep: 1000.0 * pair[1], sigma: pair[1], ..step.clone() };
            let there = guide(&mut by_hand, |_| Ok(look.clone()))(&ahead, look.timestep).unwrap();
            y = (y + ((d + there).unwrap() * (by / 2.0)).unwrap()).unwrap();
        }
        assert!(same_bits(&x, &y), "{plan}");
        assert_eq!(owned.log(), by_hand.log(), "{plan}");
        let looks = |session: &Session| {
            [0, 1].map(|eval| session.log().records().iter().filter(|record| record.eval == eval).count())
        };
        assert_eq!(looks(&owned), [2 * 20, 2 * 19]);
        let evals: BTreeSet<u8> = owned.slots().keys().map(|key| key.eval).collect();
        assert_eq!(evals, BTreeSet::from([0, 1]), "{plan}");
        assert!(!reused(&owned, 0, Branch::Cond).is_empty(), "{plan}");
    }
}

#[test]
fn timesteps_that_the_run_does_not_have_are_errors_that_name_both() {
    let sigmas = [1.0, 0.75, 0.4, 0.0];
    let run = Trajectory::from_sigmas(&sigmas, &BOTH);
    let mut session = session(PLANS[0], &META, &run);
    let other = [1.0, 0.6, 0.0];
    let one = || run.cursor();
    let two = || run.cursor().second_order();
    let [mut unknown, mut small, mut once] = [one(), one(), one()];
    let [mut by_euler, mut by_other, mut longer] = [two(), two(), two()];
    let unknown = euler(&other, noise(), &mut guide(&mut session, |t| unknown.step(t)));
    let small = euler(&[0.75, 0.4], noise(), &mut guide(&mut session, |t| small.step(t / 1000.0)));
    // Heun's second look at step 0 has the timestep of step 1, which then begins there a second time.
    let by_heun = heun(&sigmas, noise(), &mut guide(&mut session, |t| once.step(t)));
    let first_order = euler(&sigmas, noise(), &mut guide(&mut session, |t| by_euler.step(t)));
    let second = heun(&other, noise(), &mut guide(&mut session, |t| by_other.step(t)));
    heun(&sigmas, noise(), &mut guide(&mut session, |t| longer.step(t))).unwrap();
    let late = guide(&mut session, |t| longer.step(t))(&noise(), 200.0);
    for (result, parts, todo) in [
        (unknown, ["600", "step 1 with 750"], "from_sigmas"),
        (small, ["0.75", "step 2 with 400"], "from_sigmas"),
        (
            by_heun,
            ["at the timestep 750", "evaluation 0 of step 2 is at 400"],
            "`run.cursor().second_order()` for two",
        ),
        (first_order, ["400", "evaluation 0 of step 1 is at 750"], "`run.cursor()` is for one"),
        (second, ["600", "step 1 with 750"], "from_sigmas"),
        (late, ["200", "after the last of 3 steps"], "once for each"),
    ] {
        let error = result.unwrap_err();
        let (message, hint) = (error.to_string(), hint::of(&error).unwrap_or_default());
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(hint.contains(todo), "{message}: {hint}");
    }
}

#[test]
fn a_pass_past_the_last_step_is_an_error_that_names_both() {
    let run = Trajectory::from_sigmas(&shifted(3.0, 4), &BOTH);
    let forward = "[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"forward\"\n";
    for plan in ["", PLANS[0], forward] {
        let mut session = session(plan, &META, &run);
        let mut at = |i: usize| {
            let step = run.step(i);
            let mut pass = session.pass(&step, Branch::Cond);
            pass.forward(noise(), |x, pass| velocity(pass, &x, step.sigma, Branch::Cond))
        };
        for i in 0..4 {
            at(i).unwrap();
        }
        for i in 4..6 {
            let error = at(i).unwrap_err();
            assert_eq!(error.to_string(), format!("a pass at step {i} of a run of 4 steps"), "{plan}");
            assert!(hint::of(&error).unwrap_or_default().contains("0..4"), "{plan}");
        }
    }
}

#[test]
fn experts_switch_where_the_published_boundaries_are() {
    for shift in [1.0, 3.0, 5.0, 8.0, 12.0] {
        for boundary in [0.875, 0.9] {
            for steps in 1..=60 {
                let run = Trajectory::from_sigmas(&shifted(shift, steps), &BOTH).switch_at(boundary);
                let high = run.steps().filter(|step| step.expert == Expert(0)).count();
                assert_eq!(high, steps_above(boundary, shift, steps), "{steps} steps, {shift}, {boundary}");
                let owned: usize = run.phases.iter().map(|phase| phase.steps.len()).sum();
                assert_eq!((owned, run.boundary_ratio), (steps, Some(boundary)));
                let first = run.steps().all(|step| (step.sigma >= boundary) == (step.expert == Expert(0)));
                assert!(first, "{steps} steps, {shift}, {boundary}");
            }
        }
    }
    // Wan2.2: text to video at shift 12 and 0.875, image to video at shift 5 and 0.9, both of 40 steps.
    for (shift, boundary, high) in [(12.0, 0.875, 26), (5.0, 0.9, 15)] {
        let run = Trajectory::from_sigmas(&shifted(shift, 40), &BOTH).switch_at(boundary);
        assert_eq!((run.step(high - 1).expert, run.step(high).expert), (Expert(0), Expert(1)));
    }
}
