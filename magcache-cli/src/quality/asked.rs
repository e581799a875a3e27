//! The metric that flags ask for.

use anyhow::{Context, Result};

use super::Lpips;
use crate::{
    args::{Metric, Metrics},
    console::bad_input_with,
};

/// The file that the metric needs, as messages describe it.
const FILE: &str = "the state_dict() of lpips.LPIPS(net='alex'), 'vgg' or 'squeeze'";

/// LPIPS, if `--metric` asks for it, for pictures of this height and width.
///
/// Errors: no weights, a file that is something else, or pictures that are too small.
pub(crate) fn asked(args: &Metrics, [height, width]: [usize; 2]) -> Result<Option<Lpips>> {
    let Some(Metric::Lpips) = args.metric else { return Ok(None) };
    let Some(path) = &args.lpips_weights else {
        let message = "--metric lpips needs the weights of its network, which are not part of the program";
        return Err(bad_input_with(
            message,
            format!("--lpips-weights FILE, {FILE}, as .pth or .safetensors"),
        ));
    };
    let lpips = Lpips::open(path).with_context(|| format!("--lpips-weights needs {FILE}"))?;
    let side = lpips.side();
    if height.min(width) < side {
        let network = lpips.network();
        return Err(bad_input_with(
            format!(
                "--metric lpips with {network} needs at least {side}x{side} pixels, got {width}x{height}"
            ),
            "a larger --size, or leave out --metric",
        ));
    }
    Ok(Some(lpips))
}
