//! Qwen-Image: its transformer, and what its pipelines read from the text encoder.

mod generation;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_core::{ModelMeta, Pass, Streams, inventory};
use magcache_models::{
    checkpoint::Folder,
    image::Picture,
    qwen_image::{QwenImageConfig, QwenImagePrompt, QwenImageTransformer},
    text::{Qwen25VlConfig, Qwen25VlEncoder, SeenPictures, TextError, picture_patches},
};
use serde::Deserialize;

use super::{
    call::Call,
    case::{Case, Named},
    class::Class,
    frequencies::like_first_call,
    report::CaseReport,
    setting::Setting,
    transformer::{Before, Forward, Network, Place, Shown, calls, config},
};
use crate::console::bad_input;

inventory::submit! {
    Class {
        name: <QwenImageTransformer as Network>::CLASS,
        calls: calls::<QwenImageTransformer>,
        generation: Some(generation::setup),
    }
}

inventory::submit! {
    Class { name: "Qwen2_5_VLForConditionalGeneration", calls: text_encoder, generation: None }
}

/// Arguments of a call of the transformer.
#[derive(Deserialize)]
struct Shapes {
    /// Frames, rows and columns of the tokens of each picture.
    img_shapes: Vec<[usize; 3]>,
}

/// Rows and columns of the tokens of each picture.
fn grids(shapes: &[[usize; 3]]) -> Vec<[usize; 2]> {
    shapes.iter().map(|[_, rows, columns]| [*rows, *columns]).collect()
}

/// The text of every sample without its padding.
fn texts(call: Call<'_>) -> Result<Vec<Tensor>> {
    let text = call.required("encoder_hidden_states")?;
    let masks = call.rows("encoder_hidden_states_mask")?;
    let one = |i: usize| {
        let row = text.narrow(0, i, 1)?;
        let mask = masks.as_ref().and_then(|masks| masks.get(i));
        let tokens = mask.map(|mask| mask.iter().filter(|token| **token != 0).count());
        Ok(match tokens {
            Some(tokens) => row.narrow(1, 0, tokens)?,
            None => row,
        })
    };
    (0..text.dim(0)?).map(one).collect()
}

impl Network for QwenImageTransformer {
    const CLASS: &'static str = "QwenImageTransformer2DModel";
    const INPUTS: &'static [&'static str] =
        &["hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep"];
    const BEFORE_BLOCKS: Before = Before {
        image: "img_in.out",
        text: "txt_in.out",
        modulated_input: "transformer_blocks.0.modulated_input",
        timestep_projection: "transformer_blocks.0.img_mod.out",
    };

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        let config = config(folder, QwenImageConfig::from_json)?;
        Ok(Self::load(&on.weights(folder)?, config)?)
    }

    fn of_case(case: &Case, report: &mut CaseReport) -> Result<Self> {
        like_first_call(case, report, Self::round_frequencies_up)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(self.meta().clone())
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        let (x, timestep) = (call.required("hidden_states")?, call.required("timestep")?);
        let grids = grids(&call.args::<Shapes>()?.img_shapes);
        let prompt = |text: Tensor| QwenImagePrompt::new(self, &text, &grids);
        let prompts: Vec<_> = texts(call)?.into_iter().map(prompt).collect::<candle_core::Result<_>>()?;
        Ok(Box::new(move |pass: &mut Pass<'_>| {
            let each = prompts.iter().enumerate().map(|(i, QwenImagePrompt { context, positions })| {
                let (x, timestep) = (x.narrow(0, i, 1)?, timestep.narrow(0, i, 1)?);
                self.forward(&x, &timestep, context, positions, pass)
            });
            Tensor::cat(&each.collect::<candle_core::Result<Vec<_>>>()?, 0)
        }))
    }

    fn names(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        let block = format!("transformer_blocks.{}", at.block);
        let shown = |name: &str, tensor: Tensor| (format!("{block}.{name}"), tensor);
        Ok(match (at.module, y.text()?) {
            (None, Some(text)) => vec![shown("context_out", text), shown("out", y.image()?)],
            (Some(module), Some(text)) => {
                let read = x.text()?.map(|text| shown("modulated_context", text));
                let out = [
                    shown(&format!("{module}.out"), y.image()?),
                    shown(&format!("{module}.context_out"), text),
                ];
                out.into_iter().chain(read).collect()
            }
            (Some(module), None) => vec![shown(&format!("{module}.out"), y.image()?)],
            (None, None) => Vec::new(),
        })
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        let grids = grids(&call.args::<Shapes>()?.img_shapes);
        let positions = self.positions(call.required("encoder_hidden_states")?.dim(1)?, &grids)?;
        for (stream, rope) in [("image", positions.image()), ("text", positions.text())] {
            seen.insert(format!("rope.{stream}.cos"), rope.cos()?);
            seen.insert(format!("rope.{stream}.sin"), rope.sin()?);
        }
        if self.config().zero_cond_t && grids.len() > 1 {
            // The reference embeds timestep 0 behind that of the step, in one tensor.
            let zero = self.embedded(&call.required("timestep")?.zeros_like()?)?;
            for (name, zero) in ["temb", Self::BEFORE_BLOCKS.timestep_projection].into_iter().zip(zero) {
                if let Some(own) = seen.get_mut(name) {
                    *own = Tensor::cat(&[&*own, &zero], 0)?;
                }
            }
        }
        Ok(())
    }
}

