//! What a template may keep: values of bounded weight and depth, and no circles.
//!
//! `{% set x = [x, x] %}`, forty times, is a value of a few bytes that no machine can print. So a value is weighed as
//! it would print, shared parts counted each time, whenever it gets a name or comes out of a filter (`source.rs` puts
//! the weighing there); between, an expression is too short to grow much. With that, nothing in the engine recurses or
//! grows without bound.

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use crate::limits;

/// The filter for what gets a name.
pub(super) const NAMED: &str = "_named";
/// The filter for what goes into a namespace. A namespace in a namespace would allow circles.
pub(super) const KEPT: &str = "_kept";

/// Puts both filters into the environment. `bytes_max` is the weight that one value may have.
pub(super) fn install(env: &mut Environment, bytes_max: usize) {
    env.add_filter(NAMED, move |state: &State, value: Value| named(state, value, bytes_max));
    env.add_filter(KEPT, move |state: &State, value: Value| weighed(state, &value, bytes_max));
}

/// A name may be given to a namespace, if what it holds is sound.
fn named(state: &State, value: Value, bytes_max: usize) -> Result<Value, Error> {
    if !is_namespace(&value) {
        return weighed(state, &value, bytes_max);
    }
    for key in value.try_iter()? {
        weighed(state, &value.get_item(&key)?, bytes_max)?;
    }
    Ok(value)
}

fn weighed(state: &State, value: &Value, bytes_max: usize) -> Result<Value, Error> {
    let mut scale = Scale { state, room: bytes_max, nodes: 0 };
    let value = scale.put(value, limits::TEMPLATE_VALUE_DEPTH_MAX)?;
    state.consume_fuel(scale.nodes / NODES_PER_FUEL)?;
    Ok(value)
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// How many values are looked at for the price of one instruction.
const NODES_PER_FUEL: u64 = 16;

/// What a value weighs besides its text.
const NODE_BYTES: usize = 8;

struct Scale<'a> {
    state: &'a State<'a, 'a>,
    room: usize,
    nodes: u64,
}

impl Scale<'_> {
    /// The value, laid out flat: what the engine would compute later, item by item, is computed now.
    fn put(&mut self, value: &Value, depth: usize) -> Result<Value, Error> {
        let too_large = |what| Err(Error::new(ErrorKind::OutOfFuel, what));
        let weight = NODE_BYTES + value.as_str().map_or(0, str::len);
        self.room = match self.room.checked_sub(weight) {
            Some(room) => room,
            None => return too_large("a value of the template grows too large"),
        };
        self.nodes += 1;
        if self.nodes.is_multiple_of(1 << 16) {
            self.state.consume_fuel((1 << 16) / NODES_PER_FUEL)?;
            self.nodes = 0;
        }
        let kind = value.kind();
        if depth == 0 && matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            return too_large("a value of the template is nested too deep");
        }
        match kind {
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked().map(|item| self.put(&item?, depth - 1));
                let items = items.collect::<Result<Vec<_>, _>>()?;
                Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
            }
            ValueKind::Map if is_namespace(value) => {
                Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be part of another value"))
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = self.put(&key?, depth - 1)?;
                    let item = value.get_item(&key)?;
                    pairs.push((key, self.put(&item, depth - 1)?));
                }
                Ok(Value::from_pairs(pairs))
            }
            _ => Ok(value.clone()),
        }
    }
}
