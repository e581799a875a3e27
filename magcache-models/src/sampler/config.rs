//! A scheduler's settings, from diffusers' `scheduler_config.json` or from scratch.

use serde_json::{Map, Value, json};

use super::{Result, SamplerError, SamplerKind, python_json};

/// How noise levels are shifted towards 1, because large images need more noise to hide their structure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shift {
    /// `flow_shift`: one number above 0; 1 leaves the levels as they are.
    Static(f64),
    /// By resolution: the request contains `mu` (euler only).
    Dynamic {
        /// `time_shift_type`: the levels are shifted by `exp(mu)` if true, else by `mu` itself.
        exponential: bool,
    },
}

impl Shift {
    /// The effective factor, 1 if unknown.
    pub(super) fn value(self, mu: Option<f64>) -> f64 {
        match self {
            Self::Static(shift) => shift,
            Self::Dynamic { exponential: true } => mu.unwrap_or(0.0).exp(),
            Self::Dynamic { exponential: false } => mu.unwrap_or(1.0),
        }
    }
}

/// Where a trajectory ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalSigma {
    /// `zero`: at the clean sample.
    Zero,
    /// `sigma_min`: at the level of the last step, which then changes nothing (UniPC only).
    Last,
}

/// Settings of one solver; those that it does not read have their defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The solver.
    pub kind: SamplerKind,
    /// Timesteps of the training, 1000 in every released model: timesteps are counted in these.
    pub num_train_timesteps: usize,
    /// The shift of the noise levels.
    pub shift: Shift,
    /// Order of a multistep solver, 1 to 3.
    pub solver_order: usize,
    /// UniPC: steps after which the corrector does not run.
    pub disable_corrector: Vec<usize>,
    /// DPM-Solver++: lower the order of the last but one step too, on schedules below 15 steps.
    pub lower_order_final: bool,
    /// Where the trajectory ends.
    pub final_sigma: FinalSigma,
    /// Token count of the image for which `mu` is `base_shift`.
    pub base_image_seq_len: usize,
    /// Token count of the image for which `mu` is `max_shift`.
    pub max_image_seq_len: usize,
    /// `mu` at `base_image_seq_len`.
    pub base_shift: f64,
    /// `mu` at `max_image_seq_len`.
    pub max_shift: f64,
    /// Euler: the level of the last step, which all are stretched to after the shift.
    pub shift_terminal: Option<f64>,
}

impl SchedulerConfig {
    /// A solver at its defaults (order 2, ending at 0) with a static shift.
    pub fn new(kind: SamplerKind, flow_shift: f64) -> Self {
        Self {
            kind,
            num_train_timesteps: 1000,
            shift: Shift::Static(flow_shift),
            solver_order: 2,
            disable_corrector: Vec::new(),
            lower_order_final: true,
            final_sigma: FinalSigma::Zero,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            base_shift: 0.5,
            max_shift: 1.15,
            shift_terminal: None,
        }
    }

    /// Parses the text of a `scheduler_config.json`. `_class_name` decides the solver; absent keys have
    /// diffusers' defaults; keys that no flow-matching solver reads (betas, timestep spacing, thresholding
    /// ratios, ...) are ignored, as in diffusers.
    ///
    /// # Errors
    /// Text that is not JSON, an unknown class, a value of the wrong type or out of range, or a setting that
    /// would change the result and is not implemented: the message names the key and the value.
    pub fn from_json(text: &str) -> Result<Self> {
        let settings: Map<String, Value> = serde_json::from_str(&python_json::to_json(text))?;
        let kind = Self::kind_of(settings.get("_class_name").unwrap_or(&Value::Null))?;
        Self::from_settings(kind, &settings)
    }

    /// The solver of a `_class_name`.
    fn kind_of(class: &Value) -> Result<SamplerKind> {
        match class.as_str() {
            Some("UniPCMultistepScheduler") => Ok(SamplerKind::UniPc),
            Some("FlowMatchEulerDiscreteScheduler") => Ok(SamplerKind::Euler),
            Some("DPMSolverMultistepScheduler") => Ok(SamplerKind::DpmPp),
            _ => Err(SamplerError::UnknownClass { got: class.to_string() }),
        }
    }

