//! Errors of a scheduler's configuration, a request for a schedule, or a step.

use magcache_core::hint::{self, Hint};

use super::SamplerKind;

/// An error of the samplers. Messages name the key or the step and both values.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// The scheduler configuration is not JSON.
    #[error("the scheduler configuration is not valid json: {0}")]
    Json(#[from] serde_json::Error),
    /// `_class_name` names a scheduler that has no solver here.
    #[error("_class_name = {got}, which has no solver here")]
    UnknownClass {
        /// The class named, as JSON.
        got: String,
    },
    /// A setting has the right type but a value that the solver does not implement.
    #[error("{key} = {got} is not supported by the {kind} sampler, which needs {supported}")]
    Unsupported {
        /// The solver.
        kind: SamplerKind,
        /// The setting.
        key: &'static str,
        /// Its value, as JSON.
        got: String,
        /// What the solver needs, as JSON.
        supported: String,
    },
    /// A setting has the wrong type or is out of its range.
    #[error("{key} = {got} is not valid: expected {expected}")]
    Invalid {
        /// The setting.
        key: &'static str,
        /// Its value.
        got: String,
        /// The accepted values, in words.
        expected: String,
    },
    /// A sampler name that does not exist.
    #[error("there is no sampler {got:?}")]
    UnknownKind {
        /// The name.
        got: String,
    },
    /// The configuration shifts by resolution, but the request does not say by how much.
    #[error("use_dynamic_shifting = true needs mu, which follows from the image's token count")]
    MissingMu,
    /// The configuration shifts by resolution, which only Euler supports.
    #[error("use_dynamic_shifting = true is not supported by the {kind} sampler")]
    DynamicShift {
        /// The solver.
        kind: SamplerKind,
    },
    /// Sigmas were given to a solver that has its own spacing.
    #[error("the {kind} sampler has its own spacing, got {got} explicit sigmas")]
    ExplicitSigmas {
        /// The solver.
        kind: SamplerKind,
        /// How many were given.
        got: usize,
    },
    /// The number of explicit sigmas is not the number of steps.
    #[error("got {got} explicit sigmas for {steps} steps")]
    SigmaCount {
        /// Sigmas given.
        got: usize,
        /// Steps requested.
        steps: usize,
    },
    /// Two consecutive sigmas of the schedule do not decrease.
    #[error("the schedule does not decrease: sigma {from} at step {index} is followed by {to}")]
    NotDecreasing {
        /// The step.
        index: usize,
        /// Its sigma.
        from: f32,
        /// The next sigma.
        to: f32,
        /// The effective shift.
        shift: f64,
    },
    /// The boundary between two experts is outside the open interval from 0 to 1.
    #[error("boundary_ratio = {got} is not valid: expected a number between 0 and 1, both excluded")]
    Boundary {
        /// The ratio given.
        got: f64,
    },
    /// A step was taken twice, skipped, or lies after the end.
    #[error("the sampler expects step {expected} of {steps}, got step {got}")]
    OutOfOrder {
        /// The step requested.
        got: usize,
        /// The step that is next, or the number of steps when all are done.
        expected: usize,
        /// Steps of the schedule.
        steps: usize,
    },
    /// The model's output and the sample differ in shape.
    #[error("the model output has shape {output:?}, the sample {sample:?}")]
    Shape {
        /// Shape of the model output.
        output: Vec<usize>,
        /// Shape of the sample.
        sample: Vec<usize>,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Hint for SamplerError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownClass { .. } => {
                "use one of UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler"
                    .to_owned()
            }
            Self::UnknownKind { .. } => format!("use one of {}", SamplerKind::names()),
            Self::MissingMu => {
                "request the schedule for that count, or set a static one: `flow_shift = 3`".to_owned()
            }
            Self::DynamicShift { .. } => "`sampler = \"euler\"`, or a static shift: `flow_shift = 3`".to_owned(),
            Self::ExplicitSigmas { .. } => "only euler takes sigmas".to_owned(),
            Self::NotDecreasing { shift, .. } => {
                format!("use fewer steps, or a shift closer to 1 than {shift}: `flow_shift = 1`")
            }
            Self::Tensor(error) => return hint::of(error),
            _ => return None,
        })
    }
}
