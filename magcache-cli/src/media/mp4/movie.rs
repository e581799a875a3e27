//! What comes before the data of an MP4 file: the file type, the index, and the header of the data box.

use magcache_audio::SoundTrack;

use super::boxes::{UNITY, be, boxed, full, mdat_header};
use super::pictures::Pictures;
use super::sound;

/// All bytes before the data, which is the packets of the sound, then the frames: whoever plays the file
/// while it arrives has the sound of each frame before the frame.
pub(super) fn head(pictures: &Pictures, sound: Option<&SoundTrack>) -> Vec<u8> {
    let ftyp = boxed(b"ftyp", &[b"isom", &[0, 0, 2, 0], b"isom", b"iso2", b"avc1", b"mp41"]);
    let sound_bytes = sound.map_or(0, sound::bytes);
    let mdat = mdat_header(sound_bytes + pictures.bytes());
    // The index holds the offset of the data, which depends on the index's length; its length does not
    // depend on the offset.
    let index = |at: u32| moov(pictures, sound, at, at + sound_bytes as u32);
    let data_at = ftyp.len() + index(0).len() + mdat.len();
    [ftyp, index(data_at as u32), mdat].concat()
}

fn moov(pictures: &Pictures, track: Option<&SoundTrack>, sound_at: u32, pictures_at: u32) -> Vec<u8> {
    let (timescale, duration) = (pictures.timescale(), pictures.duration());
    let next_track = [0, 0, 0, if track.is_some() { 3 } else { 2 }];
    let rate_and_volume = [0, 1, 0, 0, 1, 0];
    let mvhd_body: [&[u8]; 8] = [
        &[0; 16],
        &timescale.to_be_bytes(),
        &duration.to_be_bytes(),
        &rate_and_volume,
        &[0; 10],
        &be(&UNITY),
        &[0; 24],
        &next_track,
    ];
    let mvhd = full(b"mvhd", 1, 0, &mvhd_body);
    let sound = track.map_or(Vec::new(), |track| sound::trak(track, sound_at, duration, timescale));
    boxed(b"moov", &[&mvhd, &pictures.trak(pictures_at), &sound])
}
