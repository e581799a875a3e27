//! AAC-LC from samples.

use syom::{EncodeOptions, Encoder};

use crate::resample;

/// Bits per second and channel; for two channels that is what the official program of Wan2.2-S2V asks for.
const BITS: u32 = 96_000;
/// Rates that are coded as they are.
const RATES: [u32; 2] = [44_100, 48_000];

/// Coded sound.
pub(crate) struct Coded {
    /// The `AudioSpecificConfig`.
    pub(crate) config: Vec<u8>,
    pub(crate) rate: u32,
    pub(crate) packets: Vec<Box<[u8]>>,
    /// Samples in each packet.
    pub(crate) per_packet: u32,
    /// Samples that a decoder gives before the first one.
    pub(crate) priming: u64,
    pub(crate) samples: u64,
}

/// Codes one or two planes of equal length. Other rates than 44.1 and 48 kHz become 48 kHz first: at low
/// rates the encoder spends its bits badly, and some players know no others. Values beyond [-1, 1] are
/// clipped.
pub(crate) fn aac(planes: &[Vec<f32>], rate: u32) -> Result<Coded, syom::AacError> {
    let out_rate = if RATES.contains(&rate) { rate } else { 48_000 };
    let mut planes: Vec<Vec<f32>> = planes.iter().map(|plane| resample(plane, rate, out_rate)).collect();
    planes.iter_mut().flatten().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
    let options = EncodeOptions::raw().with_bitrate_bps(BITS * planes.len() as u32);
    let mut encoder = Encoder::new(out_rate, planes.len(), &options)?;
    let config = encoder.asc().to_vec();
    let mut packets = Vec::new();
    let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
    let mut keep = |frame: syom::EncodedFrame<'_>| {
        packets.push(frame.payload.into());
        Ok(())
    };
    encoder.feed(&planes, &mut keep)?;
    let info = encoder.finish(&mut keep)?;
    let per_packet = info.coded_samples.checked_div(info.aac_frames).unwrap_or(0) as u32;
    Ok(Coded { config, rate: out_rate, packets, per_packet, priming: info.priming, samples: info.samples })
}
