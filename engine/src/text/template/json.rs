//! `tojson` as HuggingFace's templates mean it: Python's `json.dumps`, not HTML.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::python::pay;
use crate::limits;

/// `json.dumps(value, ensure_ascii=False)`: nothing escaped for HTML, keys in their order, `", "` and `": "` between.
pub(super) fn tojson(state: &State, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = indent.map_or_else(|| options.get::<Option<Value>>("indent"), |v| Ok(Some(v)))?;
    let indent = indent.filter(|v| !v.is_none()).map(usize::try_from).transpose()?;
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            Some((pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()))
        }
        _ => None,
    };
    let (comma, colon) = separators.unwrap_or_else(|| (if indent.is_some() { "," } else { ", " }.into(), ": ".into()));
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = Json { state, out: String::new(), indent, comma, colon, ascii, sorted };
    json.value(value, 0)?;
    Ok(Value::from(json.out))
}

struct Json<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    indent: Option<usize>,
    comma: String,
    colon: String,
    ascii: bool,
    sorted: bool,
}

impl Json<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        pay(self.state, 16)?;
        if depth > limits::TEMPLATE_VALUE_DEPTH_MAX {
            return Err(Error::new(ErrorKind::OutOfFuel, "a value is nested too deep for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or(""))?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                self.all('[', ']', &items, depth, |json, item| json.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sorted {
                    keys.sort();
                }
                self.all('{', '}', &keys, depth, |json, key| {
                    match key.as_str() {
                        Some(text) => json.text(text)?,
                        None => json.text(&key.to_string())?,
                    }
                    json.out.push_str(&json.colon);
                    json.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                let what = format!("{kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn all(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.out.push_str(&self.comma);
            }
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line, if there are lines at all.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            let blanks = indent.saturating_mul(depth);
            pay(self.state, blanks)?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', blanks));
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(x) if !value.is_integer() => self.out.push_str(&python_float(x)),
            _ => self.out.push_str(&value.to_string()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        pay(self.state, text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) || (self.ascii && c == '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// `repr` of a Python float: `1e-07` and `1e+16` where Rust says `1e-7` and `1e16`.
pub(super) fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN"
        } else if x > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let rust = format!("{x:?}");
    match rust.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) => format!("{}e{exponent:+03}", digits.strip_suffix(".0").unwrap_or(digits)),
        _ => rust,
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    use super::*;

    fn run(source: &str) -> Result<String, Error> {
        let mut env = Environment::new();
        env.add_filter("tojson", tojson);
        env.set_fuel(Some(100_000));
        env.render_str(source, minijinja::context! { floats => vec![0.1, 1.0, 1e-7, 1e16, 1.5e300, -0.0, 123456.789] })
    }

    /// Expected texts are what Python's `json.dumps(..., ensure_ascii=False)` writes.
    #[test]
    fn json_is_pythons() {
        let json = |value: &str| run(&format!("{{{{ {value}|tojson }}}}")).unwrap();
        assert_eq!(
            json("{'type': 1, 'b': [true, none, 'é'], 'a': {}}"),
            r#"{"type": 1, "b": [true, null, "é"], "a": {}}"#
        );
        assert_eq!(json(r#""<a href='x'>&\"\\\n\t\r""#), r#""<a href='x'>&\"\\\n\t\r""#);
        assert_eq!(json("floats"), "[0.1, 1.0, 1e-07, 1e+16, 1.5e+300, -0.0, 123456.789]");
        assert_eq!(json("[(1, 2), -3, 18446744073709551615]"), "[[1, 2], -3, 18446744073709551615]");
        assert_eq!(
            run("{{ {'b': [1, {}], 'a': []}|tojson(indent=2) }}").unwrap(),
            "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": []\n}"
        );
        assert_eq!(run("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}").unwrap(), r#"{"a": 2, "b": 1}"#);
        assert_eq!(run("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}").unwrap(), r#"[1,{"a":2}]"#);
        assert_eq!(run("{{ 'é🦀'|tojson(ensure_ascii=true) }}").unwrap(), r#""\u00e9\ud83e\udd80""#);
        assert!(run("{{ nothing|tojson }}").is_err());
        assert!(run("{{ [1]|tojson(colour=1) }}").is_err());
        assert!(run("{{ [[1]]|tojson(indent=99999999999) }}").is_err());
    }
}
