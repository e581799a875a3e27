//! [`RowOp`]s on NVIDIA GPUs: one kernel each, of those in `rows.cu`.
//!
//! Which kernel, and with which arguments, is decided without a GPU ([`call`]), so that tests run the same
//! calls of the same kernels on a CPU, lane by lane (`call/tests.rs`).

mod call;
#[cfg(feature = "cuda")]
mod launch;

#[cfg(feature = "cuda")]
use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use super::row_op::RowOp;

/// The card that the kernels of this build are for, as `90a`.
#[cfg(feature = "flash-attn")]
const ARCH: &str = env!("MAGCACHE_CUDA_ARCH");

/// Whether machine code of this build runs on a card of this compute capability.
#[cfg(feature = "flash-attn")]
pub(crate) fn runs_on(card: (i32, i32)) -> bool {
    code_runs_on(ARCH, card)
}

/// Machine code runs on the same major version from the same minor one on, or, where a letter says that it
/// uses what no other card has, on that one alone.
#[cfg(any(test, feature = "flash-attn"))]
fn code_runs_on(arch: &str, (major, minor): (i32, i32)) -> bool {
    let digits = arch.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let Ok(of) = digits.parse::<i32>() else { return false };
    let alone = digits.len() < arch.len();
    major == of / 10 && if alone { minor == of % 10 } else { minor >= of % 10 }
}

/// Of `x + added`; `None` if no kernel computes it, or not there.
#[cfg(feature = "cuda")]
pub(crate) fn run(op: &RowOp, x: &Tensor, added: Option<&Tensor>) -> Result<Option<Tensor>> {
    if !x.device().is_cuda() {
        return Ok(None);
    }
    if let (RowOp::Bias, None) = (op, added) {
        return Ok(Some(x.clone()));
    }
    call::Call::of(op, x, added)?.map(|call| call.launch()).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_runs_on_later_cards_of_its_generation() {
        assert!(code_runs_on("80", (8, 0)) && code_runs_on("80", (8, 9)) && code_runs_on("86", (8, 9)));
        assert!(!code_runs_on("86", (8, 0)) && !code_runs_on("80", (9, 0)) && !code_runs_on("80", (7, 5)));
        assert!(
            code_runs_on("90a", (9, 0)) && !code_runs_on("100a", (10, 3)) && code_runs_on("120a", (12, 0))
        );
        assert!(!code_runs_on("", (9, 0)));
    }
}
