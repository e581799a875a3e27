//! An opened file, decoded block by block.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use crate::{
    AudioError,
    decode::{Block, Decoder, Refusal},
    packets::Packets,
};

/// Rates that are read, in Hz.
pub(crate) const RATES: RangeInclusive<u32> = 1_000..=384_000;
/// A file may be shorter than it says by this many seconds: a packet or two.
const SLACK: f64 = 0.1;

/// The first track of sound in a file, decoded block by block: WAV (integers of 8 to 32 bits, floats, A-law,
/// mu-law), MP3, FLAC, Ogg Vorbis, and AAC (LC and HE, in M4A, MP4 or as a plain stream) and ALAC in M4A.
///
/// Samples are those that the encoder was given, as far as the file says which they are: what encoders add at
/// the start and the end is left out (the LAME tag of MP3, granules of Ogg, the edit list of MP4).
pub struct SoundFile {
    path: PathBuf,
    packets: Packets,
    decoder: Decoder,
    block: Block,
    /// Samples of each channel that were given out.
    at: u64,
    /// Set from the edit list as soon as the rate is known: samples to leave out, and to give out.
    window: Option<(u64, u64)>,
    ended: bool,
}

impl SoundFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        let packets = Packets::open(path)?;
        let decoder = Decoder::new(&packets.params).map_err(|refusal| refused(path, 0.0, refusal))?;
        if let Some(rate) = packets.params.sample_rate {
            check_rate(path, rate)?;
        }
        let silence = packets.edit.map_or(0.0, |edit| edit.silence);
        if silence > MAX_SILENCE {
            let reason = format!("it begins {silence:.3} s into the file, expected at most {MAX_SILENCE} s");
            return Err(AudioError::Unsupported { path: path.to_owned(), reason });
        }
        let path = path.to_owned();
        Ok(Self { path, packets, decoder, block: Block::default(), at: 0, window: None, ended: false })
    }

    /// How long the file says it is, in seconds; streams do not say.
    pub fn seconds(&self) -> Option<f64> {
        self.packets.promised
    }

    /// Samples per second; 0 before the first block, because some codecs say it nowhere else.
    pub fn rate(&self) -> u32 {
        self.block.rate
    }

    /// Number of channels; 0 before the first block.
    pub fn channels(&self) -> usize {
        self.block.sides.len()
    }

    /// The next samples, channel by channel in turns, or none at the end. PCM of 16 bits is divided by 32768.
    ///
    /// Errors: the file is damaged, ends before its header says, changes its rate or its channels, or has a
    /// sample that is not finite. After an error and at the end there are no more blocks.
    pub fn next_block(&mut self) -> Result<Option<&[f32]>, AudioError> {
        if self.ended {
            return Ok(None);
        }
        let more = self.advance();
        self.ended = !matches!(more, Ok(true));
        Ok(more?.then_some(self.block.samples.as_slice()))
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// Decodes packets until one has samples that are heard.
    fn advance(&mut self) -> Result<bool, AudioError> {
        loop {
            let (rate, sides) = (self.block.rate, self.block.sides.clone());
            let packet = match self.packets.next() {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.end(),
                Err(error) => match Refusal::from(error) {
                    Refusal::Ends => return self.end(),
                    refusal => return Err(self.refused(refusal)),
                },
            };
            let decoded = self.decoder.decode(&packet, &mut self.block);
            decoded.map_err(|refusal| self.refused(refusal))?;
            let block = &mut self.block;
            check_rate(&self.path, block.rate)?;
            if rate != 0 && (rate, &sides) != (block.rate, &block.sides) {
                let (was, is) = (sides.len(), block.sides.len());
                let reason = format!(
                    "it changes from {rate} Hz and {was} channels to {} Hz and {is} channels",
                    block.rate
                );
                return Err(AudioError::Unsupported { path: self.path.clone(), reason });
            }
            let channels = block.sides.len();
            if channels == 0 {
                continue;
            }
            let per_tick = f64::from(block.rate) / self.packets.timescale;
            if let Some(edit) = &self.packets.edit {
                // The last packet is said to be as long as what is left of the sound.
                let long = (packet.block_dur().get() as f64 * per_tick).round() as usize;
                block.samples.truncate(long.saturating_mul(channels));
                let ticks = |seconds: f64| (seconds * f64::from(block.rate)).round() as u64;
                let all = (ticks(edit.skip), edit.heard.map_or(u64::MAX, ticks));
                let first = self.window.is_none();
                let (skip, left) = self.window.get_or_insert(all);
                let there = (block.samples.len() / channels) as u64;
                let skipped = there.min(*skip);
                let kept = (there - skipped).min(*left);
                block.samples.truncate((skipped + kept) as usize * channels);
                block.samples.drain(..skipped as usize * channels);
                *skip -= skipped;
                *left -= kept;
                if first && edit.silence > 0.0 {
                    let silence = ticks(edit.silence) as usize * channels;
                    block.samples.splice(..0, std::iter::repeat_n(0.0, silence));
                }
            }
            if !block.samples.is_empty() {
                self.check_finite()?;
                self.at += (self.block.samples.len() / channels) as u64;
                return Ok(true);
            }
        }
    }

    fn check_finite(&self) -> Result<(), AudioError> {
        let Block { rate, sides, samples } = &self.block;
        let Some(at) = samples.iter().position(|sample| !sample.is_finite()) else { return Ok(()) };
        let sample = self.at + (at / sides.len()) as u64;
        Err(AudioError::NotFinite {
            path: self.path.clone(),
            sample,
            channel: at % sides.len(),
            value: samples[at],
            seconds: sample as f64 / f64::from(*rate),
        })
    }

    /// There are no more packets: that is right if as much was there as was said.
    fn end(&self) -> Result<bool, AudioError> {
        let there = if self.at == 0 { 0.0 } else { self.seconds_read() };
        match self.packets.promised {
            Some(promised) if promised - there > SLACK => {
                Err(AudioError::Cut { path: self.path.clone(), promised, there })
            }
            _ if self.at == 0 => Err(AudioError::NoSamples { path: self.path.clone() }),
            _ => Ok(false),
        }
    }

    fn refused(&self, refusal: Refusal) -> AudioError {
        refused(&self.path, self.seconds_read(), refusal)
    }

    /// How much was given out, in seconds.
    pub(crate) fn seconds_read(&self) -> f64 {
        self.at as f64 / f64::from(self.block.rate.max(1))
    }
}

/// Longest silence in front of a track, in seconds: one block holds it.
const MAX_SILENCE: f64 = 10.0;

fn check_rate(path: &Path, rate: u32) -> Result<(), AudioError> {
    if RATES.contains(&rate) { Ok(()) } else { Err(AudioError::Rate { path: path.to_owned(), rate }) }
}

fn refused(path: &Path, seconds: f64, refusal: Refusal) -> AudioError {
    let path = path.to_owned();
    match refusal {
        Refusal::Unsupported(reason) => AudioError::Unsupported { path, reason },
        Refusal::Damaged(reason) => AudioError::Damaged { path, seconds, reason },
        Refusal::Ends => AudioError::Damaged { path, seconds, reason: "it ends within a packet".to_owned() },
    }
}

impl fmt::Debug for SoundFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoundFile")
            .field("path", &self.path)
            .field("rate", &self.block.rate)
            .field("channels", &self.block.sides.len())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
