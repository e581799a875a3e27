//! The network: latents of a clip, a timestep and what the clip is about to a prediction.

use std::{
    cell::OnceCell,
    sync::{Arc, OnceLock},
};

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{Pass, Signal, Stacks, Streams};

use super::{
    AudioInjector, AudioTokens, CausalAudioEncoder, FramePacker, S2vConfig, TokenGrid, injector::Heard,
};
use crate::{
    blocks::Residence,
    checkpoint::{Folder, WeightDtype, Weights},
    model_id::ModelId,
    nn::RotaryTable,
    once::get_or_try_init,
    ranks::{DataPlane, Sequence},
    wan::{
        LoadResult, TextContext, WanConfig, WanTransformer,
        modulation::TimestepProjection,
        patch::{Grid, PatchEmbedding},
        source,
    },
};

/// The diffusion transformer of Wan2.2 speech to video (`WanModel_S2V` of the official code): that of Wan
/// with more kinds of tokens, and the sound behind some blocks.
///
/// What one of its units runs is a block and the injection behind it, if there is one. One video at a time.
/// The model holds weights only: it can serve several generations at once.
#[derive(Debug)]
pub struct S2vTransformer {
    wan: WanTransformer,
    config: S2vConfig,
    cond_encoder: PatchEmbedding,
    frame_packer: FramePacker,
    /// `[3, inner]`: added to tokens of the video, of the reference picture and of the past.
    marks: Tensor,
    audio_encoder: CausalAudioEncoder,
    injectors: Vec<AudioInjector>,
}

/// The streams of a sequence: tokens of the video, and of what it begins from.
const VIDEO: usize = 0;
const REST: usize = 1;

/// The parts of the input that stay the same over a clip.
#[derive(Clone, Copy, Debug)]
pub struct ClipInputs<'a> {
    /// Latents of the reference picture, `[1, channels, 1, height, width]`.
    pub reference: &'a Tensor,
    /// Latents before the clip, `[1, channels, latents, height, width]`, the newest last; `None` at the
    /// beginning of a video.
    pub motion: Option<&'a Tensor>,
    /// Latents of the pose, `[1, channels, frames, height, width]`; `None` is the same as zeros.
    pub pose: Option<&'a Tensor>,
    /// Latent frames of the clip.
    pub frames: usize,
}

/// A clip as the network sees it, the same on every branch.
#[derive(Clone, Debug)]
pub struct ClipTokens {
    model: ModelId,
    grid: TokenGrid,
    /// Added to the tokens of the video: pose and mark, `[1, tokens of the video, inner]`.
    pose: Tensor,
    /// The other tokens, `[1, tokens, inner]`.
    rest: Tensor,
    rope: RotaryTable,
}

impl ClipTokens {
    /// Which tokens there are.
    pub fn grid(&self) -> TokenGrid {
        self.grid
    }

    /// Cosines and sines of every token's position, `[tokens, head_dim / 2]` each.
    #[cfg(feature = "verify")]
    pub fn rope(&self) -> &RotaryTable {
        &self.rope
    }
}

/// Text and sound of one branch. What the blocks make of them is computed on first use and kept.
#[derive(Clone, Debug)]
pub struct ClipContext {
    text: TextContext,
    audio: Arc<Audio>,
}

#[derive(Debug)]
struct Audio {
    tokens: AudioTokens,
    /// One per injector.
    heard: Vec<OnceLock<Heard>>,
}

impl ClipContext {
    /// The text.
    pub fn text(&self) -> &TextContext {
        &self.text
    }

    /// The sound as tokens, a row per latent frame of the clip.
    pub fn audio(&self) -> &AudioTokens {
        &self.audio.tokens
    }

    fn heard(&self, index: usize, injector: &AudioInjector) -> Result<&Heard> {
        let Some(cell) = self.audio.heard.get(index) else {
            candle_core::bail!("injector {index} of {} in this context", self.audio.heard.len())
        };
        if let Some(ready) = cell.get() {
            return Ok(ready);
        }
        let computed = injector.hear(&self.audio.tokens)?;
        Ok(cell.get_or_init(|| computed))
    }
}

