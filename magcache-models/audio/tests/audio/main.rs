//! Recordings of every kind: their samples, their times, and what is said about those that are not right.
//!
//! The files in `tests/fixtures` were written by ffmpeg 5.1.9 with libx264, libmp3lame 3.100, libvorbis and
//! libopus.

mod coded;
mod damage;
mod pcm;
mod refused;
mod resample;
mod support;
mod track;
