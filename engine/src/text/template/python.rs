//! What HuggingFace's templates find beside Jinja itself: `tojson`, `raise_exception`, `strftime_now`, and the methods
//! that Python's texts, lists and dicts have.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use crate::limits;

/// Puts all of it into the environment.
pub(super) fn install(env: &mut Environment, now: SystemTime) {
    env.add_filter("tojson", tojson);
    // To the engine, none is an empty list; templates ask `tools is iterable` and then for the length.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| strftime(format, now));
    env.set_unknown_method_callback(method);
    env.remove_global("debug");
    // These make much of little before fuel is asked for, and no chat template has been seen to use them.
    for name in ["batch", "slice", "format"] {
        env.remove_filter(name);
    }
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
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
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
    let too_wide = text.split('{').skip(1).filter_map(|part| part.split('}').next()).any(|field| {
        field.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > WIDTH_DIGITS_MAX)
    });
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

/// `json.dumps(value, ensure_ascii=False)`: nothing escaped for HTML, keys in their order, `", "` and `": "` between.
fn tojson(state: &State, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = indent.map_or_else(|| options.get::<Option<Value>>("indent"), |v| Ok(Some(v)))?;
    let indent = indent.filter(|v| !v.is_none()).map(usize::try_from).transpose()?;
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => Some((pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string())),
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
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "NaN" } else if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let rust = format!("{x:?}");
    match rust.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) => format!("{}e{exponent:+03}", digits.strip_suffix(".0").unwrap_or(digits)),
        _ => rust,
    }
}

/// `datetime.now().strftime(format)`, in UTC: the time zone of a server is nothing a model should depend on.
fn strftime(format: &str, now: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day, day_of_year) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(seconds / 86_400 % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next().unwrap_or('%');
        // `%-d`: without the leading zero.
        let bare = directive == '-';
        if bare {
            directive = rest.next().unwrap_or('%');
        }
        let mut number = |n: u64, width: usize| {
            let _ = if bare { write!(out, "{n}") } else { write!(out, "{n:0width$}") };
        };
        match directive {
            'Y' => number(year, 4),
            'y' => number(year % 100, 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'j' => number(day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'e' => drop(write!(out, "{day:2}")),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'B' => out.push_str(month_name),
            'b' | 'h' => out.push_str(&month_name[..3]),
            'A' => out.push_str(weekday),
            'a' => out.push_str(&weekday[..3]),
            'F' => drop(write!(out, "{year:04}-{month:02}-{day:02}")),
            'T' => drop(write!(out, "{hour:02}:{minute:02}:{second:02}")),
            'D' => drop(write!(out, "{month:02}/{day:02}/{:02}", year % 100)),
            'R' => drop(write!(out, "{hour:02}:{minute:02}")),
            'Z' => out.push_str("UTC"),
            'z' => out.push_str("+0000"),
            '%' => out.push('%'),
            other => out.extend(['%', other]),
        }
    }
    out
}

/// Year, month, day and day of the year, of a day since 1970.
fn date(mut day: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = day + 1;
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1, day_of_year)
}
