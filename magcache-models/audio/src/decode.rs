//! From packets to samples.

use symphonia::{
    core::{
        audio::{Channels, Position},
        codecs::audio::{
            AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
            well_known::{CODEC_ID_AAC, CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_OPUS},
        },
        errors::Error,
        packet::Packet,
    },
    default::get_codecs,
};
use syom::{AacError, Channel, DecodeOptions};

use crate::mix::Side;

/// Decodes the packets of one track.
pub(crate) enum Decoder {
    /// HE-AAC and more than two channels too, which the other one does not decode.
    Aac(Box<syom::Decoder>),
    Other(Box<dyn AudioDecoder>),
}

/// What a packet decoded to, channel by channel in turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Block {
    pub(crate) rate: u32,
    /// Where each channel is heard.
    pub(crate) sides: Vec<Side>,
    pub(crate) samples: Vec<f32>,
}

/// Why a packet, or a whole track, could not be decoded.
pub(crate) enum Refusal {
    /// It belongs to something that is not decoded.
    Unsupported(String),
    /// It is damaged.
    Damaged(String),
    /// The file ends within it.
    Ends,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Ends,
            Error::ResetRequired => {
                Self::Unsupported("it consists of several recordings in a row".to_owned())
            }
            Error::Unsupported(what) => Self::Unsupported(what.to_owned()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<AacError> for Refusal {
    fn from(error: AacError) -> Self {
        match error {
            AacError::Unsupported(what) => Self::Unsupported(format!("{what:?} of AAC")),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl Decoder {
    pub(crate) fn new(params: &AudioCodecParameters) -> Result<Self, Refusal> {
        if params.codec == CODEC_ID_AAC {
            let config = aac_config(params).ok_or_else(|| {
                Refusal::Unsupported("AAC of an unknown rate or number of channels".to_owned())
            })?;
            let decoder = syom::Decoder::from_asc(&config, DecodeOptions::unbounded())?;
            return Ok(Self::Aac(Box::new(decoder)));
        }
        let decoder = get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default());
        decoder.map(Self::Other).map_err(|error| match error {
            Error::Unsupported(_) => Refusal::Unsupported(match params.codec {
                CODEC_ID_OPUS => "Opus".to_owned(),
                CODEC_ID_MP1 | CODEC_ID_MP2 => "layer I or II of MPEG".to_owned(),
                codec => format!("codec {codec}"),
            }),
            error => error.into(),
        })
    }

    pub(crate) fn decode(&mut self, packet: &Packet, into: &mut Block) -> Result<(), Refusal> {
        into.samples.clear();
        match self {
            Self::Aac(decoder) => decoder.decode_au(&packet.data, |frame| {
                into.rate = frame.sample_rate;
                let labels: Vec<Side> = frame.meta.labels().map(Side::of_aac).collect();
                into.sides =
                    if labels.len() == frame.planar.len() { labels } else { Side::of(frame.planar.len()) };
                for sample in 0..frame.samples {
                    into.samples
                        .extend(frame.planar.iter().map(|plane| plane.get(sample).copied().unwrap_or(0.0)));
                }
                Ok(())
            })?,
            Self::Other(decoder) => {
                let decoded = decoder.decode(packet)?;
                into.rate = decoded.spec().rate();
                into.sides = Side::of_channels(decoded.spec().channels());
                decoded.copy_to_vec_interleaved(&mut into.samples);
            }
        }
        Ok(())
    }
}

/// The `AudioSpecificConfig` of a track: the file's own, or one of AAC-LC for streams that have none (ADTS).
pub(crate) fn aac_config(params: &AudioCodecParameters) -> Option<Vec<u8>> {
    /// Indices of rates, ISO/IEC 14496-3, table 1.18.
    const RATES: [u32; 13] =
        [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
    if let Some(config) = params.extra_data.as_ref().filter(|config| config.len() >= 2) {
        return Some(config.to_vec());
    }
    let rate = RATES.iter().position(|rate| Some(*rate) == params.sample_rate)? as u16;
    let channels = match params.channels.as_ref()?.count() {
        count @ 1..=6 => count as u16,
        8 => 7,
        _ => return None,
    };
    let low_complexity = 2 << 11;
    Some((low_complexity | rate << 7 | channels << 3).to_be_bytes().to_vec())
}

impl Side {
    fn of_aac(channel: Channel) -> Self {
        match channel {
            Channel::FrontLeft => Self::Left,
            Channel::FrontRight => Self::Right,
            Channel::BackLeft | Channel::SideLeft => Self::LeftBehind,
            Channel::BackRight | Channel::SideRight => Self::RightBehind,
            Channel::Lfe => Self::Rumble,
            _ => Self::Middle,
        }
    }

    fn of_channels(channels: &Channels) -> Vec<Self> {
        let Channels::Positioned(places) = channels else { return Self::of(channels.count()) };
        let of = |place: Position| match place {
            Position::FRONT_LEFT | Position::FRONT_LEFT_CENTER => Self::Left,
            Position::FRONT_RIGHT | Position::FRONT_RIGHT_CENTER => Self::Right,
            Position::REAR_LEFT | Position::SIDE_LEFT => Self::LeftBehind,
            Position::REAR_RIGHT | Position::SIDE_RIGHT => Self::RightBehind,
            Position::LFE1 => Self::Rumble,
            _ => Self::Middle,
        };
        places.iter().map(of).collect()
    }
}