    /// Like [`SchedulerConfig::from_json`], for settings whose solver is known.
    fn from_settings(kind: SamplerKind, settings: &Map<String, Value>) -> Result<Self> {
        let read = Settings { kind, map: settings };
        for (key, default, supported) in fixed(kind) {
            read.require(key, &default, &supported)?;
        }
        let mut config = Self::new(kind, 1.0);
        config.num_train_timesteps = read.count("num_train_timesteps", 1000)?;
        if kind == SamplerKind::Euler {
            config.shift = if read.flag("use_dynamic_shifting", false)? {
                Shift::Dynamic {
                    exponential: read.choice("time_shift_type", &["exponential", "linear"])? == "exponential",
                }
            } else {
                Shift::Static(read.number("shift", 1.0)?)
            };
            config.base_image_seq_len = read.count("base_image_seq_len", 256)?;
            config.max_image_seq_len = read.count("max_image_seq_len", 4096)?;
            config.base_shift = read.number("base_shift", 0.5)?;
            config.max_shift = read.number("max_shift", 1.15)?;
            config.shift_terminal =
                read.get("shift_terminal", None, "a number or null", |value| match value {
                    Value::Null => Some(None),
                    value => value.as_f64().map(Some),
                })?;
        } else {
            config.shift = Shift::Static(read.number("flow_shift", 1.0)?);
            config.solver_order = read.count("solver_order", 2)?;
        }
        match kind {
            SamplerKind::Euler => {}
            SamplerKind::UniPc | SamplerKind::WanUniPc => {
                config.disable_corrector = read.counts("disable_corrector")?;
                if read.choice("final_sigmas_type", &["zero", "sigma_min"])? == "sigma_min" {
                    config.final_sigma = FinalSigma::Last;
                }
            }
            SamplerKind::DpmPp | SamplerKind::WanDpmPp => {
                config.lower_order_final = read.flag("lower_order_final", true)?;
            }
        }
        config.validate()?;
        Ok(config)
    }

    /// Applies what a user sets over a model's own configuration. Another solver keeps the shift and the
    /// training length and otherwise has its own defaults; a `flow_shift` also replaces a shift by
    /// resolution.
    ///
    /// # Errors
    /// A shift that is not a number above 0, or a solver that cannot shift by resolution.
    pub fn with_overrides(mut self, kind: Option<SamplerKind>, flow_shift: Option<f64>) -> Result<Self> {
        if let Some(flow_shift) = flow_shift {
            self.shift = Shift::Static(flow_shift);
        }
        if let Some(kind) = kind.filter(|kind| *kind != self.kind) {
            if kind != SamplerKind::Euler && matches!(self.shift, Shift::Dynamic { .. }) {
                return Err(SamplerError::DynamicShift { kind });
            }
            let (num_train_timesteps, shift) = (self.num_train_timesteps, self.shift);
            self = Self { num_train_timesteps, shift, ..Self::new(kind, 1.0) };
        }
        self.validate()?;
        Ok(self)
    }

    /// The `mu` for an image of `image_seq_len` tokens: linear through the two points of the configuration
    /// (`calculate_shift` of diffusers).
    pub fn mu(&self, image_seq_len: usize) -> f64 {
        let (base, max) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
        let slope = (self.max_shift - self.base_shift) / (max - base);
        image_seq_len as f64 * slope + (self.base_shift - slope * base)
    }

    /// Checks a number of sampling steps.
    pub(super) fn check_steps(&self, steps: usize) -> Result<()> {
        if (1..=self.num_train_timesteps).contains(&steps) {
            return Ok(());
        }
        let expected = format!("1 to {} (num_train_timesteps)", self.num_train_timesteps);
        Err(SamplerError::Invalid { key: "steps", got: steps.to_string(), expected })
    }

    /// Checks the ranges of all settings.
    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |key, got: String, expected: &str| {
            Err(SamplerError::Invalid { key, got, expected: expected.to_owned() })
        };
        match self.shift {
            Shift::Static(shift) if !(shift.is_finite() && shift > 0.0) => {
                let key = if self.kind == SamplerKind::Euler { "shift" } else { "flow_shift" };
                return invalid(key, shift.to_string(), "a number above 0");
            }
            Shift::Dynamic { .. } if self.base_image_seq_len == self.max_image_seq_len => {
                let (got, expected) =
                    (self.max_image_seq_len.to_string(), "a count other than base_image_seq_len");
                return invalid("max_image_seq_len", got, expected);
            }
            _ => {}
        }
        if let Some(terminal) = self.shift_terminal.filter(|terminal| !(*terminal > 0.0 && *terminal < 1.0)) {
            return invalid("shift_terminal", terminal.to_string(), "a number above 0 and below 1");
        }
        if !(1..=3).contains(&self.solver_order) {
            return invalid("solver_order", self.solver_order.to_string(), "1, 2 or 3");
        }
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            return invalid("num_train_timesteps", self.num_train_timesteps.to_string(), "2 to 1000000");
        }
        let unipc = matches!(self.kind, SamplerKind::UniPc | SamplerKind::WanUniPc);
        if self.final_sigma == FinalSigma::Last && !unipc {
            let (kind, key) = (self.kind, "final_sigmas_type");
            let (got, supported) = ("\"sigma_min\"".to_owned(), "\"zero\"".to_owned());
            return Err(SamplerError::Unsupported { kind, key, got, supported });
        }
        Ok(())
    }
}

