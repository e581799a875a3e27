//! What the pipelines of all Wan models do alike: open a folder, encode prompts, decode latents.

use candle_core::{DType, Device, Tensor};
use magcache_core::{Expert, ModelMeta};

use super::{WanSource, WanTextEncoder, defaults, meta, names};
use crate::{
    autoencoder::{Tiling, VideoVae},
    checkpoint::{AdapterNames, AdapterPart, AdapterReport, CheckpointError, Folder, WeightDtype, Weights},
    image::Picture,
    pipeline::{
        self, Defaults, Division, LoadOptions, Phase, PipelineError, Request, Result, adapters_of, truncated,
        unknown_words,
    },
};

/// Tokens that prompts are padded to.
const TEXT_TOKENS: usize = 512;

/// The names that adapters use for the text encoder.
const ENCODER: AdapterNames = names::ADAPTER.of(AdapterPart::T5);

/// A checkpoint in any layout and how to load it.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) source: WanSource,
    pub(super) options: LoadOptions,
}

impl Parts {
    pub(super) fn open(folder: Folder, options: LoadOptions) -> Result<Self> {
        Ok(Self {
            source: WanSource::open_with(folder.computing_with(options.ops), &options.files)?,
            options,
        })
    }

    /// The defaults of the folder, or else the published ones, and the registered model.
    pub(super) fn described(&self) -> Result<(Defaults, ModelMeta)> {
        let folder = self.source.folder();
        let defaults: Defaults = if folder.exists("magcache.json") {
            folder.read_json("magcache.json")?
        } else {
            defaults::published(&self.source)
        };
        let meta = meta::of(&self.source, defaults.model.as_deref());
        Ok((defaults, meta))
    }

    pub(super) fn device(&self) -> &Device {
        &self.options.device
    }

    /// The type of the hidden states.
    pub(super) fn compute_dtype(&self) -> Result<DType> {
        if self.device().is_cpu() {
            return Ok(DType::F32);
        }
        Ok(self.source.transformer(Expert(0), self.device(), self.options.network_dtype())?.compute_dtype())
    }

    pub(super) fn networks(&self) -> Result<Vec<Weights>> {
        let of = |expert: usize| {
            Ok(self.source.transformer(Expert(expert as u8), &Device::Cpu, WeightDtype::Keep)?)
        };
        (0..self.source.experts()).map(of).collect()
    }

    pub(super) fn encoders(&self) -> Result<Vec<Weights>> {
        Ok(vec![self.source.text_encoder(&Device::Cpu, WeightDtype::Keep)?])
    }

    /// What text encoder, networks and autoencoder need, in this order, for a request with so many tokens, of
    /// which so many frames are decoded together.
    pub(super) fn memory(&self, request: &Request, tokens: usize, frames: usize) -> Result<[Phase; 3]> {
        let (source, options) = (&self.source, &self.options);
        let (device, dtype) = (&options.device, options.dtype);
        let text = source.text_encoder_config();
        let encoder = source.text_encoder(device, dtype)?;
        let sizes = [text.d_model, text.d_ff];
        let config = source.transformer_config(Expert(0));
        let experts = if options.keeps_experts() { source.experts() } else { 1 };
        let networks = (0..experts)
            .map(|expert| source.transformer(Expert(expert as u8), device, options.network_dtype()))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let mut network = pipeline::transformer_phase(
            "transformer",
            (&networks, &["blocks"]),
            tokens,
            [config.inner_dim(), config.ffn_dim],
            Division::of(options),
        );
        // Keys and values of the text, in every block and for both branches.
        let text_tokens = 2 * TEXT_TOKENS * config.num_layers * config.inner_dim() * 4;
        network.activations += 2 * (text_tokens * experts) as u64;
        let vae = source.vae(device, WeightDtype::Auto)?;
        let (width, height) = (request.width(), request.height());
        let decoding = source.vae_config().decode_memory(width, height, frames, self.tiling());
        let decoding = decoding.map_err(|e| PipelineError::part("autoencoder", e))?;
        Ok([
            pipeline::text_phase(&[encoder], TEXT_TOKENS, sizes, text.num_heads),
            network,
            Phase {
                name: "autoencoder",
                weights: vae.resident_bytes(),
                activations: decoding.total(candle_core::utils::get_num_threads()),
                ..Phase::default()
            },
        ])
    }

    /// The network of an expert as its adapters change it.
    pub(super) fn network(&self, expert: Expert) -> Result<Weights, CheckpointError> {
        let (source, options) = (&self.source, &self.options);
        let index = usize::from(expert.0);
        let adapters = adapters_of(&options.adapters, index, source.experts());
        let weights = source.transformer(expert, &options.device, options.network_dtype())?;
        Ok(weights.adapted(&adapters, &names::ADAPTER, index)?.0)
    }

