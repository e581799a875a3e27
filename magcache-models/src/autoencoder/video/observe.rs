//! Observation of the outputs of the modules of encoder and decoder.

use std::fmt;

use candle_core::Tensor;

use super::layout::channels_first;

/// The output of one module for one chunk.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// Number of the chunk in its stream, from 0.
    pub chunk: usize,
    /// Path of the module in the checkpoint, `decoder.up_blocks.2`.
    pub module: &'a str,
    /// `[batch, channels, frames, height, width]` as in the network: not clamped, and in patches in Wan 2.2.
    pub output: Tensor,
}

/// Called with every output in the order in which modules run. An error stops the stream.
pub type Observer<'a> = dyn FnMut(&Observation<'_>) -> candle_core::Result<()> + 'a;

/// Passes outputs to an observer, if there is one.
pub(super) struct Trace<'a, 'b> {
    observer: Option<&'a mut Observer<'b>>,
    part: &'static str,
    chunk: usize,
}

impl<'a, 'b> Trace<'a, 'b> {
    /// `part` is `encoder` or `decoder`.
    pub(super) fn new(part: &'static str, chunk: usize, observer: Option<&'a mut Observer<'b>>) -> Self {
        Self { observer, part, chunk }
    }

    /// Without an observer.
    pub(super) fn off() -> Self {
        Self::new("", 0, None)
    }

    /// Reports the output `x` `[batch, frames, height, width, channels]` of the module `name`.
    pub(super) fn show(&mut self, name: fmt::Arguments<'_>, x: &Tensor) -> candle_core::Result<()> {
        let Some(observer) = &mut self.observer else { return Ok(()) };
        let module = format!("{}.{name}", self.part);
        observer(&Observation { chunk: self.chunk, module: &module, output: channels_first(x)? })
    }
}