/// Settings with a fixed set of supported values: key, diffusers' default, the supported values.
fn fixed(kind: SamplerKind) -> Vec<(&'static str, Value, Vec<Value>)> {
    let off = |key| (key, json!(false), vec![json!(false)]);
    let mut fixed = vec![off("use_karras_sigmas"), off("use_exponential_sigmas"), off("use_beta_sigmas")];
    if kind == SamplerKind::Euler {
        fixed.extend([off("invert_sigmas"), off("stochastic_sampling")]);
        return fixed;
    }
    fixed.extend([off("use_dynamic_shifting"), off("thresholding")]);
    fixed.push(("prediction_type", json!("epsilon"), vec![json!("flow_prediction")]));
    fixed.push(("use_flow_sigmas", json!(false), vec![json!(true)]));
    if matches!(kind, SamplerKind::UniPc | SamplerKind::WanUniPc) {
        fixed.push(("predict_x0", json!(true), vec![json!(true)]));
        fixed.push(("lower_order_final", json!(true), vec![json!(true)]));
        fixed.push(("solver_p", Value::Null, vec![Value::Null]));
        fixed.push(("shift_terminal", Value::Null, vec![Value::Null]));
        // diffusers reads the names of DPM-Solver variants as bh2.
        fixed.push((
            "solver_type",
            json!("bh2"),
            ["bh2", "midpoint", "heun", "logrho"].map(Value::from).to_vec(),
        ));
    } else {
        fixed.push(off("use_lu_lambdas"));
        fixed.push(("algorithm_type", json!("dpmsolver++"), vec![json!("dpmsolver++")]));
        fixed.push(("final_sigmas_type", json!("zero"), vec![json!("zero")]));
        // diffusers reads the names of UniPC variants as midpoint.
        fixed.push((
            "solver_type",
            json!("midpoint"),
            ["midpoint", "logrho", "bh1", "bh2"].map(Value::from).to_vec(),
        ));
    }
    fixed
}

/// Typed access to the settings of a file, with diffusers' defaults for absent keys.
struct Settings<'a> {
    kind: SamplerKind,
    map: &'a Map<String, Value>,
}

impl Settings<'_> {
    fn require(&self, key: &'static str, default: &Value, supported: &[Value]) -> Result<()> {
        let value = self.map.get(key).unwrap_or(default);
        if supported.contains(value) {
            return Ok(());
        }
        let supported = supported.first().map(Value::to_string).unwrap_or_default();
        Err(SamplerError::Unsupported { kind: self.kind, key, got: value.to_string(), supported })
    }

    fn get<T>(
        &self,
        key: &'static str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let Some(value) = self.map.get(key) else { return Ok(default) };
        let invalid = || SamplerError::Invalid { key, got: value.to_string(), expected: expected.to_owned() };
        read(value).ok_or_else(invalid)
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        self.get(key, default, "true or false", Value::as_bool)
    }

    fn number(&self, key: &'static str, default: f64) -> Result<f64> {
        self.get(key, default, "a number", Value::as_f64)
    }

    fn count(&self, key: &'static str, default: usize) -> Result<usize> {
        let read = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        self.get(key, default, "a whole number", read)
    }

    fn counts(&self, key: &'static str) -> Result<Vec<usize>> {
        let read = |value: &Value| serde_json::from_value(value.clone()).ok();
        self.get(key, Vec::new(), "a list of steps", read)
    }

    /// One of `choices`; the first is the default.
    fn choice(&self, key: &'static str, choices: &[&'static str]) -> Result<&'static str> {
        let default = choices.first().copied().unwrap_or_default();
        let read = |value: &Value| choices.iter().copied().find(|choice| value.as_str() == Some(choice));
        self.get(key, default, &choices.join(" or "), read)
    }
}
