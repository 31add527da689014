//! Looks at every step's output and stops on what cannot be right.

use compute::backend::RowOutput;

use crate::error::{Error, Kind, Result};

/// Refuses non-finite logits. `position` is that of the first row.
pub fn finite(rows: &[RowOutput], position: usize) -> Result<()> {
    //= F-MATH-162
    //= F-MATH-163
    match rows.iter().position(|r| !r.finite) {
        None => Ok(()),
        Some(r) => Err(Error::new(
            Kind::Inference,
            format!("the model gave NaN or infinite logits at position {}", position + r),
        )
        .hint("the weights are damaged, or activations overflow in this format")),
    }
}