    /// The text encoder's tensors as the adapters' parts for it change them.
    fn text_encoder(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<(Weights, Vec<AdapterReport>), CheckpointError> {
        let weights = self.source.text_encoder(device, dtype)?;
        weights.adapted(&adapters_of(&self.options.adapters, 0, 1), &ENCODER, 0)
    }

    /// What the adapters do, expert by expert, and to the text encoder.
    pub(super) fn adapters(&self) -> Result<Vec<AdapterReport>> {
        let mut reports = Vec::new();
        let experts = if self.options.adapters.is_empty() { 0 } else { self.source.experts() };
        for expert in 0..experts {
            let own = adapters_of(&self.options.adapters, expert, self.source.experts());
            let weights = self.source.transformer(Expert(expert as u8), &Device::Cpu, WeightDtype::Keep)?;
            reports.extend(weights.adapted(&own, &names::ADAPTER, expert)?.1);
        }
        if experts > 0 {
            reports.extend(self.text_encoder(&Device::Cpu, WeightDtype::Keep)?.1);
        }
        Ok(reports)
    }

    /// The picture that the folder contains.
    pub(super) fn default_image(&self, defaults: &Defaults) -> Result<Option<Picture>> {
        let Some(file) = &defaults.image else { return Ok(None) };
        let folder = self.source.folder();
        let picture = Picture::decode(&folder.describe_file(file), &folder.read(file)?);
        picture.map(Some).map_err(|e| PipelineError::part("image", e))
    }

    /// The recording that the folder contains.
    pub(super) fn default_audio(&self, defaults: &Defaults) -> Result<Option<Vec<u8>>> {
        let Some(file) = &defaults.audio else { return Ok(None) };
        Ok(Some(self.source.folder().read(file)?.to_vec()))
    }

    pub(super) fn vae(&self) -> Result<VideoVae> {
        let weights = self.source.vae(self.device(), WeightDtype::Auto)?;
        Ok(VideoVae::load(&weights, self.source.vae_config())?)
    }

    pub(super) fn tiling(&self) -> Option<Tiling> {
        self.options.tile_vae.then(Tiling::default)
    }

    /// The texts of requests, `[1, tokens, channels]`, and the negative prompt of the first if they are
    /// `guided`. The encoder is in memory only meanwhile.
    pub(super) fn encode_texts(
        &self,
        requests: &[Request],
        guided: bool,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let make = || self.encode_here(requests, guided, notes);
        let mut texts = self.options.once("the encoded prompts", make)?;
        let negative = if guided { texts.pop() } else { None };
        Ok((texts, negative))
    }

    /// Features of every prompt and, if they are guided, of the first negative prompt.
    fn encode_here(
        &self,
        requests: &[Request],
        guided: bool,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Tensor>> {
        let (weights, _) = self.text_encoder(self.device(), self.options.dtype)?;
        let (tokenizer, config) = (self.source.tokenizer()?, self.source.text_encoder_config());
        let encoder = WanTextEncoder::from_parts(tokenizer, &weights, config)?;
        let mut one = |text: &str, what: &str| -> Result<Tensor> {
            let tokens = encoder.tokenizer().encode(text).map_err(|e| PipelineError::part("prompt", e))?;
            notes.extend(truncated(what, encoder.max_length(), tokens.truncated));
            let unknown = encoder.tokenizer().unknown_words(text);
            notes.extend(unknown_words(what, &unknown.map_err(|e| PipelineError::part("prompt", e))?));
            encoder.encode_tokens(&[tokens]).map_err(|e| PipelineError::part("text encoder", e))
        };
        let mut texts =
            requests.iter().map(|request| one(&request.prompt, "prompt")).collect::<Result<Vec<_>>>()?;
        if let Some(first) = requests.first().filter(|_| guided) {
            texts.push(one(&first.negative_prompt, "negative prompt")?);
        }
        Ok(texts)
    }
}

/// Decodes latents and passes on frames `[channels, frames, height, width]` in -1..=1, in order and in
/// pieces.
pub(super) fn decode(
    vae: &VideoVae,
    tiling: Option<Tiling>,
    latents: &Tensor,
    sink: &mut dyn FnMut(&Tensor) -> Result<()>,
) -> Result<()> {
    let failed = |e| PipelineError::part("autoencoder", e);
    let latents = vae.denormalize(latents).map_err(failed)?;
    if tiling.is_some() {
        // Tiles are processed one after the other, each over all frames.
        let video = vae.decode(&latents, tiling).map_err(failed)?;
        return sink(&video.squeeze(0)?);
    }
    let mut stream = vae.decode_stream();
    for frame in 0..latents.dim(2)? {
        let frames = stream.push(&latents.narrow(2, frame, 1)?).map_err(failed)?;
        sink(&frames.squeeze(0)?)?;
    }
    Ok(())
}
