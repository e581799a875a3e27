//! The transformers of FLUX, of both generations.

mod generation;

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{ModelMeta, Streams, inventory};
use magcache_models::{
    checkpoint::Folder,
    flux::{
        Flux2Config, Flux2Transformer, FluxConfig, FluxNetwork, FluxTransformer, JointPositions,
        PromptContext, flux2,
    },
};

use super::{
    call::Call,
    case::{Case, Named},
    class::Class,
    frequencies::{FREQUENCIES, like_first_call},
    replay::Grid,
    report::CaseReport,
    setting::Setting,
    transformer::{Before, Forward, Network, Place, Shown, both_of_a_pair, calls, config},
};
use crate::console::bad_input;

inventory::submit! {
    Class {
        name: <FluxTransformer as Network>::CLASS,
        calls: calls::<FluxTransformer>,
        generation: Some(generation::setup1),
    }
}

inventory::submit! {
    Class {
        name: <Flux2Transformer as Network>::CLASS,
        calls: calls::<Flux2Transformer>,
        generation: Some(|case, sampling, _| generation::setup2(case, sampling)),
    }
}

inventory::submit! { Grid { cases: "flow_euler_flux2", request: flux2::schedule } }

const BEFORE_BLOCKS: Before = Before {
    image: "x_embedder.out",
    text: "context_embedder.out",
    modulated_input: "transformer_blocks.0.modulated_input",
    timestep_projection: "double_stream_modulation_img.out",
};

impl Network for FluxTransformer {
    const CLASS: &'static str = "FluxTransformer2DModel";
    const INPUTS: &'static [&'static str] = &[
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "img_ids",
        "txt_ids",
        "guidance",
    ];
    const BEFORE_BLOCKS: Before = BEFORE_BLOCKS;

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        let config = config(folder, FluxConfig::from_json)?;
        Ok(Self::load(&on.weights(folder)?, config)?)
    }

    fn of_case(case: &Case, report: &mut CaseReport) -> Result<Self> {
        like_first_call(case, report, Self::round_frequencies_up)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(self.meta().clone())
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        let text = call.required("encoder_hidden_states")?;
        let context = self.text_context(text, call.required("pooled_projections")?)?;
        let positions = self.positions(&ids(call, "txt_ids")?, &ids(call, "img_ids")?)?;
        forward(self, call, context, positions)
    }

    fn names(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        names(at, x, y, both)
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        add_rope(&self.positions(&ids(call, "txt_ids")?, &ids(call, "img_ids")?)?, seen)
    }
}

impl Network for Flux2Transformer {
    const CLASS: &'static str = "Flux2Transformer2DModel";
    const INPUTS: &'static [&'static str] =
        &["hidden_states", "encoder_hidden_states", "timestep", "img_ids", "txt_ids", "guidance"];
    const BEFORE_BLOCKS: Before = BEFORE_BLOCKS;

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        let config = config(folder, Flux2Config::from_json)?;
        Ok(Self::load(&on.weights(folder)?, config)?)
    }

    fn of_case(case: &Case, report: &mut CaseReport) -> Result<Self> {
        let model = <Self as Network>::load(&case.folder, &case.on)?;
        if model.config().timestep_guidance_channels != 2 * FREQUENCIES {
            return Ok(model);
        }
        like_first_call(case, report, Self::round_frequencies_up)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(self.meta().clone())
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        let context = self.text_context(call.required("encoder_hidden_states")?)?;
        let positions = self.positions(&ids(call, "txt_ids")?, &ids(call, "img_ids")?)?;
        forward(self, call, context, positions)
    }

    fn names(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        names(at, x, y, |streams| Ok(vec![("out", joint(streams)?)]))
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        add_rope(&self.positions(&ids(call, "txt_ids")?, &ids(call, "img_ids")?)?, seen)
    }
}

/// Ids `[tokens, axes]`, or `[batch, tokens, axes]`, of which the reference reads only the first sample.
fn ids<const N: usize>(call: Call<'_>, input: &str) -> Result<Vec<[f32; N]>> {
    let tensor = call.required(input)?;
    let tensor = if tensor.rank() == 3 { tensor.get(0)? } else { tensor.clone() };
    let rows: Vec<Vec<f32>> = tensor.to_dtype(DType::F32)?.to_vec2()?;
    let id = |row: Vec<f32>| {
        let wrong = |row: Vec<f32>| bad_input(format!("an id of {} axes, expected {N}", row.len()));
        row.try_into().map_err(wrong)
    };
    rows.into_iter().map(id).collect()
}

fn forward<'a>(
    network: &'a dyn FluxNetwork,
    call: Call<'a>,
    context: PromptContext,
    positions: JointPositions,
) -> Result<Forward<'a>> {
    let (x, timestep) = (call.required("hidden_states")?, call.required("timestep")?);
    let guidance = call.input("guidance")?;
    Ok(Box::new(move |pass| network.forward(x, timestep, guidance, &context, &positions, pass)))
}

fn add_rope(positions: &JointPositions, seen: &mut Named) -> Result<()> {
    let rope = positions.joint();
    seen.insert("rope.cos".to_owned(), both_of_a_pair(&rope.cos()?)?);
    seen.insert("rope.sin".to_owned(), both_of_a_pair(&rope.sin()?)?);
    Ok(())
}

/// Tensors by the last part of their name.
type Ends = Vec<(&'static str, Tensor)>;

/// What left a block or its attention, and what the attention read. `single` names what leaves a
/// single-stream block.
fn names(
    at: Place<'_>,
    x: &Streams,
    y: &Streams,
    single: impl Fn(&Streams) -> candle_core::Result<Ends>,
) -> candle_core::Result<Shown> {
    let (place, ends) = match (at.block.checked_sub(at.first_stack), at.module) {
        (None, None) => (format!("transformer_blocks.{}", at.block), both(y)?),
        (Some(block), None) => (format!("single_transformer_blocks.{block}"), single(y)?),
        (None, Some(module)) => {
            let block = format!("transformer_blocks.{}", at.block);
            let text = x.text()?.map(|text| (format!("{block}.modulated_context"), text));
            let out = both(y)?.into_iter().map(|(end, tensor)| (format!("{block}.{module}.{end}"), tensor));
            return Ok(out.chain(text).collect());
        }
        (Some(block), Some(module)) => {
            let block = format!("single_transformer_blocks.{block}");
            return Ok(vec![
                (format!("{block}.norm.out"), joint(x)?),
                (format!("{block}.{module}.out"), joint(y)?),
            ]);
        }
    };
    Ok(ends.into_iter().map(|(end, tensor)| (format!("{place}.{end}"), tensor)).collect())
}

/// Image and text.
fn both(streams: &Streams) -> candle_core::Result<Ends> {
    let text = streams.text()?.map(|text| ("context_out", text));
    Ok(text.into_iter().chain([("out", streams.image()?)]).collect())
}

/// Both in one sequence.
fn joint(streams: &Streams) -> candle_core::Result<Tensor> {
    match streams {
        Streams::Joint { tokens, .. } => Ok(tokens.clone()),
        _ => candle_core::bail!("a single-stream block has no joint sequence"),
    }
}
