//! The track of H.264 pictures: ISO/IEC 14496-15 for `avc1` and `avcC`.

use openh264::encoder::{ColorPrimaries, TransferCharacteristics};

use super::super::VideoShape;
use super::boxes::{Trak, be, boxed, full, one_chunk};
use super::yuv::Matrix;

/// Ticks per frame; the timescale is this times the frame rate, so a rate is exact to a thousandth.
const TICKS: u32 = 1000;
/// 1.0 in 16.16.
const ONE: u32 = 0x0001_0000;
/// 72 dots per inch in 16.16, as the standard prescribes.
const DPI: u32 = 0x0048_0000;

/// What the index records about the coded frames: a few bytes for each.
#[derive(Debug)]
pub(super) struct Pictures {
    pub(super) sps: Vec<u8>,
    pub(super) pps: Vec<u8>,
    sizes: Vec<u32>,
    /// Key frames, counted from 1.
    keys: Vec<u32>,
    width: u32,
    height: u32,
    timescale: u32,
}

impl Pictures {
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

    pub(super) fn bytes(&self) -> u64 {
        self.sizes.iter().copied().map(u64::from).sum()
    }

    /// Ticks per second, of the whole movie too.
    pub(super) fn timescale(&self) -> u32 {
        self.timescale
    }

    pub(super) fn duration(&self) -> u64 {
        self.sizes.len() as u64 * u64::from(TICKS)
    }

    /// The box of this track, whose frames lie from byte `at` on.
    pub(super) fn trak(&self, at: u32) -> Vec<u8> {
        let trak = Trak {
            number: 1,
            shown: self.duration(),
            volume: 0,
            size: [self.width * ONE, self.height * ONE],
            edits: Vec::new(),
            timescale: self.timescale,
            duration: self.duration(),
            handler: b"vide",
            name: b"video\0",
            header: full(b"vmhd", 0, 1, &[&[0; 8]]),
            table: self.table(at),
        };
        trak.boxed()
    }

    /// All frames are in one chunk, in order, without gaps and of equal duration.
    fn table(&self, at: u32) -> Vec<u8> {
        let stsd = full(b"stsd", 0, 0, &[&[0, 0, 0, 1], &self.avc1()]);
        let stts = full(b"stts", 0, 0, &[&be(&[1, self.sizes.len() as u32, TICKS])]);
        let stss = full(b"stss", 0, 0, &[&be(&[self.keys.len() as u32]), &be(&self.keys)]);
        [stsd, stts, stss, one_chunk(&self.sizes, at)].concat()
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
