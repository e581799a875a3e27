//! Animated GIF.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use gif::DecodeOptions;
use image::AnimationDecoder;
use image::codecs::gif::GifDecoder;
use magcache_models::image::Picture;

use super::{VideoReader, check_size, not_a_video, undecoded};
use crate::media::MediaError;

/// Browsers show frames shorter than two hundredths of a second for ten.
const SHORTEST: u16 = 2;
const INSTEAD: u16 = 10;

pub(super) fn open(path: &Path) -> Result<VideoReader, MediaError> {
    let file = || File::open(path).map(BufReader::new).map_err(MediaError::io(path, "open"));
    let mut options = DecodeOptions::new();
    options.skip_frame_decoding(true);
    let mut index = options.read_info(file()?).map_err(|e| not_a_video(path, e))?;
    check_size(path, index.width().into(), index.height().into())?;
    let (mut frames, mut hundredths) = (0, 0u64);
    while let Some(frame) = index.next_frame_info().map_err(|e| undecoded(path, frames, e))? {
        hundredths += u64::from(if frame.delay < SHORTEST { INSTEAD } else { frame.delay });
        frames += 1;
    }
    if frames == 0 {
        return Err(not_a_video(path, "it has no frames"));
    }
    let fps = frames as f64 * 100.0 / hundredths as f64;
    let decoder = GifDecoder::new(file()?).map_err(|e| not_a_video(path, e))?;
    let path = path.to_owned();
    // Frames that change a part of the picture come out whole.
    let pictures = decoder.into_frames().enumerate().map(move |(i, frame)| {
        let frame = frame.map_err(|e| undecoded(&path, i, e))?.into_buffer();
        let (width, height) = frame.dimensions();
        let rgb = frame.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Ok(Picture::from_rgb8(width as usize, height as usize, rgb)?)
    });
    Ok(VideoReader { fps: Some(fps), frames, pictures: Box::new(pictures) })
}
