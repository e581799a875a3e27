//! H.264 in MP4, with sound as packets of AAC or MP3.
//!
//! Frames are encoded as they arrive and kept in an anonymous scratch file; after the last one, the index is
//! written first, then the sound and the frames, so that a browser can start playing before it has the whole
//! file.

mod boxes;
mod movie;
mod pictures;
mod sound;
mod yuv;

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use magcache_audio::SoundTrack;
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod,
    QpRange, RateControlMode, TransferCharacteristics, VuiConfig,
};
use openh264::{OpenH264API, Timestamp};

use self::pictures::Pictures;
use self::yuv::I420;
pub(super) use self::yuv::Matrix;
use super::destination::FrameSink;
use super::staging::StagedFile;
use super::{MediaError, VideoShape};

/// Quantiser for frames of up to [`SMALL`] pixels: the finest that the encoder's rate control accepts. They
/// cost a few kB each, and every pixel is visible.
const QP_SMALL: u8 = 12;
/// Quantiser for larger frames, where differences of a single level are invisible.
const QP_LARGE: u8 = 18;
/// Largest number of pixels of a small frame.
const SMALL: u32 = 320 * 320;
/// Seconds between key frames, which players can seek to.
const SEEK_SECONDS: f64 = 2.0;

const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

pub(super) struct Mp4Sink {
    file: StagedFile,
    path: PathBuf,
    encoder: Encoder,
    picture: I420,
    data: BufWriter<File>,
    track: Pictures,
    sound: Option<Arc<SoundTrack>>,
    shape: VideoShape,
}

impl Mp4Sink {
    pub(super) fn create(
        path: &Path,
        shape: VideoShape,
        sound: Option<Arc<SoundTrack>>,
    ) -> Result<Self, MediaError> {
        let matrix = Matrix::of_height(shape.height);
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config(&shape, matrix))
            .map_err(|e| MediaError::encode(path, 0, e))?;
        let file = StagedFile::create(path)?;
        let data = BufWriter::new(file.scratch()?);
        let picture = I420::new(shape.width, shape.height, matrix);
        let track = Pictures::new(&shape);
        Ok(Self { file, path: path.to_owned(), encoder, picture, data, track, sound, shape })
    }
}

/// A constant quantiser (the encoder adds one or two at a scene change) and no shortcuts: every frame is
/// coded, and no part is treated as background.
fn config(shape: &VideoShape, matrix: Matrix) -> EncoderConfig {
    let pixels = shape.width * shape.height;
    let qp = if pixels <= SMALL { QP_SMALL } else { QP_LARGE };
    // The range that the encoder accepts. It does not affect the speed: the container sets when each frame is
    // shown.
    let rate = shape.fps.clamp(1.0, 60.0);
    // With a fixed quantiser, this only selects the level that the stream declares.
    let bits_per_second = f64::from(pixels) * rate;
    EncoderConfig::new()
        .complexity(Complexity::High)
        // The mode in which only `qp` sets the quantiser: it neither counts bits nor drops frames.
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .bitrate(BitRate::from_bps(bits_per_second as u32))
        .max_frame_rate(FrameRate::from_hz(rate as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames((SEEK_SECONDS * rate).round() as u32))
        .skip_frames(false)
        .adaptive_quantization(false)
        .background_detection(false)
        // The same bytes on every machine.
        .num_threads(1)
        .vui(
            VuiConfig::new()
                .color_primaries(ColorPrimaries::Bt709)
                .transfer_characteristics(TransferCharacteristics::Srgb)
                .matrix_coefficients(matrix.code())
                .full_range(false),
        )
}

/// The payload of a NAL unit, without the leading start code.
fn payload(nal: &[u8]) -> &[u8] {
    let zeros = nal.iter().take_while(|&&b| b == 0).count();
    match nal.get(zeros) {
        Some(1) if zeros >= 2 => &nal[zeros + 1..],
        _ => nal,
    }
}

impl FrameSink for Mp4Sink {
    fn push(&mut self, frame: &RgbImage) -> Result<(), MediaError> {
        let index = self.track.frames();
        let refuse = |reason: &dyn ToString| MediaError::encode(&self.path, index, reason.to_string());
        self.picture.fill(frame);
        let time = Timestamp::from_millis((self.shape.time_of(index) * 1000.0).round() as u64);
        let coded = self.encoder.encode_at(&self.picture, time).map_err(|e| refuse(&e))?;
        let key = match coded.frame_type() {
            FrameType::IDR => true,
            FrameType::P => false,
            other => return Err(refuse(&format!("the encoder made it {other:?}"))),
        };
        let mut size = 0;
        for layer in (0..coded.num_layers()).filter_map(|l| coded.layer(l)) {
            for nal in (0..layer.nal_count()).filter_map(|n| layer.nal_unit(n)).map(payload) {
                match nal.first().map(|header| header & 0x1f) {
                    // Stored once, in the index.
                    Some(NAL_SPS) => self.track.sps = nal.to_vec(),
                    Some(NAL_PPS) => self.track.pps = nal.to_vec(),
                    _ => {
                        let length = u32::try_from(nal.len()).map_err(|e| refuse(&e))?;
                        let wrote = self
                            .data
                            .write_all(&length.to_be_bytes())
                            .and_then(|()| self.data.write_all(nal));
                        wrote.map_err(MediaError::io(&self.path, "write"))?;
                        size += 4 + length;
                    }
                }
            }
        }
        if size == 0 {
            return Err(refuse(&"the encoder gave no data"));
        }
        self.track.add(size, key);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        let Self { mut file, path, data, track, sound, .. } = *self;
        let wrote = |source| MediaError::io(&path, "write")(source);
        let mut data = data.into_inner().map_err(|e| wrote(e.into_error()))?;
        data.rewind().map_err(wrote)?;
        file.write_all(&movie::head(&track, sound.as_deref())).map_err(wrote)?;
        for packet in sound.iter().flat_map(|sound| &sound.packets) {
            file.write_all(&packet.data).map_err(wrote)?;
        }
        io::copy(&mut data, &mut file).map_err(wrote)?;
        file.commit()
    }
}

#[cfg(test)]
mod tests;
