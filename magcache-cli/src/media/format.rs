//! Which format a name selects, and what each format can hold.

use std::fmt;
use std::path::Path;

use magcache_core::error::count;

use super::{MediaError, VideoShape};

/// The format of the output, selected by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// H.264 video, `.mp4`: 4:2:0, constant high quality, the index before the data.
    Mp4,
    /// Looping animated image, `.gif`: up to 256 colours per frame.
    Gif,
    /// One lossless image, `.png`.
    Png,
    /// One lossless image, `.webp`: smaller than the PNG.
    WebP,
    /// A folder with one lossless PNG per frame, from `00000.png`.
    Folder,
}

impl Format {
    /// The accepted names, as a hint.
    pub(super) const NAMES: &'static str =
        "name a .mp4 or .gif file, a .png or .webp file for one frame, or a folder for numbered .png files";

    /// Smallest and largest width or height, in pixels, that the H.264 encoder takes.
    const MP4_SIDE: (u32, u32) = (16, 3840);
    /// Maximum of the smaller of width and height: level 5.2 ends at 3840x2160, in either orientation.
    const MP4_SHORT_SIDE: u32 = 2160;
    /// Longest side, in pixels, that libwebp reads; one less than the lossless bitstream allows.
    const WEBP_SIDE: u32 = 16383;
    /// Browsers show GIF frames shorter than two hundredths of a second for ten.
    const GIF_FPS: f64 = 50.0;

    /// Selects by extension, ignoring case. A folder is a name without an extension, one that ends in a
    /// slash, or an existing folder.
    pub fn of(path: &Path) -> Result<Self, MediaError> {
        // `Path` drops a trailing slash, so look for it in the text.
        let slash =
            path.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(b.into()));
        if slash || path.is_dir() {
            return Ok(Self::Folder);
        }
        let Some(extension) = path.extension() else { return Ok(Self::Folder) };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "png" => Ok(Self::Png),
            "webp" => Ok(Self::WebP),
            _ => Err(MediaError::UnknownExtension {
                path: path.to_owned(),
                extension: extension.to_string_lossy().into_owned(),
            }),
        }
    }

    /// Rejects a video that the format cannot hold unchanged; nothing is cropped, padded or dropped to make
    /// it fit.
    pub(super) fn check(self, path: &Path, shape: &VideoShape) -> Result<(), MediaError> {
        let VideoShape { width, height, frames, fps } = *shape;
        let size = format!("{width}x{height}");
        let refuse = |limit: String, got: String, hint| {
            Err(MediaError::Unsupported { path: path.to_owned(), format: self, limit, got, hint })
        };
        if width == 0 || height == 0 || frames == 0 {
            let hint = "ask for at least one frame of one pixel";
            return refuse(
                "needs something to show".into(),
                format!("{} of {size}", count(frames, "frame")),
                hint,
            );
        }
        match self {
            Self::Png | Self::WebP if frames > 1 => {
                refuse("holds one frame".into(), frames.to_string(), "name a .mp4 or .gif file, or a folder")
            }
            Self::WebP if width.max(height) > Self::WEBP_SIDE => {
                refuse(format!("holds up to {} pixels a side", Self::WEBP_SIDE), size, "name a .png file")
            }
            Self::Png | Self::WebP | Self::Folder => Ok(()),
            // `contains` is false for NaN too.
            Self::Mp4 | Self::Gif if !(0.01..=1000.0).contains(&fps) => refuse(
                "needs 0.01 to 1000 frames per second".into(),
                fps.to_string(),
                "16 is what Wan is trained on",
            ),
            Self::Gif if width.max(height) > u16::MAX.into() => {
                refuse(format!("holds up to {} pixels a side", u16::MAX), size, "name a folder")
            }
            Self::Gif if fps > Self::GIF_FPS => refuse(
                format!("shows at most {} frames per second", Self::GIF_FPS),
                fps.to_string(),
                "name a .mp4 file",
            ),
            Self::Gif => Ok(()),
            // 4:2:0 stores colour for 2x2 pixels, and cropping is in units of two.
            Self::Mp4 if width % 2 != 0 || height % 2 != 0 => {
                refuse("needs an even width and height".into(), size, "name a .gif file or a folder")
            }
            Self::Mp4 => {
                let (least, most) = Self::MP4_SIDE;
                let short = Self::MP4_SHORT_SIDE;
                if width.min(height) < least || width.max(height) > most || width.min(height) > short {
                    let limit =
                        format!("holds {least}x{least} to {most}x{short} pixels, in either direction");
                    return refuse(limit, size, "name a .gif file or a folder");
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mp4 => "mp4",
            Self::Gif => "gif",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Folder => "a folder",
        })
    }
}

