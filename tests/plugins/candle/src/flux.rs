//! FLUX.1 behind caches of the whole forward.

use candle_core::{Result, Tensor};
use candle_transformers::models::flux::{WithForward, sampling::State};
use magcache_core::{ModelMeta, Pass, Session, Step, Trajectory, inventory};

/// What the model says about itself: no blocks that a cache could surround.
pub const META: ModelMeta = ModelMeta::of("candle-flux", env!("CARGO_PKG_NAME"))
    .summary("FLUX.1 of candle-transformers, as a whole")
    .stacks(&[])
    .unguided()
    .hidden_size(3072)
    .meta();

inventory::submit! { META }

/// The velocity `[batch, tokens, channels]` for latents `img` of that shape; the prompt and the positions are
/// those of `inputs`, `t` and `guidance` are `[batch]`.
///
/// # Errors
/// Any error of the model or of a cache.
pub fn forward<M: WithForward>(
    model: &M,
    img: &Tensor,
    inputs: &State,
    t: &Tensor,
    guidance: &Tensor,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let State { img_ids, txt, txt_ids, vec, .. } = inputs;
    pass.forward(img.clone(), |img, _| model.forward(&img, img_ids, txt, txt_ids, t, vec, Some(guidance)))
}

/// As `sampling::denoise` of the library, with caches; `after` sees the latents after every step.
///
/// # Errors
/// As [`forward`].
pub fn denoise<M: WithForward>(
    model: &M,
    inputs: &State,
    run: &Trajectory,
    guidance: f64,
    session: &mut Session,
    mut after: impl FnMut(&Step, &Tensor),
) -> Result<Tensor> {
    let full = |value: f64| Tensor::full(value as f32, inputs.img.dim(0)?, inputs.img.device());
    let (guidance, mut img) = (full(guidance)?, inputs.img.clone());
    for (step, sigmas) in run.steps().zip(run.sigmas.windows(2)) {
        let mut pass = session.pass(&step, run.branches[0]);
        let velocity = forward(model, &img, inputs, &full(sigmas[0])?, &guidance, &mut pass)?;
        img = (img + velocity * (sigmas[1] - sigmas[0]))?;
        after(&step, &img);
    }
    Ok(img)
}
