//! How Python prints what is not a text: `{{ 1e-07 }}`, `{{ tool }}` for a whole dict, `tools|string`.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

use super::json::python_float;
use super::python::pay;
use crate::limits;

/// Printing and the `string` filter. A `mark` (see `origin`) prints as itself.
pub(super) fn install(env: &mut Environment, mark: Option<char>) {
    env.set_formatter(move |out: &mut Output, state: &mut State, value: &Value| match printed(state, value, mark)? {
        Some(text) => Ok(out.write_str(&text)?),
        None => escape_formatter(out, state, value),
    });
    env.add_filter("string", move |state: &State, value: Value| -> Result<Value, Error> {
        match printed(state, &value, mark)? {
            Some(text) => Ok(Value::from(text)),
            None if value.kind() == ValueKind::String => Ok(value),
            None => Ok(Value::from(value.to_string())),
        }
    });
}

/// `str(value)`, where that is not what the engine writes by itself.
fn printed(state: &State, value: &Value, mark: Option<char>) -> Result<Option<String>, Error> {
    let own = match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq => true,
        // A namespace can hold itself.
        ValueKind::Map => value.as_object().is_some_and(|o| !o.type_name().ends_with("Namespace")),
        _ => false,
    };
    if !own {
        return Ok(None);
    }
    let mut out = String::new();
    repr(state, value, mark, &mut out, 0)?;
    Ok(Some(out))
}

fn repr(state: &State, value: &Value, mark: Option<char>, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > limits::TEMPLATE_VALUE_DEPTH_MAX {
        return Err(Error::new(ErrorKind::OutOfFuel, "a value is nested too deep to be printed"));
    }
    let from = out.len();
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            let float = f64::try_from(value.clone())?;
            // JSON says NaN and Infinity, Python's repr nan and inf.
            out.push_str(&if float.is_finite() { python_float(float) } else { float.to_string().to_lowercase() });
        }
        ValueKind::String => quoted(value.as_str().unwrap_or(""), mark, out),
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (n, item) in value.try_iter()?.checked().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                repr(state, &item?, mark, out, depth + 1)?;
            }
            out.push_str(if value.is_tuple() && value.len() == Some(1) { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (n, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push_str(if n > 0 { ", " } else { "" });
                repr(state, &key, mark, out, depth + 1)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, mark, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    pay(state, out.len() - from)
}

/// Python's `repr` of a text: single quotes unless only those would have to be escaped.
fn quoted(text: &str, mark: Option<char>, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_graphic() || c == ' ' || Some(c) == mark || is_printable(c) => out.push(c),
            c => {
                let _ = match u32::from(c) {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable`. `escape_debug` asks the same of every character of a text but the first.
fn is_printable(c: char) -> bool {
    !c.is_ascii() && ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts are what Python's `str` gives.
    #[test]
    fn values_print_as_pythons() {
        let mut env = Environment::new();
        install(&mut env, Some('\u{e000}'));
        env.set_fuel(Some(100_000));
        let given = minijinja::context! {
            floats => vec![1e-7, 1e16, 0.0001, -2.5, 1.0],
            texts => vec!["it's", "\"", "'\"", "a\\b\n\u{0}\u{a0}\u{2028}\u{e001}\u{e000}é日🦀e\u{301}\u{1f9e0}\u{10ffff}"],
        };
        let run = |source: &str| env.render_str(source, &given).unwrap();
        assert_eq!(
            run("{{ floats }} {{ floats[0] }} {{ floats[0]|string }}"),
            "[1e-07, 1e+16, 0.0001, -2.5, 1.0] 1e-07 1e-07"
        );
        let expected = r#"["it's", '"', '\'"', 'a\\b\n\x00\xa0\u2028\ue001<mark>é日🦀e<accent>🧠\U0010ffff']"#;
        assert_eq!(run("{{ texts }}"), expected.replace("<mark>", "\u{e000}").replace("<accent>", "\u{301}"));
        assert_eq!(run("{{ {'a': (1,), 'b': [], 2: (1, none, true)} }}"), "{'a': (1,), 'b': [], 2: (1, None, True)}");
        assert_eq!(run("{{ 'text' }} {{ none }} {{ 3 }} {{ 'a'|string }}"), "text None 3 a");
    }
}
