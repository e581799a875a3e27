//! What the encoder hears, before it is normalised.

use std::fmt;

/// A mono recording at [`SAMPLE_RATE`](super::SAMPLE_RATE), f32 between -1 and 1.
#[derive(Clone, PartialEq)]
pub struct Waveform(pub Vec<f32>);

impl fmt::Debug for Waveform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waveform of {} samples", self.0.len())
    }
}