impl S2vTransformer {
    /// Loads the tensors, those of a Wan transformer under diffusers' names and the others under the native
    /// ones, as [`WanSource::transformer`](crate::wan::WanSource::transformer) gives them.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, wan: WanConfig, config: S2vConfig) -> LoadResult<Self> {
        Self::load_in(weights, wan, config, &Residence::Memory)
    }

    /// The same with the weights of its blocks elsewhere while these do not run.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(
        weights: &Weights,
        wan: WanConfig,
        config: S2vConfig,
        residence: &Residence,
    ) -> LoadResult<Self> {
        let (inner, heads) = (wan.inner_dim(), wan.num_attention_heads);
        let S2vConfig { audio_dim, num_audio_token, enable_adain, .. } = config;
        let injectors = weights.pp("audio_injector");
        let injectors = (0..config.audio_inject_layers.len())
            .map(|i| AudioInjector::load(&injectors, i, inner, heads, enable_adain))
            .collect::<LoadResult<_>>()?;
        let encoder = weights.pp("casual_audio_encoder");
        let (cond_encoder, packer) = (weights.pp("cond_encoder"), weights.pp("frame_packer"));
        Ok(Self {
            cond_encoder: PatchEmbedding::load(&cond_encoder, config.cond_dim, wan.patch_size, inner)?,
            frame_packer: FramePacker::load(&packer, wan.in_channels, inner)?,
            marks: weights.get_f32("trainable_cond_mask.weight", &[3, inner])?,
            audio_encoder: CausalAudioEncoder::load(
                &encoder,
                audio_dim,
                num_audio_token,
                inner,
                enable_adain,
            )?,
            injectors,
            wan: WanTransformer::load_in(weights, wan, residence)?,
            config,
        })
    }

    /// Reads `config.json` and the tensors of a folder that need not have anything else, under native names.
    ///
    /// # Errors
    /// As [`WanSource::open`](crate::wan::WanSource::open); a transformer of another task.
    pub fn open(folder: &Folder, device: &Device, dtype: WeightDtype) -> LoadResult<Self> {
        source::open_s2v(folder, device, dtype)
    }

    /// The same, of whose tokens each of several ranks has some: see [`WanTransformer::over`].
    ///
    /// # Errors
    /// More ranks than heads.
    pub fn over(self, plane: Option<&Arc<dyn DataPlane>>) -> Result<Self> {
        Ok(Self { wan: self.wan.over(plane)?, ..self })
    }

    /// The same, computing in another type: see [`WanTransformer::computing_in`].
    #[must_use]
    pub fn computing_in(self, dtype: DType) -> Self {
        Self { wan: self.wan.computing_in(dtype), ..self }
    }

    /// The sizes that it shares with other Wan models.
    pub fn wan_config(&self) -> &WanConfig {
        &self.wan.config
    }

    /// Its other sizes.
    pub fn config(&self) -> &S2vConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.marks.device()
    }

    /// Prepares what a clip shows besides its noise.
    ///
    /// # Errors
    /// Latents of other shapes; with motion, a height or width that is no multiple of 8.
    pub fn clip(&self, inputs: &ClipInputs<'_>) -> Result<ClipTokens> {
        let dtype = self.wan.dtype;
        let (_, channels, pictures, height, width) = inputs.reference.dims5()?;
        if pictures != 1 {
            candle_core::bail!("{pictures} latents of the reference picture, expected 1");
        }
        let zeros;
        let shape = (1, channels, inputs.frames, height, width);
        let pose = match inputs.pose {
            Some(pose) => pose,
            None => {
                zeros = Tensor::zeros(shape, DType::F32, self.device())?;
                &zeros
            }
        };
        if pose.dims5()? != shape {
            candle_core::bail!("latents of the pose are {:?}, expected {shape:?}", pose.dims());
        }
        let Grid { tokens: video, .. } = Grid::new(pose, &self.wan.config)?;
        let marked = |tokens: Tensor, mark: usize| {
            tokens.broadcast_add(&self.marks.narrow(0, mark, 1)?.unsqueeze(0)?.to_dtype(dtype)?)
        };
        let reference = self.wan.patch_embedding.forward(&inputs.reference.to_dtype(dtype)?)?;
        let mut rest = vec![marked(reference, 1)?];
        if let Some(motion) = inputs.motion {
            rest.push(marked(self.frame_packer.forward(&motion.to_dtype(dtype)?)?, 2)?);
        }
        let grid = TokenGrid { video, motion: inputs.motion.is_some() };
        Ok(ClipTokens {
            model: self.wan.id.clone(),
            grid,
            pose: marked(self.cond_encoder.forward(&pose.to_dtype(dtype)?)?, 0)?,
            rest: Tensor::cat(&rest, 1)?,
            rope: self.wan.rope.table_at(grid.positions(), self.device())?,
        })
    }

    /// Prepares text and sound for every step of a clip.
    ///
    /// `text` is `[1, tokens, text_dim]`, at most `text_len` tokens. `features` are those of the clip's own
    /// frames, `[1, layers, channels, frames]`; before them, the network hears copies of the first one for
    /// `motion_frames` frames, whose `motion_latents` rows are dropped.
    ///
    /// # Errors
    /// A longer text, features of other sizes.
    pub fn context(
        &self,
        text: &Tensor,
        features: &Tensor,
        (motion_frames, motion_latents): (usize, usize),
    ) -> Result<ClipContext> {
        let (batch, tokens, channels) = text.dims3()?;
        let Some(missing) = self.config.text_len.checked_sub(tokens) else {
            candle_core::bail!("{tokens} text tokens, this model takes {}", self.config.text_len);
        };
        let padding = Tensor::zeros((batch, missing, channels), text.dtype(), text.device())?;
        let text = if missing == 0 { text.clone() } else { Tensor::cat(&[text, &padding], 1)? };
        let (_, layers, channels, _) = features.dims4()?;
        let before = features.narrow(3, 0, 1)?.expand((1, layers, channels, motion_frames))?.contiguous()?;
        let heard = self.audio_encoder.forward(&Tensor::cat(&[&before, features], 3)?)?;
        Ok(ClipContext {
            text: self.wan.text_context(&text)?,
            audio: Arc::new(Audio {
                tokens: heard.after(motion_latents)?.in_dtype(self.wan.dtype)?,
                heard: std::iter::repeat_with(OnceLock::new).take(self.injectors.len()).collect(),
            }),
        })
    }

    /// The part of a pass that the branches share, for latents `[1, channels, frames, height, width]` at a
    /// timestep between 0 and 1000.
    ///
    /// # Errors
    /// Latents that do not fit the clip.
    pub fn embed(&self, latents: &Tensor, timestep: f64, clip: &ClipTokens) -> Result<S2vInput> {
        if clip.model != self.wan.id {
            candle_core::bail!("the clip was prepared by another model");
        }
        let grid = Grid::new(latents, &self.wan.config)?;
        if (grid.batch, grid.tokens) != (1, clip.grid.video) {
            candle_core::bail!(
                "{} videos of {:?} tokens, the clip is one of {:?}",
                grid.batch,
                grid.tokens,
                clip.grid.video
            );
        }
        let sequence = Sequence::new(self.wan.plane.as_ref(), &[grid.len(), clip.rest.dim(1)?])?;
        let video = self.wan.patch_embedding.forward_own(&latents.to_dtype(self.wan.dtype)?, &sequence)?;
        let (pose, rest) = (sequence.narrow(&clip.pose, VIDEO)?, sequence.narrow(&clip.rest, REST)?);
        let rope = if sequence.is_divided() {
            let (own, other) = (sequence.own(VIDEO), sequence.own(REST));
            let others = clip.rope.narrow(grid.len() + other.start, other.len())?;
            clip.rope.narrow(own.start, own.len())?.then(&others)?
        } else {
            clip.rope.clone()
        };
        // Whatever is not the video is always at timestep 0.
        let timesteps = Tensor::new(&[timestep as f32, 0.0], self.device())?;
        Ok(S2vInput {
            grid,
            latents: latents.clone(),
            tokens: Tensor::cat(&[(video + pose)?, rest], 1)?,
            rope,
            sequence,
            temb: self.wan.time.embed(&timesteps)?,
            projection: OnceCell::new(),
            last_modulation: OnceCell::new(),
        })
    }

    /// The velocity on one branch, f32, in the shape of the latents.
    ///
    /// # Errors
    /// A context of another model or clip.
    pub fn predict(&self, input: &S2vInput, context: &ClipContext, pass: &mut Pass<'_>) -> Result<Tensor> {
        let S2vInput { grid, sequence, latents, tokens, rope, temb, projection, last_modulation } = input;
        context.text.check(&self.wan.id, 1)?;
        let (frames, length) = (grid.tokens[0], sequence.own(VIDEO).len());
        let heard = context.audio.tokens.local.dim(0)?;
        if heard != frames {
            candle_core::bail!("the sound has {heard} latent frames, the clip {frames}");
        }
        let now = temb.narrow(0, 0, 1)?;
        let projection = || {
            get_or_try_init(projection, || {
                let rows = self.wan.time.project(temb)?;
                Ok::<_, candle_core::Error>(TimestepProjection::Parts { rows, tokens: length })
            })
        };
        let probe = |signal: Signal, x: &Streams| match signal {
            Signal::TimestepEmbedding => Ok(now.clone()),
            Signal::TimestepProjection => projection()?.signal(),
            Signal::Latents => Ok(latents.clone()),
            Signal::ModulatedInput => self.wan.blocks.get(0)?.modulated_input(&x.image()?, projection()?),
        };
        let (x, residual) = Stacks::default()
            .numbered(self.wan.blocks.len(), |i, streams, modules| {
                let block = self.wan.blocks.get(i)?;
                let text = context.text.keys_values(i, block.cross_attention())?;
                streams.map_joint(|x| {
                    let x = block.forward(x, projection()?, (rope, sequence), text, modules)?;
                    match self.config.audio_inject_layers.iter().position(|layer| *layer == i) {
                        None => Ok(x),
                        Some(index) => self.inject(&x, index, input, context),
                    }
                })
            })
            .signals(probe)
            .grid(&grid.tokens)
            .run_lazy(pass, Streams::Joint { tokens: tokens.clone(), text: length..tokens.dim(1)? })?
            .into_image_terms()?;
        let modulation = get_or_try_init(last_modulation, || self.wan.head.modulation(&now))?;
        self.wan.head.forward(&x, residual.as_ref(), modulation, *grid, sequence)?.to_dtype(DType::F32)
    }

    /// What the timestep gives to the blocks, `[2, 6 * inner]`: to the video's tokens, and to the others.
    #[cfg(feature = "verify")]
    pub fn projection(&self, input: &S2vInput) -> Result<Tensor> {
        self.wan.time.project(&input.temb)
    }

    /// Tokens `[1, tokens, inner]`, of which those of the video attend to the sound of their frame. Of the
    /// first and of the last frame only some may be here.
    fn inject(&self, x: &Tensor, index: usize, input: &S2vInput, context: &ClipContext) -> Result<Tensor> {
        let (_, tokens, inner) = x.dims3()?;
        let injector = &self.injectors[index];
        let heard = context.heard(index, injector)?;
        let own = input.sequence.own(VIDEO);
        let of_frame = (input.grid.len() / input.grid.tokens[0].max(1)).max(1);
        let (mut at, mut all) = (own.start, Vec::new());
        while at < own.end {
            let frame = at / of_frame;
            // As many whole frames as follow, or what is here of one.
            let whole = if at % of_frame == 0 { (own.end - at) / of_frame } else { 0 };
            let end = if whole > 0 { at + whole * of_frame } else { own.end.min((frame + 1) * of_frame) };
            let frames = whole.max(1);
            let video =
                x.narrow(1, at - own.start, end - at)?.reshape((frames, (end - at) / frames, inner))?;
            let video = injector.forward(&video, &heard.of_frames(frame, frames)?)?;
            all.push(video.reshape((1, end - at, inner))?);
            at = end;
        }
        all.push(x.narrow(1, own.len(), tokens - own.len())?);
        Tensor::cat(&all, 1)
    }
}

/// The initial state of an [`S2vTransformer`] for given latents and timestep.
#[derive(Debug)]
pub struct S2vInput {
    grid: Grid,
    sequence: Sequence,
    /// `[1, channels, frames, height, width]`.
    latents: Tensor,
    /// `[1, tokens, inner]`, of the tokens that are here.
    tokens: Tensor,
    /// Their angles.
    rope: RotaryTable,
    /// `[2, inner]`: of the timestep, and of timestep 0.
    temb: Tensor,
    projection: OnceCell<TimestepProjection>,
    last_modulation: OnceCell<[Tensor; 2]>,
}
