//! Looking inside: what leaves the modules of encoder and decoder.

use std::fmt;

use candle_core::Tensor;

use super::layout::channels_first;

/// What one module gave for one chunk.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// Number of the chunk in its stream, from 0.
    pub chunk: usize,
    /// Path of the module in the checkpoint, `decoder.up_blocks.2`.
    pub module: &'a str,
    /// `[batch, channels, frames, height, width]` as the network has them: not clamped, and of Wan 2.2 in patches.
    pub output: Tensor,
}

/// Called in the order in which modules run. An error stops the stream.
pub type Observer<'a> = dyn FnMut(&Observation<'_>) -> candle_core::Result<()> + 'a;

/// Shows outputs to an observer, if there is one.
pub(super) struct Trace<'a, 'b> {
    observer: Option<&'a mut Observer<'b>>,
    part: &'static str,
    chunk: usize,
}

impl<'a, 'b> Trace<'a, 'b> {
    /// `part` is encoder or decoder.
    pub(super) fn new(part: &'static str, chunk: usize, observer: Option<&'a mut Observer<'b>>) -> Self {
        Self { observer, part, chunk }
    }

    /// Nobody looks.
    pub(super) fn off() -> Self {
        Self::new("", 0, None)
    }

    /// The module `name` gave `x` `[batch, frames, height, width, channels]`.
    pub(super) fn show(&mut self, name: fmt::Arguments<'_>, x: &Tensor) -> candle_core::Result<()> {
        let Some(observer) = &mut self.observer else { return Ok(()) };
        let module = format!("{}.{name}", self.part);
        observer(&Observation { chunk: self.chunk, module: &module, output: channels_first(x)? })
    }
}
