//! Z-Image.

use anyhow::Result;
use magcache_core::{Pass, inventory};
use magcache_models::z_image::{MULTIPLE, ZImageConfig, ZImageTransformer};

use super::{Forward, Network, Stored, gaussian};
use crate::args::BenchForward;

inventory::submit! { Network { class: "ZImageTransformer2DModel", open } }

/// The caption is refined once per generation, so that is not timed.
fn open(stored: &Stored, args: &BenchForward) -> Result<Forward> {
    let config = stored.config(ZImageConfig::from_json)?;
    let model = ZImageTransformer::load(&stored.weights, config.clone())?;
    let [frames, height, width] = args.latent;
    let (rows, columns) = (frames * height / 2, width / 2);
    let latents = gaussian(&[1, config.in_channels, 2 * rows, 2 * columns])?;
    let prompt = model.prompt(&gaussian(&[1, args.text, config.cap_feat_dim])?, [rows, columns])?;
    let tokens = rows * columns;
    let (image, text) =
        (tokens.next_multiple_of(MULTIPLE) as f64, args.text.next_multiple_of(MULTIPLE) as f64);
    let (d, hidden) = (config.dim as f64, config.hidden() as f64);
    let block = |n: f64| 2.0 * n * d * (4.0 * d + 3.0 * hidden) + 4.0 * n * n * d;
    let blocks = [config.n_layers, config.n_refiner_layers].map(|blocks| blocks as f64);
    let gflop = (blocks[0] * block(image + text) + blocks[1] * block(image)) / 1e9;
    let run = move || model.forward(&latents, &model.time(0.5)?, &prompt, &mut Pass::off()).map(|_| ());
    Ok(Forward { tokens, gflop, run: Box::new(run) })
}