/// Arguments of a call of the text encoder.
#[derive(Deserialize)]
struct Prompted {
    /// Rows before the prompt.
    drop_idx: usize,
}

/// Qwen2.5-VL: hidden states, and what is left of them without the first rows and the padding.
fn text_encoder(case: &Case, report: &mut CaseReport) -> Result<()> {
    let config = Qwen25VlConfig::read(&case.folder)?;
    let weights = case.weights()?;
    let encoder = Qwen25VlEncoder::load(&weights, &config, true)?;
    case.compare_calls(report, |call, report| {
        let ids = call.rows("input_ids")?.unwrap_or_default();
        let mask = call.rows("attention_mask")?;
        let pictures = pictures(call, &encoder, report)?;
        let states = encoder.hidden_states(&ids, mask.as_deref(), pictures.as_ref()).map_err(refused)?;
        let last = states.last().cloned().ok_or_else(|| bad_input("no hidden states"))?;
        let embeds = embeds(&last, mask.as_deref(), call.args::<Prompted>()?.drop_idx)?;
        let why = "diffusers 0.42.1 with transformers 5 gives pictures the positions of text, a defect";
        call.compare(report, call.tolerance(), why, |output| {
            let state = output.strip_prefix("hidden_states.").and_then(|k| k.parse::<usize>().ok());
            Ok(match (output, state.and_then(|k| states.get(k))) {
                ("prompt_embeds", _) => Some(embeds.clone()),
                ("prompt_embeds_mask", _) => {
                    mask.as_deref().map(|mask| tail(mask, &embeds, call)).transpose()?
                }
                ("image_embeds", _) => {
                    pictures.as_ref().map(|pictures| encoder.picture_tokens(pictures)).transpose()?
                }
                // Recorded of one prompt, in part.
                (_, Some(state)) => Some(state.narrow(0, 1, 1)?.narrow(1, 0, 48)?),
                _ => None,
            })
        })
    })
}

fn refused(error: TextError) -> anyhow::Error {
    bad_input(error.to_string())
}

/// The rows behind the first, of each prompt as many as it has tokens, padded with zeros to the longest.
fn embeds(last: &Tensor, mask: Option<&[Vec<u32>]>, drop: usize) -> Result<Tensor> {
    let (batch, tokens, _) = last.dims3()?;
    let own = |i: usize| {
        let mask = mask.and_then(|mask| mask.get(i));
        mask.map_or(tokens, |mask| mask.iter().filter(|token| **token != 0).count())
    };
    let longest = (0..batch).map(own).max().unwrap_or(tokens);
    let row = |i: usize| {
        let row = last.narrow(0, i, 1)?.narrow(1, drop, own(i).saturating_sub(drop))?;
        row.pad_with_zeros(1, 0, longest - own(i))
    };
    Ok(Tensor::cat(&(0..batch).map(row).collect::<candle_core::Result<Vec<_>>>()?, 0)?)
}

/// The mask of these embeddings.
fn tail(mask: &[Vec<u32>], embeds: &Tensor, call: Call<'_>) -> Result<Tensor> {
    let drop = call.args::<Prompted>()?.drop_idx;
    let rows = mask.iter().flat_map(|row| row.iter().skip(drop).map(|token| i64::from(*token)));
    Ok(Tensor::from_iter(rows, embeds.device())?.reshape((mask.len(), embeds.dim(1)?))?)
}

/// The pictures of a call, whose patches and positions are compared with those recorded.
fn pictures(
    call: Call<'_>,
    encoder: &Qwen25VlEncoder,
    report: &mut CaseReport,
) -> Result<Option<SeenPictures>> {
    let config = &encoder.config().vision;
    let Some(want) = call.input("pixel_values")? else { return Ok(None) };
    let (mut patches, mut grids) = (Vec::new(), Vec::new());
    while let Some(picture) = call.input(&format!("picture.{}", grids.len()))? {
        let (height, width, _) = picture.dims3()?;
        let bytes: Vec<u8> = picture.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
        let picture = Picture::from_rgb8(width, height, bytes)?;
        // Recorded pictures are smaller than published models read them: as they are.
        let (own, grid) = picture_patches(config, &picture, &call.case.on.device)?;
        patches.push(own);
        grids.push(grid);
    }
    let seen = SeenPictures { patches: Tensor::cat(&patches, 0)?, grids };
    report.tensors(&call.name, "pixel_values", &seen.patches, want, call.tolerance())?;
    let ids = call.rows("input_ids")?.unwrap_or_default();
    if let (Some(want), Some(ids)) = (call.input("position_ids")?, ids.first()) {
        let at = encoder.positions(ids, &seen.grids);
        let axes = (0..3).flat_map(|axis| at.iter().map(move |at| at[axis] as i64));
        let got = Tensor::from_iter(axes, &Device::Cpu)?.reshape((3, 1, at.len()))?;
        report.tensors(&call.name, "position_ids", &got, want, 0.0)?;
    }
    Ok(Some(seen))
}
