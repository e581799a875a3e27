//! The boxes of an MP4 file with one H.264 track: ISO/IEC 14496-12, and 14496-15 for `avc1` and `avcC`.

use openh264::encoder::{ColorPrimaries, TransferCharacteristics};

use super::super::VideoShape;
use super::yuv::Matrix;

/// Ticks per frame; the timescale is this times the frame rate, so a rate is exact to a thousandth.
const TICKS: u32 = 1000;
/// The identity transformation, as nine numbers in 16.16 and 2.30.
const UNITY: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];
/// 1.0 in 16.16.
const ONE: u32 = 0x0001_0000;
/// 72 dots per inch in 16.16, as the standard prescribes.
const DPI: u32 = 0x0048_0000;
/// `und` (undetermined language), three letters of five bits each.
const UNDETERMINED: u16 = 0x55c4;
/// Enabled, in the movie and in its preview.
const TRACK_SHOWN: u32 = 7;
/// The data is in this file.
const SELF_CONTAINED: u32 = 1;

/// What the index records about the coded frames: a few bytes for each.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) sps: Vec<u8>,
    pub(super) pps: Vec<u8>,
    sizes: Vec<u32>,
    /// Key frames, counted from 1.
    keys: Vec<u32>,
    width: u32,
    height: u32,
    timescale: u32,
}

impl Track {
    pub(super) fn new(shape: &VideoShape) -> Self {
        Self {
            sps: Vec::new(),
            pps: Vec::new(),
            sizes: Vec::new(),
            keys: Vec::new(),
            width: shape.width,
            height: shape.height,
            timescale: (shape.fps * f64::from(TICKS)).round() as u32,
        }
    }

    pub(super) fn frames(&self) -> usize {
        self.sizes.len()
    }

    /// Adds a frame of `size` bytes.
    pub(super) fn add(&mut self, size: u32, key: bool) {
        self.sizes.push(size);
        if key {
            self.keys.push(self.sizes.len() as u32);
        }
    }

    /// All bytes before the first frame: the file type, the index and the header of the data box.
    pub(super) fn head(&self) -> Vec<u8> {
        let ftyp = boxed(b"ftyp", &[b"isom", &[0, 0, 2, 0], b"isom", b"iso2", b"avc1", b"mp41"]);
        let mdat = mdat_header(self.sizes.iter().copied().map(u64::from).sum());
        // The index holds the offset of the data, which depends on the index's length; its length does not
        // depend on the offset.
        let data_at = ftyp.len() + self.moov(0).len() + mdat.len();
        [ftyp, self.moov(data_at as u32), mdat].concat()
    }

    fn duration(&self) -> [u8; 8] {
        (self.sizes.len() as u64 * u64::from(TICKS)).to_be_bytes()
    }

    /// Creation and modification times stay 0, so that the same frames give the same file.
    fn moov(&self, data_at: u32) -> Vec<u8> {
        let unity = be(&UNITY);
        let timescale = self.timescale.to_be_bytes();
        let next_track = [0, 0, 0, 2];
        let rate_and_volume = [0, 1, 0, 0, 1, 0];
        let mvhd_body: [&[u8]; 8] = [
            &[0; 16],
            &timescale,
            &self.duration(),
            &rate_and_volume,
            &[0; 10],
            &unity,
            &[0; 24],
            &next_track,
        ];
        let mvhd = full(b"mvhd", 1, 0, &mvhd_body);
        let size = be(&[self.width * ONE, self.height * ONE]);
        let track = [0, 0, 0, 1];
        let tkhd_body: [&[u8]; 7] = [&[0; 16], &track, &[0; 4], &self.duration(), &[0; 16], &unity, &size];
        let tkhd = full(b"tkhd", 1, TRACK_SHOWN, &tkhd_body);
        let language = UNDETERMINED.to_be_bytes();
        let mdhd = full(b"mdhd", 1, 0, &[&[0; 16], &timescale, &self.duration(), &language, &[0; 2]]);
        let hdlr = full(b"hdlr", 0, 0, &[&[0; 4], b"vide", &[0; 12], b"video\0"]);
        let vmhd = full(b"vmhd", 0, 1, &[&[0; 8]]);
        let url = full(b"url ", 0, SELF_CONTAINED, &[]);
        let dinf = boxed(b"dinf", &[&full(b"dref", 0, 0, &[&[0, 0, 0, 1], &url])]);
        let minf = boxed(b"minf", &[&vmhd, &dinf, &self.stbl(data_at)]);
        let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
        boxed(b"moov", &[&mvhd, &boxed(b"trak", &[&tkhd, &mdia])])
    }

