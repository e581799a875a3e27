//! A piece of a file as packets, for the sound track of a video.

use std::{collections::VecDeque, path::Path};

use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_MP3};

use crate::{
    AudioError,
    decode::{Refusal, aac_config},
    encode,
    packets::Packets,
    piece::{Piece, check},
};

/// Packets before the first one that is heard, which its decoder needs: AAC adds halves of two packets, and
/// HE-AAC remembers one more.
const BEFORE_AAC: usize = 3;
/// The data of an MP3 packet may begin 511 bytes before it, which are up to 10 small packets.
const BEFORE_MP3: usize = 11;
/// A packet may end this many seconds before the end of what is promised.
const SLACK: f64 = 0.1;

/// What the packets are coded in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// MPEG-4 AAC, with its `AudioSpecificConfig` (ISO/IEC 14496-3, 1.6.2.1).
    Aac {
        /// The configuration.
        config: Vec<u8>,
    },
    /// MPEG-1 audio layer III, or MPEG-2 for rates below 32 kHz.
    Mp3,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its bytes, as an MP4 holds them.
    pub data: Box<[u8]>,
    /// How long it is.
    pub ticks: u32,
}

/// A piece of a recording as packets. What is heard begins `skip` ticks behind the start of the first packet
/// and lasts `heard` ticks: an edit list says so in an MP4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoundTrack {
    /// The codec.
    pub codec: Codec,
    /// Samples per second.
    pub rate: u32,
    /// Number of channels.
    pub channels: usize,
    /// Ticks per second.
    pub timescale: u32,
    /// In order, without gaps.
    pub packets: Vec<Packet>,
    /// Ticks at the start that are decoded and not heard.
    pub skip: u64,
    /// Ticks that are heard.
    pub heard: u64,
}

impl SoundTrack {
    /// At most `seconds` of a file from `start` on. Packets of AAC and MP3 are copied, whatever else is
    /// decoded and coded as AAC-LC with 96 kbit/s per channel, at 44.1 or 48 kHz, in one or two channels.
    ///
    /// Errors: those of [`SoundFile`](crate::SoundFile); the file ends before `start`.
    pub fn cut(path: &Path, start: f64, seconds: f64) -> Result<Self, AudioError> {
        check(path, start, seconds)?;
        match copied(path, start, seconds)? {
            Some(track) => Ok(track),
            None => coded(path, start, seconds),
        }
    }

    /// How much is heard, in seconds.
    pub fn seconds(&self) -> f64 {
        self.heard as f64 / f64::from(self.timescale)
    }
}

fn coded(path: &Path, start: f64, seconds: f64) -> Result<SoundTrack, AudioError> {
    let piece = Piece::read(path, start, seconds)?;
    let coded = encode::aac(&piece.planes, piece.rate)
        .map_err(|error| AudioError::Encode { path: path.to_owned(), reason: error.to_string() })?;
    let packet = |data| Packet { data, ticks: coded.per_packet };
    Ok(SoundTrack {
        codec: Codec::Aac { config: coded.config },
        rate: coded.rate,
        channels: piece.planes.len(),
        timescale: coded.rate,
        packets: coded.packets.into_iter().map(packet).collect(),
        skip: coded.priming,
        heard: coded.samples,
    })
}

/// Samples in a packet of MP3 (ISO/IEC 11172-3 and 13818-3). The reader's own number counts those twice that
/// it leaves out at the ends of a file.
fn mp3_samples(packet: &[u8]) -> Option<u32> {
    const MPEG1: u8 = 0b11;
    packet.get(1).map(|header| if header >> 3 & 0b11 == MPEG1 { 1152 } else { 576 })
}

/// The packets themselves, if an MP4 can hold them.
fn copied(path: &Path, start: f64, seconds: f64) -> Result<Option<SoundTrack>, AudioError> {
    let mut packets = Packets::open(path)?;
    let (codec, before) = match packets.params.codec {
        CODEC_ID_AAC => match aac_config(&packets.params) {
            Some(config) => (Codec::Aac { config }, BEFORE_AAC),
            None => return Ok(None),
        },
        CODEC_ID_MP3 => (Codec::Mp3, BEFORE_MP3),
        _ => return Ok(None),
    };
    let timescale = packets.timescale;
    let silence = packets.edit.is_some_and(|edit| edit.silence > 0.0);
    let channels = packets.params.channels.as_ref().map(symphonia::core::audio::Channels::count);
    let (Some(rate), Some(channels)) = (packets.params.sample_rate, channels) else { return Ok(None) };
    if timescale.fract() != 0.0 || !(1.0..=f64::from(u32::MAX)).contains(&timescale) || silence {
        return Ok(None);
    }
    let ticks = |seconds: f64| (seconds * timescale).round() as u64;
    let delay = packets.edit.map_or(u64::from(packets.delay), |edit| ticks(edit.skip));
    let promised = packets.promised.map_or(u64::MAX, |seconds| delay.saturating_add(ticks(seconds)));
    let first = delay.saturating_add(ticks(start));
    let last = first.saturating_add(ticks(seconds)).min(promised);
    let mut kept: VecDeque<Packet> = VecDeque::new();
    // Where the first packet that is kept begins, how many of them end before what is heard, and where the
    // last one ends.
    let (mut begin, mut early, mut end) = (0, 0, 0u64);
    while end < last {
        let packet = match packets.next().map_err(Refusal::from) {
            Ok(Some(packet)) => packet,
            Ok(None) | Err(Refusal::Ends) => break,
            Err(Refusal::Unsupported(reason)) => {
                return Err(AudioError::Unsupported { path: path.to_owned(), reason });
            }
            Err(Refusal::Damaged(reason)) => {
                return Err(AudioError::Damaged {
                    path: path.to_owned(),
                    seconds: end as f64 / timescale,
                    reason,
                });
            }
        };
        let long = match codec {
            Codec::Mp3 if !packets.mp4 => mp3_samples(&packet.data),
            _ => u32::try_from(packet.block_dur().get()).ok(),
        };
        let Some(long @ 1..) = long else { return Ok(None) };
        kept.push_back(Packet { data: packet.data, ticks: long });
        end = end.saturating_add(u64::from(long));
        early += usize::from(end <= first);
        if early > before
            && let Some(gone) = kept.pop_front()
        {
            begin += u64::from(gone.ticks);
            early -= 1;
        }
    }
    let heard_from_start = |ticks: u64| ticks.saturating_sub(delay) as f64 / timescale;
    if last != u64::MAX && end < last && promised != u64::MAX && (last - end) as f64 / timescale > SLACK {
        let (promised, there) = (heard_from_start(promised), heard_from_start(end));
        return Err(AudioError::Cut { path: path.to_owned(), promised, there });
    }
    let last = last.min(end);
    if end == 0 {
        return Err(AudioError::NoSamples { path: path.to_owned() });
    }
    if last <= first {
        return Err(AudioError::StartsBehindEnd {
            path: path.to_owned(),
            start,
            end: heard_from_start(last),
        });
    }
    Ok(Some(SoundTrack {
        codec,
        rate,
        channels,
        timescale: timescale as u32,
        packets: kept.into(),
        skip: first - begin,
        heard: last - first,
    }))
}
