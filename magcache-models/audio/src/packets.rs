//! The packets of the sound in a file, as they lie there.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use symphonia::{
    core::{
        codecs::{
            CodecParameters,
            audio::{AudioCodecParameters, well_known::CODEC_ID_MP3},
        },
        errors::Error,
        formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
        io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions},
        meta::MetadataOptions,
        packet::Packet,
    },
    default::get_probe,
};

use crate::{AudioError, edits::Edit};

/// An opened file and the first track of sound in it.
pub(crate) struct Packets {
    reader: Box<dyn FormatReader>,
    track: u32,
    pub(crate) params: AudioCodecParameters,
    /// Whether the file is an MP4, whose index knows how long each packet is.
    pub(crate) mp4: bool,
    /// Ticks per second of the times of packets.
    pub(crate) timescale: f64,
    /// What of an MP4 is heard.
    pub(crate) edit: Option<Edit>,
    /// Samples that an encoder put in front, where the packets know it (MP3).
    pub(crate) delay: u32,
    /// How long the file says it is, in seconds, without what is not heard.
    pub(crate) promised: Option<f64>,
}

/// A file, of which readers may believe that it cannot be searched.
struct Source {
    file: File,
    seekable: bool,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        self.file.metadata().ok().map(|metadata| metadata.len())
    }
}

impl Packets {
    pub(crate) fn open(path: &Path) -> Result<Self, AudioError> {
        let packets = Self::open_as(path, true)?;
        // Without a header that counts frames the reader of MP3 would guess the length from the first ones,
        // and end there; it does not where it cannot search.
        let guesses = packets.params.codec == CODEC_ID_MP3 && !packets.mp4;
        if guesses { Self::open_as(path, false) } else { Ok(packets) }
    }

    fn open_as(path: &Path, seekable: bool) -> Result<Self, AudioError> {
        let io = |reason| AudioError::Io { path: path.to_owned(), action: "read", reason };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        if metadata.is_file() && metadata.len() == 0 {
            return Err(AudioError::Empty { path: path.to_owned() });
        }
        let source = Source { file, seekable: seekable && metadata.is_file() };
        let stream = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
        let mut hint = Hint::new();
        if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
            hint.with_extension(extension);
        }
        let reader =
            get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default()).map_err(
                |error| AudioError::NotARecording { path: path.to_owned(), reason: unread(&error) },
            )?;
        let Some(track) = reader.default_track(TrackType::Audio) else {
            return Err(AudioError::NoSound { path: path.to_owned(), tracks: reader.tracks().len() });
        };
        let Some(CodecParameters::Audio(mut params)) = track.codec_params.clone() else {
            let reason = "it does not say which codec it is".to_owned();
            return Err(AudioError::Unsupported { path: path.to_owned(), reason });
        };
        let scale = track.time_base.map(|base| f64::from(base.denom.get()) / f64::from(base.numer.get()));
        // The field of an MP4 has 16 bits: files of 96 kHz leave it empty, and count in samples.
        params.sample_rate = params.sample_rate.filter(|rate| *rate > 0).or(scale.map(|scale| scale as u32));
        let rate = params.sample_rate.map(f64::from);
        let timescale = scale.or(rate).unwrap_or(1.0);
        let (id, delay) = (track.id, track.delay.unwrap_or(0));
        let frames = track.num_frames.zip(rate).map(|(frames, rate)| frames as f64 / rate);
        let ticks = track.duration.map(|duration| duration.get() as f64 / timescale);
        let mp4 = reader.format_info().short_name == "isomp4";
        let edit = if mp4 { Edit::read(path, id).map_err(io)? } else { None };
        // An MP4 in fragments does not count them in advance.
        let promised = if mp4 { ticks.filter(|seconds| *seconds > 0.0) } else { frames };
        let promised = promised.map(|whole| edit.as_ref().map_or(whole, |edit| edit.heard_of(whole)));
        Ok(Self { reader, track: id, params, mp4, timescale, edit, delay, promised })
    }

    /// The next packet of the track, or none at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, Error> {
        loop {
            match self.reader.next_packet()? {
                Some(packet) if packet.track_id != self.track => {}
                packet => return Ok(packet),
            }
        }
    }
}

/// Why a file could not be opened, in words that need no knowledge of the reader.
fn unread(error: &Error) -> String {
    match error {
        Error::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "no header of a known format was found, or it is cut off".to_owned()
        }
        Error::Unsupported(_) => "no header of a known format was found".to_owned(),
        error => error.to_string(),
    }
}