#[cfg(test)]
mod tests {
    use magcache_core::hint;

    use super::*;

    #[test]
    fn the_extension_chooses() {
        let of = |name: &str| Format::of(Path::new(name)).ok();
        assert_eq!(of("a.mp4"), Some(Format::Mp4));
        assert_eq!(of("x.y/A.MP4"), Some(Format::Mp4));
        assert_eq!(of("a.gif"), Some(Format::Gif));
        assert_eq!(of("a.png"), Some(Format::Png));
        assert_eq!(of("a.WebP"), Some(Format::WebP));
        assert_eq!(of("frames"), Some(Format::Folder));
        assert_eq!(of("frames.v2/"), Some(Format::Folder));
        assert_eq!(of("a.webm"), None);
    }

    #[test]
    fn an_existing_folder_may_have_a_dot_in_its_name() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("frames.v2");
        assert!(Format::of(&folder).is_err());
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(Format::of(&folder).unwrap(), Format::Folder);
    }

    #[test]
    fn an_unknown_extension_names_the_known_ones() {
        let text = hint::told(&Format::of(Path::new("cat.webm")).unwrap_err());
        assert_eq!(
            text,
            "cat.webm: cannot write files that end in .webm\nhint: name a .mp4 or .gif file, a .png or .webp file \
             for one frame, or a folder for numbered .png files"
        );
    }

    #[test]
    fn a_video_that_does_not_fit_is_refused_with_both_values() {
        let check = |format: Format, width, height, frames, fps| {
            format
                .check(Path::new("a"), &VideoShape { width, height, frames, fps })
                .map_err(|e| hint::told(&e))
        };
        let refused = |format, width, height, frames, fps, part: &str| {
            let text = check(format, width, height, frames, fps).unwrap_err();
            assert!(text.contains(part) && text.contains("\nhint: "), "{text}");
        };
        refused(Format::Mp4, 63, 64, 1, 16.0, "mp4 needs an even width and height, got 63x64");
        refused(
            Format::Mp4,
            64,
            14,
            1,
            16.0,
            "mp4 holds 16x16 to 3840x2160 pixels, in either direction, got 64x14",
        );
        refused(Format::Mp4, 2400, 2400, 1, 16.0, "got 2400x2400");
        refused(Format::Mp4, 3842, 64, 1, 16.0, "got 3842x64");
        refused(Format::Mp4, 64, 64, 5, 0.0, "got 0");
        refused(Format::Gif, 64, 64, 5, f64::NAN, "got NaN");
        refused(Format::Gif, 64, 64, 5, 60.0, "gif shows at most 50 frames per second, got 60");
        refused(Format::Gif, 65536, 64, 5, 16.0, "got 65536x64");
        refused(Format::Png, 64, 64, 5, 16.0, "png holds one frame, got 5");
        refused(Format::WebP, 64, 64, 5, 16.0, "webp holds one frame, got 5");
        refused(Format::WebP, 64, 16384, 1, 16.0, "webp holds up to 16383 pixels a side, got 64x16384");
        refused(Format::Folder, 64, 64, 0, 16.0, "got 0 frames of 64x64");
        assert_eq!(check(Format::Mp4, 2160, 3840, 81, 24.0), Ok(()));
        assert_eq!(check(Format::Mp4, 16, 16, 1, 0.01), Ok(()));
        assert_eq!(check(Format::Gif, 1, 7, 1, 50.0), Ok(()));
        assert_eq!(check(Format::WebP, 16383, 1, 1, f64::NAN), Ok(()));
        assert_eq!(check(Format::Folder, 1, 7, 3, f64::NAN), Ok(()));
    }
}