    /// The sample table: all frames are in one chunk, in order, without gaps and of equal duration.
    fn stbl(&self, data_at: u32) -> Vec<u8> {
        let frames = self.sizes.len() as u32;
        let stsd = full(b"stsd", 0, 0, &[&[0, 0, 0, 1], &self.avc1()]);
        let stts = full(b"stts", 0, 0, &[&be(&[1, frames, TICKS])]);
        let stss = full(b"stss", 0, 0, &[&be(&[self.keys.len() as u32]), &be(&self.keys)]);
        let stsc = full(b"stsc", 0, 0, &[&be(&[1, 1, frames, 1])]);
        let stsz = full(b"stsz", 0, 0, &[&be(&[0, frames]), &be(&self.sizes)]);
        let stco = full(b"stco", 0, 0, &[&be(&[1, data_at])]);
        boxed(b"stbl", &[&stsd, &stts, &stss, &stsc, &stsz, &stco])
    }

    fn avc1(&self) -> Vec<u8> {
        let short = |n: usize| (n as u16).to_be_bytes();
        // Profile, constraints and level are the three bytes after the header of the SPS; frame lengths take
        // 4 bytes (0xff); one set of each kind follows.
        let profile = self.sps.get(1..4).unwrap_or(&[0; 3]);
        let (sps, pps) = (short(self.sps.len()), short(self.pps.len()));
        let avcc = boxed(b"avcC", &[&[1], profile, &[0xff, 0xe1], &sps, &self.sps, &[1], &pps, &self.pps]);
        let matrix = Matrix::of_height(self.height).code().as_u8();
        let colours = [ColorPrimaries::Bt709.as_u8(), TransferCharacteristics::Srgb.as_u8(), matrix];
        let colr = boxed(b"colr", &[b"nclx", &colours.map(|code| [0, code]).concat(), &[0]]);
        let size = [short(self.width as usize), short(self.height as usize)].concat();
        let (reference, one_frame, depth) = ([0, 0, 0, 0, 0, 0, 0, 1], [0, 1], [0, 24, 0xff, 0xff]);
        let dpi = be(&[DPI, DPI]);
        boxed(
            b"avc1",
            &[&reference, &[0; 16], &size, &dpi, &[0; 4], &one_frame, &[0; 32], &depth, &avcc, &colr],
        )
    }
}

/// Numbers in sequence, big-endian.
fn be(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// A box: its length, its type and its content.
fn boxed(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    [&(content.len() as u32 + 8).to_be_bytes(), kind.as_slice(), &content].concat()
}

/// A box with version and flags before its content.
fn full(kind: &[u8; 4], version: u8, flags: u32, content: &[&[u8]]) -> Vec<u8> {
    let version_and_flags = (u32::from(version) << 24 | flags).to_be_bytes();
    boxed(kind, &[&version_and_flags, &content.concat()])
}

/// The header of an `mdat` box with `length` bytes of data; from 4 GiB on the length takes 64 bits.
fn mdat_header(length: u64) -> Vec<u8> {
    match u32::try_from(length + 8) {
        Ok(size) => [&size.to_be_bytes(), b"mdat".as_slice()].concat(),
        Err(_) => [&1u32.to_be_bytes(), b"mdat".as_slice(), &(length + 16).to_be_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_gigabytes_take_the_long_header() {
        let most = u64::from(u32::MAX) - 8;
        assert_eq!(mdat_header(2), [0, 0, 0, 10, b'm', b'd', b'a', b't']);
        assert_eq!(mdat_header(most), [255, 255, 255, 255, b'm', b'd', b'a', b't']);
        let long = [0, 0, 0, 1, b'm', b'd', b'a', b't', 0, 0, 0, 1, 0, 0, 0, 8];
        assert_eq!(mdat_header(most + 1), long);
    }
}
