//! The fields of a request's JSON body. Whatever is wrong is a 400 that names the field.
//!
//! A field that is null is one that is not there, as OpenAI has it. Fields that nobody knows are left alone; those that
//! are known, change the answer and are honoured by some routes at most are in [`REFUSED`].

use serde_json::{Map, Value};

use super::problem::{Answered, Problem};
use super::route::Field;
use crate::error::printable;
use crate::limits;

/// The body of a request.
pub struct Fields(Map<String, Value>);

/// Fields of OpenAI's and vLLM's requests that would change the answer and are refused by every route whose table does not
/// have them, each with the values that ask for nothing.
const REFUSED: &[(&str, &str)] = &[
    ("tools", "[]"),
    ("functions", "[]"),
    ("tool_choice", r#""none""#),
    ("parallel_tool_calls", "true"),
    ("function_call", r#""none""#),
    ("response_format", r#"{"type":"text"}"#),
    ("modalities", r#"["text"]"#),
    ("audio", "{}"),
    ("suffix", r#""""#),
    ("echo", "false"),
    ("best_of", "1"),
    ("reasoning_effort", r#""none""#),
    ("web_search_options", "null"),
    ("prediction", "null"),
    ("store", "false"),
    ("min_tokens", "0"),
    ("ignore_eos", "false"),
    ("stop_token_ids", "[]"),
    ("bad_words", "[]"),
    ("prompt_logprobs", "0"),
    ("use_beam_search", "false"),
    ("length_penalty", "1.0"),
    ("grammar", r#""""#),
    ("guided_json", "null"),
    ("guided_regex", "null"),
    ("guided_choice", "null"),
    ("guided_grammar", "null"),
    ("structured_outputs", "null"),
    ("chat_template", "null"),
    ("chat_template_kwargs", "{}"),
    ("documents", "[]"),
    ("add_generation_prompt", "true"),
    ("continue_final_message", "false"),
    ("skip_special_tokens", "true"),
    ("truncate_prompt_tokens", "null"),
    ("lora", "[]"),
    ("images", "[]"),
];

impl Fields {
    /// The object that a body holds, whatever its Content-Type says.
    //= F-SERVE-254
    //= F-SERVE-256
    pub fn parse(body: &[u8], honoured: &[Field]) -> Answered<Fields> {
        let not_json = |what: String| Problem::new(axum::http::StatusCode::BAD_REQUEST, what).code("invalid_json");
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Fields(map).supported(honoured),
            Ok(_) => Err(not_json("the body is JSON but no object; send {\"field\": value, ..}".into())),
            Err(e) => Err(not_json(format!("the body is not valid JSON: {e}"))),
        }
    }

    /// Refuses what would be ignored.
    fn supported(self, honoured: &[Field]) -> Answered<Fields> {
        for (name, harmless) in REFUSED.iter().filter(|(name, _)| honoured.iter().all(|f| f.name != *name)) {
            if self.get(name).is_some_and(|said| !says(said, harmless)) {
                return Err(Problem::field(name, format!("'{name}' is not supported by this server; leave it out"))
                    .code("unsupported_parameter"));
            }
        }
        Ok(self)
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    /// The same, for a field without which there is no request.
    //= F-SERVE-255
    pub fn needed(&self, name: &str) -> Answered<&Value> {
        self.get(name)
            .ok_or_else(|| Problem::field(name, format!("'{name}' is missing")).code("missing_required_parameter"))
    }

    /// A text.
    pub fn text(&self, name: &str) -> Answered<Option<&str>> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| wrong(name, v, "a string"))).transpose()
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Answered<Option<bool>> {
        self.get(name).map(|v| v.as_bool().ok_or_else(|| wrong(name, v, "true or false"))).transpose()
    }

    /// A whole number from `low` to `high`.
    pub fn whole(&self, name: &str, low: u64, high: u64) -> Answered<Option<u64>> {
        let expected = || format!("a whole number from {low} to {high}");
        // Some languages write every number with a point.
        let integral = |x: f64| (x.fract() == 0.0 && (0.0..=2f64.powi(53)).contains(&x)).then_some(x as u64);
        let checked = |v: &Value| match v.as_u64().or_else(|| v.as_f64().and_then(integral)) {
            Some(n) if (low..=high).contains(&n) => Ok(n),
            _ => Err(wrong(name, v, &expected())),
        };
        self.get(name).map(checked).transpose()
    }

    /// A number from `low` to `high`.
    pub fn number(&self, name: &str, low: f32, high: f32) -> Answered<Option<f32>> {
        let checked = |v: &Value| match v.as_f64() {
            Some(x) if (f64::from(low)..=f64::from(high)).contains(&x) => Ok(x as f32),
            _ => Err(wrong(name, v, &format!("a number from {low} to {high}"))),
        };
        self.get(name).map(checked).transpose()
    }

    /// One text or a list of texts.
    pub fn texts(&self, name: &str) -> Answered<Vec<String>> {
        let expected = "a string or a list of strings";
        let text = |v: &Value| v.as_str().map(String::from).ok_or_else(|| wrong(name, v, expected));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(text).collect(),
            Some(one) => Ok(vec![text(one)?]),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Answered<Option<&Map<String, Value>>> {
        self.get(name).map(|v| v.as_object().ok_or_else(|| wrong(name, v, "an object"))).transpose()
    }
}

/// Whether a value is the one that this JSON is; numbers are compared as numbers, `1` is `1.0`.
fn says(value: &Value, json: &str) -> bool {
    match (value.as_f64(), json.parse::<f64>()) {
        (Some(x), Ok(y)) => x == y,
        _ => serde_json::from_str::<Value>(json).is_ok_and(|said| said == *value),
    }
}

/// A field has another type or value than `expected`.
pub fn wrong(name: &str, value: &Value, expected: &str) -> Problem {
    // JSON has quotes of its own.
    let shown = printable(&value.to_string(), limits::QUOTED_CHARS_MAX);
    Problem::field(name, format!("'{name}' has to be {expected}, and it is {shown}")).code("invalid_value")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Fields {
        /// Of a body that is there already.
        pub fn of(body: &Value) -> Fields {
            Fields(body.as_object().unwrap().clone())
        }
    }

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes(), &[]).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let f = fields(r#"{"n": 1.5, "t": 3, "s": ["a", 1], "z": null, "big": 18446744073709551616}"#);
        let of = |p: Problem| p.param.unwrap();
        assert_eq!(of(f.whole("n", 0, 9).unwrap_err()), "n");
        assert_eq!(of(f.whole("big", 0, u64::MAX).unwrap_err()), "big");
        assert_eq!(of(f.number("t", 0.0, 2.0).unwrap_err()), "t");
        assert_eq!(of(f.texts("s").unwrap_err()), "s");
        assert_eq!(of(f.needed("z").unwrap_err()), "z");
        assert_eq!(f.flag("z"), Ok(None));
        let said = wrong("s", &Value::from("x"), "a number").message;
        assert_eq!(said, "'s' has to be a number, and it is \"x\"");
        let spelt = fields(r#"{"n": 2.0, "m": -1.0, "big": 1e300}"#);
        assert_eq!(spelt.whole("n", 1, 9), Ok(Some(2)));
        assert!(spelt.whole("m", 0, 9).is_err() && spelt.whole("big", 0, u64::MAX).is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused_and_what_asks_for_nothing_is_not() {
        for (name, harmless) in REFUSED {
            Fields::parse(format!("{{\"{name}\": {harmless}}}").as_bytes(), &[]).map(drop).unwrap();
            let refused = Fields::parse(format!("{{\"{name}\": [\"x\"]}}").as_bytes(), &[]).map(drop).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.param.as_deref()), (400, Some(*name)));
        }
        assert!(Fields::parse(b"{\"nobody knows\": 1}", &[]).is_ok());
        assert!(Fields::parse(b"{\"length_penalty\": 1, \"best_of\": 1.0}", &[]).is_ok());
        assert!(Fields::parse(b"{\"length_penalty\": \"1.0\"}", &[]).is_err());
    }

    #[test]
    fn a_body_is_one_json_object() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "[1]", "3", "{\"a\":NaN}", "{\"a\":1,}", "\u{feff}{}", &deep] {
            assert_eq!(Fields::parse(bad.as_bytes(), &[]).map(drop).unwrap_err().status.as_u16(), 400, "{bad:.20}");
        }
        assert!(Fields::parse(b"{\"a\": \"\xff\"}", &[]).is_err());
    }
}
