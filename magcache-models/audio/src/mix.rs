//! From many channels to one or two.

/// Where a channel is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
    Middle,
    LeftBehind,
    RightBehind,
    /// Low frequencies alone; no part of a mix.
    Rumble,
}

impl Side {
    /// Of channels that name no places.
    pub(crate) fn of(channels: usize) -> Vec<Self> {
        if channels == 2 { vec![Self::Left, Self::Right] } else { vec![Self::Middle; channels] }
    }

    /// The shares of the left and the right channel of a mix: ITU-R BS.775, table 2.
    fn shares(self) -> [f32; 2] {
        const HALF_POWER: f32 = std::f32::consts::FRAC_1_SQRT_2;
        match self {
            Self::Left => [1.0, 0.0],
            Self::Right => [0.0, 1.0],
            Self::Middle => [HALF_POWER; 2],
            Self::LeftBehind => [HALF_POWER, 0.0],
            Self::RightBehind => [0.0, HALF_POWER],
            Self::Rumble => [0.0, 0.0],
        }
    }
}

/// Appends the mean of every frame of `channels` samples: added up in order and divided, in f32.
pub(crate) fn mono(samples: &[f32], channels: usize, out: &mut Vec<f32>) {
    match channels {
        1 => out.extend_from_slice(samples),
        channels => {
            out.extend(
                samples.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32),
            );
        }
    }
}

/// Appends every frame to one or two planes: one and two channels as they are, more of them mixed down to
/// two, no louder than the loudest of them.
pub(crate) fn stereo(samples: &[f32], sides: &[Side], out: &mut Vec<Vec<f32>>) {
    let planes = sides.len().min(2);
    out.resize_with(planes, Vec::new);
    if sides.len() <= 2 {
        for (channel, plane) in out.iter_mut().enumerate() {
            plane.extend(samples.iter().skip(channel).step_by(sides.len().max(1)));
        }
        return;
    }
    let shares: Vec<[f32; 2]> = sides.iter().map(|side| side.shares()).collect();
    for (channel, plane) in out.iter_mut().enumerate() {
        let sum: f32 = shares.iter().map(|share| share[channel]).sum();
        let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        plane.extend(samples.chunks_exact(sides.len()).map(|frame| {
            scale * frame.iter().zip(&shares).map(|(sample, share)| sample * share[channel]).sum::<f32>()
        }));
    }
}
