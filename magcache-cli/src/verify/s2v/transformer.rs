//! The transformer: every call, and what flows between its units.

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::{ModelMeta, Streams, meta};
use magcache_models::{
    checkpoint::Folder,
    wan::s2v::{ClipContext, ClipInputs, ClipTokens, S2vTransformer},
};
use serde::Deserialize;

use crate::verify::{
    call::Call,
    case::Named,
    setting::Setting,
    transformer::{Before, Forward, Network, Place, Shown},
};

/// Tensors that all calls of a case share.
const SHARED: &str = "inputs";

/// The arguments of a call. Where the case's inputs are shared, they say which part is meant.
#[derive(Deserialize)]
struct Args {
    /// Frames and latents of what was before the clip.
    motion_frames: (usize, usize),
    drop_motion_frames: bool,
    t: Option<f64>,
    context: Option<String>,
    motion_latents: Option<String>,
    #[serde(default = "yes")]
    pose: bool,
    #[serde(default = "one")]
    audio_scale: f64,
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// A call, ready to run.
struct Prepared {
    latents: Tensor,
    timestep: f64,
    clip: ClipTokens,
    context: ClipContext,
}

fn prepare(model: &S2vTransformer, call: Call<'_>) -> Result<Prepared> {
    let args: Args = call.args()?;
    let input = |name: &str| match call.input(name)? {
        Some(own) => Ok(own),
        None => call.case.tensor(&format!("{SHARED}.{name}")),
    };
    let video = |name: &str| anyhow::Ok(input(name)?.unsqueeze(0)?);
    let timestep = match args.t {
        Some(t) => t,
        None => f64::from(input("t")?.to_dtype(DType::F32)?.flatten_all()?.get(0)?.to_scalar::<f32>()?),
    };
    let latents = video("x")?;
    let motion = video("motion_latents")?;
    // "last 5": a part of the shared ones.
    let last =
        args.motion_latents.as_deref().and_then(|text| text.strip_prefix("last ")?.parse::<usize>().ok());
    let motion = match last {
        Some(last) => motion.narrow(2, motion.dim(2)?.saturating_sub(last), last)?,
        None => motion,
    };
    let pose = args.pose.then(|| video("cond_states")).transpose()?;
    let clip = model.clip(&ClipInputs {
        reference: &video("ref_latents")?,
        motion: (!args.drop_motion_frames).then_some(&motion),
        pose: pose.as_ref(),
        frames: latents.dim(2)?,
    })?;
    let text = input(args.context.as_deref().unwrap_or("context"))?.unsqueeze(0)?;
    let features = (input("audio_input")? * args.audio_scale)?;
    let context = model.context(&text, &features, args.motion_frames)?;
    Ok(Prepared { latents, timestep, clip, context })
}

impl Network for S2vTransformer {
    const CLASS: &'static str = "WanModel_S2V";
    const INPUTS: &'static [&'static str] =
        &["x", "t", "context", "ref_latents", "motion_latents", "cond_states", "audio_input"];
    const BEFORE_BLOCKS: Before = Before {
        image: "tokens",
        text: "",
        modulated_input: "modulated_input of the video",
        timestep_projection: "timestep_proj of the video",
    };

    fn load(folder: &Folder, on: &Setting) -> Result<Self> {
        Ok(Self::open(folder, &on.device, on.dtype())?)
    }

    fn meta(&self) -> Result<ModelMeta> {
        Ok(meta::model("wan2.2-s2v-14b")?.clone().with_blocks(&[self.wan_config().num_layers]))
    }

    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>> {
        let Prepared { latents, timestep, clip, context } = prepare(self, call)?;
        Ok(Box::new(move |pass| {
            let input = self.embed(&latents, timestep, &clip)?;
            self.predict(&input, &context, pass)?.squeeze(0)
        }))
    }

    fn names(at: Place<'_>, _: &Streams, y: &Streams) -> candle_core::Result<Shown> {
        // Only one of the two was recorded of a unit's result; the other name is that of no recorded tensor,
        // or of the block in front of its injection.
        Ok(match at.module {
            Some(_) => Vec::new(),
            None => vec![(format!("block.{}.unit", at.block), y.sequence()?)],
        })
    }

    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()> {
        let Prepared { latents, timestep, clip, context } = prepare(self, call)?;
        for block in 0..self.wan_config().num_layers {
            let injected = self.config().audio_inject_layers.contains(&block);
            if let Some(unit) = seen.remove(&format!("block.{block}.unit")) {
                seen.insert(format!("block.{block}{}", if injected { ".injected" } else { "" }), unit);
            }
        }
        let mut add = |name: &str, tensor: Tensor| seen.insert(name.to_owned(), tensor);
        let (inner, heads) = (self.wan_config().inner_dim(), self.wan_config().num_attention_heads);
        add("context", context.text().text().clone());
        add("merged_audio_emb", context.audio().local.unsqueeze(0)?);
        if let Some(global) = &context.audio().global {
            add("audio_emb_global", global.unsqueeze(0)?.unsqueeze(2)?);
        }
        let input = self.embed(&latents, timestep, &clip)?;
        let projection = self.projection(&input)?.reshape((2, 6, inner))?;
        add("timestep_proj", projection.transpose(0, 1)?.unsqueeze(0)?);
        for (name, half) in [("rope_cos", clip.rope().cos()?), ("rope_sin", clip.rope().sin()?)] {
            // Some cases repeat the table for every head.
            let like = call.traces().into_iter().find(|(module, _)| module == name);
            let by_head = like.is_some_and(|(_, key)| call.case.tensor(&key).is_ok_and(|x| x.rank() == 4));
            let (tokens, pairs) = half.dims2()?;
            let table = if by_head { half.unsqueeze(1)?.expand((1, tokens, heads, pairs))? } else { half };
            add(name, table);
        }
        Ok(())
    }
}
