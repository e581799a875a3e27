//! H.264 in an MP4 file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use magcache_models::image::Picture;
use openh264::decoder::{DecodeOptions, DecodedYUV, Decoder, Flush};
use openh264::formats::YUVSource;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::video::VideoCodecParameters;
use symphonia::core::codecs::video::well_known::CODEC_ID_H264;
use symphonia::core::codecs::video::well_known::extra_data::VIDEO_EXTRA_DATA_ID_AVC_DECODER_CONFIG;
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::units::Duration;
use symphonia::default::formats::IsoMp4Reader;

use super::{VideoReader, check_size, not_a_video, undecoded};
use crate::media::MediaError;
use crate::media::mp4::Matrix;

/// Baseline, Main and High (H.264, annex A): colours in 4:2:0, 8 bits.
const PROFILES: [u8; 3] = [66, 77, 100];

/// The decoder's own text says less.
const REFUSED: &str = "the decoder refuses it: it is damaged or interlaced";

/// What precedes a NAL unit in a stream.
const START: [u8; 4] = [0, 0, 0, 1];

pub(super) fn open(path: &Path) -> Result<VideoReader, MediaError> {
    let mut index = Packets::open(path)?;
    let (mut frames, mut ticks) = (0, 0);
    let end = loop {
        match index.next() {
            Ok(Some(packet)) => {
                ticks += packet.ticks;
                frames += 1;
            }
            end => break end,
        }
    };
    let per_second = index.timescale;
    if index.promised > ticks {
        let [promised, there] = [index.promised, ticks].map(|ticks| ticks as f64 / per_second);
        return Err(MediaError::CutOff { path: path.to_owned(), promised, there });
    }
    end?;
    if frames == 0 {
        return Err(not_a_video(path, "it has no frames"));
    }
    let fps = (ticks > 0).then(|| frames as f64 * per_second / ticks as f64);
    let pictures = Pictures {
        packets: Packets::open(path)?,
        decoder: Decoder::new().map_err(|e| undecoded(path, 0, e))?,
        ready: VecDeque::new(),
        given: 0,
        frames,
        ended: false,
    };
    Ok(VideoReader { fps, frames, pictures: Box::new(pictures) })
}

/// The coded frames of a file's video track, in the order in which they are decoded.
struct Packets {
    path: PathBuf,
    reader: IsoMp4Reader<'static>,
    track: u32,
    timescale: f64,
    /// Ticks of all frames, as the index says.
    promised: u64,
    sets: ParameterSets,
}

struct Packet {
    data: Box<[u8]>,
    ticks: u64,
}

impl Packets {
    fn open(path: &Path) -> Result<Self, MediaError> {
        let file = File::open(path).map_err(MediaError::io(path, "open"))?;
        let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
        let reader = IsoMp4Reader::try_new(stream, FormatOptions::default()).map_err(|error| {
            not_a_video(path, format!("its index is missing, cut off or damaged: {error}"))
        })?;
        let Some(track) = reader.default_track(TrackType::Video) else {
            return Err(not_a_video(path, "it has no video track"));
        };
        let sets = match &track.codec_params {
            Some(CodecParameters::Video(video)) if video.codec == CODEC_ID_H264 => ParameterSets::of(video),
            _ => return Err(not_a_video(path, "its codec is not H.264")),
        };
        let sets = sets.ok_or_else(|| not_a_video(path, "it does not describe its H.264 stream"))?;
        if !PROFILES.contains(&sets.profile) {
            let reason = format!("its H.264 has profile {}, expected one of 8 bits and 4:2:0", sets.profile);
            return Err(not_a_video(path, reason));
        }
        let timescale = track.time_base.map_or(1.0, |b| f64::from(b.denom.get()) / f64::from(b.numer.get()));
        let (track, promised) = (track.id, track.duration.map_or(0, Duration::get));
        Ok(Self { path: path.to_owned(), reader, track, timescale, promised, sets })
    }

    fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            match self.reader.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => {
                    let ticks = packet.block_dur().get();
                    return Ok(Some(Packet { data: packet.data, ticks }));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(Error::IoError(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => {
                    return Err(not_a_video(&self.path, format!("its frames cannot be found: {error}")));
                }
            }
        }
    }
}

/// What the decoder must know before the first frame.
struct ParameterSets {
    /// As a stream holds them.
    stream: Vec<u8>,
    /// Bytes of the length before each NAL unit of a frame.
    length_bytes: usize,
    profile: u8,
}

impl ParameterSets {
    /// From `avcC` (ISO/IEC 14496-15, 5.3.3.1).
    fn of(video: &VideoCodecParameters) -> Option<Self> {
        let config =
            video.extra_data.iter().find(|extra| extra.id == VIDEO_EXTRA_DATA_ID_AVC_DECODER_CONFIG)?;
        let mut stream = Vec::new();
        let mut rest = config.data.get(5..)?;
        for mask in [0x1f, 0xff] {
            let (count, after) = rest.split_first()?;
            rest = after;
            for _ in 0..count & mask {
                let (length, after) = rest.split_first_chunk::<2>()?;
                let (set, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
                stream.extend(START);
                stream.extend(set);
                rest = after;
            }
        }
        let (profile, length_bytes) = (*config.data.get(1)?, usize::from(config.data.get(4)? & 3) + 1);
        Some(Self { stream, length_bytes, profile })
    }

    /// A frame as a stream holds it; none if it is not made of whole NAL units.
    fn frame(&self, mut rest: &[u8]) -> Option<Vec<u8>> {
        let mut stream = Vec::with_capacity(rest.len() + 16);
        while !rest.is_empty() {
            let (length, after) = rest.split_at_checked(self.length_bytes)?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let (unit, after) = after.split_at_checked(length)?;
            stream.extend(START);
            stream.extend(unit);
            rest = after;
        }
        Some(stream)
    }
}

struct Pictures {
    packets: Packets,
    decoder: Decoder,
    /// Decoded and not yet given out.
    ready: VecDeque<Picture>,
    given: usize,
    frames: usize,
    ended: bool,
}

impl Pictures {
    /// Decodes until there is a picture, or none are left.
    fn decode(&mut self) -> Result<(), MediaError> {
        let Self { packets, decoder, ready, given, .. } = self;
        let path = packets.path.clone();
        let refuse = |reason: &dyn ToString| undecoded(&path, *given, reason.to_string());
        let as_it_comes = || DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        if !packets.sets.stream.is_empty() {
            let sets = std::mem::take(&mut packets.sets.stream);
            decoder.decode_with_options(&sets, as_it_comes()).map_err(|_| refuse(&REFUSED))?;
        }
        while ready.is_empty() {
            let Some(packet) = packets.next()? else {
                self.ended = true;
                for picture in decoder.flush_remaining().map_err(|e| refuse(&e))? {
                    ready.push_back(rgb(&path, &picture)?);
                }
                let there = *given + ready.len();
                if there != self.frames {
                    return Err(refuse(&format!("{there} of {} frames could be decoded", self.frames)));
                }
                break;
            };
            let frame = packets.sets.frame(&packet.data);
            let frame = frame.ok_or_else(|| refuse(&"its parts do not fill it"))?;
            let picture = decoder.decode_with_options(&frame, as_it_comes()).map_err(|_| refuse(&REFUSED))?;
            if let Some(picture) = picture {
                ready.push_back(rgb(&path, &picture)?);
            }
        }
        Ok(())
    }
}

impl Iterator for Pictures {
    type Item = Result<Picture, MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && !self.ended
            && let Err(error) = self.decode()
        {
            self.ended = true;
            return Some(Err(error));
        }
        let picture = self.ready.pop_front()?;
        self.given += 1;
        Some(Ok(picture))
    }
}

fn rgb(path: &Path, picture: &DecodedYUV<'_>) -> Result<Picture, MediaError> {
    let (width, height) = picture.dimensions();
    check_size(path, width, height)?;
    Ok(Picture::from_rgb8(width, height, Matrix::of_height(height as u32).rgb(picture))?)
}
