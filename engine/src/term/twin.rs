//! What `apr diff` and `apr check --deep` say.

use serde_json::{Value, json};

use crate::error::Result;
use crate::twin::{Compared, Comparison};

fn place(o: &Compared) -> String {
    match o.layer {
        Some(layer) => format!("layer {layer}, {:?}", o.stage),
        None => format!("{:?}", o.stage),
    }
}

/// For people: where they part, or that they do not. With `verbose`, every operation.
pub fn text(c: &Comparison, verbose: bool) -> String {
    let mut out = String::new();
    if verbose {
        for o in &c.operations {
            out += &format!("{:<26} {:>9.2e}\n", place(o), o.apart);
        }
    }
    let furthest = c.operations.iter().fold(0f64, |m, o| m.max(o.apart));
    let (agree, of) = c.agree;
    match &c.parted {
        None => {
            let n = c.operations.len();
            out += &format!("{n} operations, none further apart than {furthest:.1e} (limit {})\n", c.limit);
        }
        Some(o) => {
            let before = c.operations.iter().take_while(|x| x.apart <= c.limit).fold(0f64, |m, x| m.max(x.apart));
            out += &format!(
                "they part in {} at position {}: {:.1e} apart (limit {}; at most {before:.1e} before); the element furthest \
                 off is {} and {}\n",
                place(o),
                o.position,
                o.apart,
                c.limit,
                o.values.0,
                o.values.1
            );
        }
    }
    out + &format!("the best token is the same at {agree} of {of} positions\n")
}

/// The same as an object.
pub fn object(c: &Comparison) -> Value {
    let one = |o: &Compared| {
        json!({
            "layer": o.layer, "stage": format!("{:?}", o.stage), "apart": o.apart.min(f64::MAX),
            "position": o.position, "values": [o.values.0.to_string(), o.values.1.to_string()],
        })
    };
    json!({
        "backends": [c.backends.0, c.backends.1],
        "limit": c.limit,
        "parted": c.parted.as_ref().map(one),
        "operations": c.operations.iter().map(one).collect::<Vec<_>>(),
        "agree": c.agree.0,
        "positions": c.agree.1,
    })
}

/// Prints a comparison.
pub fn show(c: &Comparison, json: bool, verbose: bool) -> Result<()> {
    super::clear();
    if json { super::tell(&object(c)) } else { super::write_out(&text(c, verbose)) }
}
