//! What HuggingFace's templates find beside Jinja itself: `raise_exception`, `strftime_now`, `tojson`, and the methods
//! that Python's texts, lists and dicts have.

use std::time::SystemTime;

use minijinja::value::{Kwargs, ObjectRepr, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::{json, strftime};

/// Puts all of it into the environment.
pub(super) fn install(env: &mut Environment, now: SystemTime) {
    env.add_filter("tojson", json::tojson);
    env.add_filter("indent", indent);
    env.add_filter(BOUND, bound_method);
    env.add_filter(FACTOR, factor);
    // To the engine, none is an empty list; templates ask `tools is iterable` and then for the length.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| strftime::strftime(format, now));
    env.set_unknown_method_callback(method);
    env.remove_global("debug");
    // These make much of little before fuel is asked for, and no chat template has been seen to use them.
    for name in ["batch", "slice", "format"] {
        env.remove_filter(name);
    }
}

/// The filter for both sides of a product.
pub(super) const FACTOR: &str = "_factor";

/// Numbers, and texts, which the engine repeats for fuel.
fn factor(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::String | ValueKind::Bool => Ok(value),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("{kind} cannot be multiplied in a chat template"))),
    }
}

/// The filter that stands for `value.items` where nobody calls it.
pub(super) const BOUND: &str = "_bound";

/// What it is called on a dict: Python looks for methods before keys, so `schema.items` is a method although the schema
/// has a key of that name. Nothing can be done with it but ask whether it is there.
pub(super) const DICT_METHODS: &[&str] = &["items", "keys", "values", "get", "copy"];

fn bound_method(value: &Value, name: &str) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        return Ok(Value::from_object(Method));
    }
    value.get_attr(name)
}

#[derive(Debug)]
struct Method;

impl minijinja::value::Object for Method {
    fn repr(self: &std::sync::Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Jinja's `indent`, which keeps a last empty line. The engine's does not.
fn indent(
    state: &State,
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = width.map_or_else(|| options.get::<Option<Value>>("width"), |w| Ok(Some(w)))?;
    let first = first.map_or_else(|| options.get::<Option<bool>>("first"), |f| Ok(Some(f)))?.unwrap_or(false);
    let blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    let lines = text.split('\n');
    let blanks = match width {
        Some(text) if text.as_str().is_some() => text.to_string(),
        Some(number) => {
            let number = usize::try_from(number)?;
            pay(state, number)?;
            " ".repeat(number)
        }
        None => "    ".into(),
    };
    pay(state, text.len().saturating_add(blanks.len().saturating_mul(lines.clone().count())))?;
    let mut out = String::with_capacity(text.len());
    for (n, line) in lines.enumerate() {
        out.push_str(if n > 0 { "\n" } else { "" });
        // `first` is for the first line, however empty it is.
        if (n == 0 && first) || (n > 0 && (blank || !line.is_empty())) {
            out.push_str(&blanks);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// What a template said by `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
}

/// A Python method. `pycompat` has them, but its results are paid for only when they exist: what can be far larger than
/// its arguments is paid for before.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let result = match name {
            "replace" => replaced_len(text, args),
            "join" => joined_len(state, text, args)?,
            "format" => formatted_len(state, text, args)?,
            "split" | "splitlines" => split_len(text, args),
            _ => 0,
        };
        pay(state, result)?;
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Takes fuel for bytes, at the engine's own price.
pub(super) fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

fn argument(args: &[Value], n: usize) -> &str {
    args.get(n).and_then(Value::as_str).unwrap_or("")
}

fn replaced_len(text: &str, args: &[Value]) -> usize {
    let (old, new) = (argument(args, 0), argument(args, 1));
    text.matches(old).count().saturating_mul(new.len()).saturating_add(text.len())
}

/// Pays on the way, because the items themselves may be long to print.
fn joined_len(state: &State, text: &str, args: &[Value]) -> Result<usize, Error> {
    let Some(items) = args.first() else { return Ok(0) };
    for item in items.try_iter()?.checked() {
        pay(state, printed_len(&item?) + text.len())?;
    }
    Ok(0)
}

/// A width can ask for any number of blanks, and every pair of braces for an argument.
fn formatted_len(state: &State, text: &str, args: &[Value]) -> Result<usize, Error> {
    const WIDTH_DIGITS_MAX: usize = 4;
    let too_wide = text
        .split('{')
        .skip(1)
        .filter_map(|part| part.split('}').next())
        .any(|field| field.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > WIDTH_DIGITS_MAX));
    if too_wide {
        return Err(Error::new(ErrorKind::OutOfFuel, "a format asks for a field wider than 9999"));
    }
    let mut longest = 10_usize.pow(WIDTH_DIGITS_MAX as u32);
    for arg in args {
        let len = printed_len(arg);
        pay(state, len)?;
        longest = longest.max(len);
    }
    Ok(text.matches('{').count().saturating_mul(longest))
}

fn split_len(text: &str, args: &[Value]) -> usize {
    const SLOT_BYTES: usize = 48;
    let separator = argument(args, 0);
    let pieces = if separator.is_empty() { text.len() } else { text.matches(separator).count() };
    pieces.saturating_mul(SLOT_BYTES)
}

fn printed_len(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.to_string().len(), str::len)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn run(source: &str) -> Result<String, Error> {
        let mut env = Environment::new();
        install(&mut env, UNIX_EPOCH);
        env.set_fuel(Some(100_000));
        env.render_str(source, ())
    }

    #[test]
    fn texts_have_pythons_methods() {
        let source = "{{ ' a,b '.strip().split(',')|join('+') }} {{ 'abc'.startswith('ab') }} {{ 'x'.join(['1', '2']) }} \
            {{ 'aXb'.replace('X', '--') }} {{ '{} {a}'.format(1, a=2) }} {{ {'k': 'v'}.get('k') }} {{ {'k': 1}.items()|list }}";
        assert_eq!(run(source).unwrap(), "a+b True 1x2 a--b 1 2 v [('k', 1)]");
        assert_eq!(
            run("{{ none is iterable }} {{ [] is iterable }} {{ 'a' is iterable }}").unwrap(),
            "False True True"
        );
    }
}
