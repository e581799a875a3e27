//! A model's stacks of blocks, as it hands them to the pass.

use std::fmt;

use candle_core::{Result, Tensor};

use super::{LazyOutput, pass::Shown};
use crate::{Modules, Pass, Role, Signal, Streams};

/// The stacks of a model, in the order in which they run. Sizes come from the slices; if they differ from the
/// model's metadata, the run is an error that names both.
///
/// ```
/// # use candle_core::{Result, Tensor};
/// # use magcache_core::{Pass, Stacks};
/// # struct Block;
/// # impl Block {
/// #     fn dual(&self, image: &Tensor, text: &Tensor) -> Result<(Tensor, Tensor)> {
/// #         Ok((image.clone(), text.clone()))
/// #     }
/// #     fn joint(&self, tokens: &Tensor) -> Result<Tensor> { Ok(tokens.clone()) }
/// # }
/// # struct Flux { double: Vec<Block>, single: Vec<Block> }
/// impl Flux {
///     fn blocks(&self, image: Tensor, text: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
///         Stacks::default()
///             .dual(&self.double, |block, image, text| block.dual(image, text))
///             .joint(&self.single, |block, tokens| block.joint(tokens))
///             .run(pass, (image, text))
///     }
/// }
/// ```
#[derive(Default)]
#[must_use]
pub struct Stacks<'a> {
    all: Vec<Stack<'a>>,
    signals: Option<Signals<'a>>,
    grid: Vec<usize>,
}

type Signals<'a> = Box<dyn Fn(Signal, &Streams) -> Result<Tensor> + 'a>;
type Block<'a> = Box<dyn Fn(usize, Streams, &mut Modules<'_>) -> Result<Streams> + 'a>;

struct Stack<'a> {
    blocks: usize,
    block: Block<'a>,
}

impl<'a> Stacks<'a> {
    /// Blocks of one stream `[batch, tokens, channels]`; a text stream beside it stays as it is.
    pub fn image<B>(self, blocks: &'a [B], block: impl Fn(&B, &Tensor) -> Result<Tensor> + 'a) -> Self {
        self.streams(blocks, move |_, own, x, _| x.map_image(|x| block(own, x)))
    }

    /// Blocks that take and return the image stream and the text stream, in this order.
    pub fn dual<B>(
        self,
        blocks: &'a [B],
        block: impl Fn(&B, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + 'a,
    ) -> Self {
        self.streams(blocks, move |_, own, x, _| x.map_dual(|image, text| block(own, image, text)))
    }

    /// Blocks of both streams as one sequence, the text first.
    pub fn joint<B>(self, blocks: &'a [B], block: impl Fn(&B, &Tensor) -> Result<Tensor> + 'a) -> Self {
        self.streams(blocks, move |_, own, x, _| x.map_joint(|tokens| block(own, tokens)))
    }

    /// Blocks that take and return a tuple of tensors with these roles.
    pub fn tuples<B>(
        self,
        blocks: &'a [B],
        roles: &'a [Role],
        block: impl Fn(&B, Vec<Tensor>) -> Result<Vec<Tensor>> + 'a,
    ) -> Self {
        self.streams(blocks, move |_, own, x, _| {
            Streams::from_outputs(roles, block(own, x.into_outputs(roles)?)?)
        })
    }

    /// Blocks by their number in the stack, which may run parts of themselves through [`Modules`], so that
    /// hooks can surround those parts.
    pub fn streams<B>(
        self,
        blocks: &'a [B],
        block: impl Fn(usize, &B, Streams, &mut Modules<'_>) -> Result<Streams> + 'a,
    ) -> Self {
        self.numbered(blocks.len(), move |i, x, modules| match blocks.get(i) {
            Some(own) => block(i, own, x, modules),
            None => Ok(x),
        })
    }

    /// As [`Stacks::streams`], for blocks that the model finds by their numbers, because they are in memory
    /// only while they run.
    pub fn numbered(
        mut self,
        blocks: usize,
        block: impl Fn(usize, Streams, &mut Modules<'_>) -> Result<Streams> + 'a,
    ) -> Self {
        self.all.push(Stack { blocks, block: Box::new(block) });
        self
    }

    /// How the model computes its signals from the input of block 0; called only if a strategy needs one.
    /// Return an error for a signal that the metadata does not list.
    pub fn signals(self, signals: impl Fn(Signal, &Streams) -> Result<Tensor> + 'a) -> Self {
        Self { signals: Some(Box::new(signals)), ..self }
    }

    /// The grid in which the tokens of the denoised stream lie, row by row: `[frames, height, width]` of a
    /// video, `[height, width]` of a picture. Tokens of references may follow.
    pub fn grid(self, grid: &[usize]) -> Self {
        Self { grid: grid.to_vec(), ..self }
    }

    /// Runs the blocks through the hooks and returns the image stream: `x` is that stream, or the pair
    /// `(image, text)`.
    ///
    /// Blocks must not modify their input in place: a hook, or the caller, may still hold it.
    ///
    /// Errors: any error of a block, a hook or a signal; stacks that differ from the metadata; a second run
    /// of the same pass.
    pub fn run(self, pass: &mut Pass<'_>, x: impl Into<Streams>) -> Result<Tensor> {
        self.run_streams(pass, x)?.into_image()
    }

    /// As [`Stacks::run`], with every stream that comes out.
    pub fn run_streams(self, pass: &mut Pass<'_>, x: impl Into<Streams>) -> Result<Streams> {
        Ok(self.run_lazy(pass, x)?.added()?.streams)
    }

    /// As [`Stacks::run`], for a last layer that fuses the addition of the residual of skipped blocks
    /// ([`LazyOutput::into_image_terms`]), which would otherwise take a separate sweep over memory.
    pub fn run_lazy(self, pass: &mut Pass<'_>, x: impl Into<Streams>) -> Result<LazyOutput> {
        let Self { all: stacks, signals, grid } = self;
        let sizes: Vec<usize> = stacks.iter().map(|stack| stack.blocks).collect();
        let probe = |signal: Signal, x: &Streams| match &signals {
            Some(signals) => signals(signal, x),
            None => super::pass::no_signals(signal, x),
        };
        pass.run_stacks(&sizes, Shown { probe: &probe, grid: &grid }, x.into(), |i, x, modules| {
            let mut first = 0;
            for stack in &stacks {
                if i < first + stack.blocks {
                    return (stack.block)(i - first, x, modules);
                }
                first += stack.blocks;
            }
            Ok(x)
        })
    }
}

impl Pass<'_> {
    /// Runs a stack of blocks of one stream `[batch, tokens, channels]` through the hooks. For several
    /// streams, signals or modules see [`Stacks`].
    ///
    /// A block must not modify its input tensor in place: a hook, or the caller, may still hold it.
    ///
    /// Errors: any error of a block or a hook; a stack of another size than the metadata's; a second run of
    /// the same pass.
    pub fn blocks<B>(
        &mut self,
        blocks: &[B],
        x: Tensor,
        block: impl Fn(&B, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        Stacks::default().image(blocks, block).run(self, x)
    }
}

impl fmt::Debug for Stacks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|stack| stack.blocks)).finish()
    }
}
