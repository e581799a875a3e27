//! An image file to RGB pixels.

use std::{
    error::Error,
    fs::File,
    io::{self, Cursor, Read},
    path::Path,
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, metadata::Orientation,
};

use super::{PictureError, complete};

/// Maximum columns or rows of a picture.
pub const MAX_SIDE: usize = 16_384;

/// Maximum pixels of a picture: 2.7 times a photo of 50 megapixels.
pub const MAX_PIXELS: usize = 1 << 27;

/// Maximum bytes of an image file.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Bytes that a decoder may take: [`MAX_PIXELS`] with four 16-bit channels, and room to work in.
pub(super) const MAX_DECODER_BYTES: u64 = 3 << 29;

/// An upright picture in 8-bit RGB, row by row.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture")
            .field("width", &self.width)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

impl Picture {
    /// Reads a PNG, JPEG, WebP, GIF, BMP or TIFF file; the content decides, not the name.
    ///
    /// As `load_image` of diffusers 0.42.1 reads it: turned and mirrored as its EXIF orientation says, then
    /// in RGB. Gray becomes three equal channels, a palette its colours, CMYK its RGB equivalent;
    /// transparency is dropped, so that what lies under transparent pixels shows; of an animation or a file
    /// with several pages the first is taken. Colour profiles are not applied. Differences: 16-bit gray is
    /// scaled to 8 bits (Pillow clips at 255, which turns most such pictures white), and a JPEG file may
    /// differ from libjpeg's decoding by rounding.
    ///
    /// # Errors
    /// A file that is not a picture, or is empty, cut off, damaged, of another format, or beyond
    /// [`MAX_FILE_BYTES`], [`MAX_SIDE`] or [`MAX_PIXELS`]. The size is read from the header: a picture that
    /// is too large is refused before it is decoded.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PictureError> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        // Also limits input of unknown length, such as a device or a pipe.
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|reason| PictureError::Io { path: path.to_owned(), reason })?;
        Self::decode(&path.display().to_string(), &bytes)
    }

    /// [`Self::read`] for the content of a file; messages call it `place`.
    pub fn decode(place: &str, bytes: &[u8]) -> Result<Self, PictureError> {
        let file = || place.to_owned();
        if bytes.is_empty() {
            return Err(PictureError::Empty { file: file() });
        }
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(PictureError::LongFile { file: file() });
        }
        let (format, name) = format_of(place, bytes)?;
        let failed = |error: ImageError| failure(place, name, bytes, error);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(failed)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (u64::from(width), u64::from(height));
        let side = width.max(height);
        if side > MAX_SIDE as u64
            || width * height > MAX_PIXELS as u64
            || decoder.total_bytes() > MAX_DECODER_BYTES
        {
            return Err(PictureError::TooLarge { file: file(), width, height });
        }
        let complete = match format {
            ImageFormat::Jpeg => complete::jpeg(bytes),
            ImageFormat::WebP => complete::webp(bytes),
            _ => true,
        };
        if !complete {
            return Err(PictureError::Truncated { file: file(), bytes: bytes.len() });
        }
        // Damaged metadata is no reason to refuse a picture.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        let image = image.into_rgb8();
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            let reason = format!("it is {width} x {height} pixels");
            return Err(PictureError::Damaged { file: file(), format: name, reason });
        }
        Ok(Self { width: width as usize, height: height as usize, rgb: image.into_raw() })
    }

    /// From pixels, three bytes each, row by row.
    ///
    /// # Errors
    /// [`PictureError::Target`] for an empty or too large size, [`PictureError::Pixels`] when `rgb` does not
    /// fill it.
    pub fn from_rgb8(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, PictureError> {
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(PictureError::Target { width, height });
        }
        if rgb.len() != 3 * width * height {
            return Err(PictureError::Pixels { width, height, bytes: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// Columns, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels, three bytes each, row by row.
    pub fn rgb8(&self) -> &[u8] {
        &self.rgb
    }
}

/// The format that the first bytes indicate, if it is supported.
fn format_of(place: &str, bytes: &[u8]) -> Result<(ImageFormat, &'static str), PictureError> {
    let unsupported =
        |format: &str| Err(PictureError::Unsupported { file: place.to_owned(), format: format.to_owned() });
    match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Png) => Ok((format, "PNG")),
        Ok(format @ ImageFormat::Jpeg) => Ok((format, "JPEG")),
        Ok(format @ ImageFormat::WebP) => Ok((format, "WebP")),
        Ok(format @ ImageFormat::Gif) => Ok((format, "GIF")),
        Ok(format @ ImageFormat::Bmp) => Ok((format, "BMP")),
        Ok(format @ ImageFormat::Tiff) => Ok((format, "TIFF")),
        Ok(ImageFormat::Avif) => unsupported("AVIF"),
        Ok(other) => unsupported(&other.extensions_str().first().unwrap_or(&"another format").to_uppercase()),
        // The format of phones; the library only knows AVIF.
        Err(_) if matches!(bytes.get(4..12), Some(b"ftypheic" | b"ftypheix" | b"ftypmif1")) => {
            unsupported("HEIC")
        }
        Err(_) => {
            let start = bytes.get(..bytes.len().min(8)).unwrap_or_default();
            let file = place.to_owned();
            Err(PictureError::NotAPicture { file, start: format!("\"{}\"", start.escape_ascii()) })
        }
    }
}

fn failure(place: &str, format: &'static str, bytes: &[u8], error: ImageError) -> PictureError {
    let file = place.to_owned();
    if ends_early(&error) {
        return PictureError::Truncated { file, bytes: bytes.len() };
    }
    match error {
        ImageError::Unsupported(error) => {
            PictureError::Unsupported { file, format: format!("a variant of {format} ({error})") }
        }
        ImageError::Limits(_) => PictureError::Memory { file },
        error => PictureError::Damaged { file, format, reason: error.to_string() },
    }
}

/// Whether a decoder tried to read past the last byte.
fn ends_early(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = error.source();
    }
    matches!(error, ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof)
}
