//! A folder of pictures.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use magcache_models::image::Picture;

use super::{VideoReader, not_a_video};
use crate::media::MediaError;

const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "tiff"];

pub(super) fn open(path: &Path) -> Result<VideoReader, MediaError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    let mut pictures: Vec<PathBuf> = entries.map_err(MediaError::io(path, "read the folder"))?;
    pictures.retain(|file| is_picture(file));
    if pictures.is_empty() {
        return Err(not_a_video(path, format!("it holds no file that ends in .{}", ENDINGS.join(", ."))));
    }
    pictures.sort_by_cached_key(|file| order(&file.file_name().unwrap_or_default().to_string_lossy()));
    let frames = pictures.len();
    let pictures = pictures.into_iter().map(|file| Ok(Picture::read(file)?));
    Ok(VideoReader { fps: None, frames, pictures: Box::new(pictures) })
}

fn is_picture(file: &Path) -> bool {
    let ending = file.extension().map(OsStr::to_ascii_lowercase);
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

/// Orders names as people count: `frame-9` before `frame-10`. Each part is a text and the number behind it,
/// by its digits without leading zeros: their count, then they themselves.
fn order(name: &str) -> Vec<(String, usize, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (digits, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let digits = digits.trim_start_matches('0');
        parts.push((text.to_owned(), digits.len(), digits.to_owned()));
        rest = after;
    }
    parts
}
