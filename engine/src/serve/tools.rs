//! Tools: what a request says of them, and the calls in what a model writes.
//!
//! The chat template tells the model of tools. How it calls them is the template's too: Qwen's and Hermes' models put
//! each call between `<tool_call>` and `</tool_call>`; where the template does not say so, an answer that is nothing but
//! JSON objects is calls, as Llama 3's models write them. What is no call of a tool that was offered stays text.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::door;
use super::fields::{Fields, wrong};
use super::problem::{Answered, Problem};
use crate::error::Result;
use crate::grammar::Grammar;
use crate::grammar::schema::{self, Framed};
use crate::limits;

/// What a marked call begins with.
pub const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The tools that an answer may call.
#[derive(Clone, Debug)]
pub struct Tools {
    /// As the template gets them.
    pub list: Value,
    names: BTreeSet<String>,
    /// The answer has to be a call of one of these.
    forced: Option<BTreeSet<String>>,
}

impl Tools {
    /// Those of a request; none where it has none, or wants none to be called.
    pub fn read(fields: &Fields) -> Answered<Option<Tools>> {
        let list = match fields.get("tools") {
            None => None,
            Some(Value::Array(list)) if list.len() <= limits::TOOLS_MAX => Some(list).filter(|l| !l.is_empty()),
            Some(other) => {
                return Err(wrong("tools", other, &format!("a list of at most {} tools", limits::TOOLS_MAX)));
            }
        };
        if fields.flag("parallel_tool_calls")? == Some(false) {
            let what = "'parallel_tool_calls': false is not supported: the model decides how many calls it makes";
            return Err(Problem::field("parallel_tool_calls", what).code("unsupported_parameter"));
        }
        let chosen = match fields.get("tool_choice") {
            None => list.is_some(),
            Some(Value::String(s)) if s == "none" => false,
            Some(Value::String(s)) if s == "auto" => true,
            Some(Value::String(s)) if s == "required" => true,
            Some(Value::Object(_)) => true,
            Some(other) => {
                let expected =
                    "\"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ..}}";
                return Err(wrong("tool_choice", other, expected));
            }
        };
        let Some(list) = list else {
            if chosen {
                return Err(Problem::field("tool_choice", "'tool_choice' needs 'tools'"));
            }
            return Ok(None);
        };
        let names = list.iter().enumerate().map(|(i, tool)| named(i, tool)).collect::<Answered<BTreeSet<String>>>()?;
        if names.len() < list.len() {
            return Err(Problem::field("tools", "two of 'tools' have one name"));
        }
        let forced = match fields.get("tool_choice") {
            Some(Value::String(s)) if s == "required" => Some(names.clone()),
            Some(named @ Value::Object(_)) => {
                let name = named["function"]["name"].as_str().filter(|name| names.contains(*name));
                let name = name.ok_or_else(|| wrong("tool_choice", named, "a function of 'tools'"))?;
                Some(BTreeSet::from([name.to_string()]))
            }
            _ => None,
        };
        Ok(chosen.then(|| Tools { list: Value::Array(list.clone()), names, forced }))
    }

    /// What an answer has to be that has to be a call. `marked`: calls stand between tags.
    pub fn grammar<'a>(&'a self, marked: bool) -> Result<Option<Grammar>> {
        let Some(forced) = &self.forced else { return Ok(None) };
        let tools = self.list.as_array().into_iter().flatten().enumerate();
        let (open, close, arguments) = match marked {
            true => (format!("{OPEN}\n"), format!("\n{CLOSE}"), "arguments"),
            false => (String::new(), String::new(), "parameters"),
        };
        let option = |(i, tool): (usize, &'a Value)| {
            let function = &tool["function"];
            let name = function["name"].as_str().filter(|name| forced.contains(*name))?;
            Some(Framed {
                before: format!("{open}{{\"name\": \"{name}\", \"{arguments}\": "),
                schema: Some(&function["parameters"]).filter(|schema| !schema.is_null()),
                after: format!("}}{close}"),
                at: format!("tools[{i}].function.parameters"),
            })
        };
        let options: Vec<Framed> = tools.filter_map(option).collect();
        schema::framed(&options).map(Some)
    }
}

/// The name of a tool, which has to be a function.
fn named(i: usize, tool: &Value) -> Answered<String> {
    let at = |field: &str| format!("tools[{i}].{field}");
    if tool["type"] != "function" {
        return Err(wrong(&at("type"), &tool["type"], "\"function\""));
    }
    let function = &tool["function"];
    let good = |name: &&str| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        !name.is_empty() && name.len() <= limits::TOOL_NAME_BYTES_MAX && name.bytes().all(letter)
    };
    let name = function["name"].as_str().filter(good);
    let name = name.ok_or_else(|| {
        let expected = format!("a name of at most {} letters, digits, _ and -", limits::TOOL_NAME_BYTES_MAX);
        wrong(&at("function.name"), &function["name"], &expected)
    })?;
    for (field, is) in [("description", Value::is_string as fn(&Value) -> bool), ("parameters", Value::is_object)] {
        let said = &function[field];
        if !said.is_null() && !is(said) {
            let expected = if field == "parameters" { "an object, a JSON schema" } else { "a string" };
            return Err(wrong(&at(&format!("function.{field}")), said, expected));
        }
    }
    Ok(name.to_string())
}

/// Calls that an assistant made earlier, as templates read them: arguments are an object there and a text in OpenAI's
/// messages.
pub fn earlier(at: &str, calls: &Value) -> Answered<Value> {
    let list = calls.as_array().ok_or_else(|| wrong(at, calls, "a list of calls"))?;
    let one = |(i, call): (usize, &Value)| {
        let at = |field: &str| format!("{at}[{i}].function.{field}");
        let function = &call["function"];
        let name = function["name"].as_str().ok_or_else(|| wrong(&at("name"), &function["name"], "a string"))?;
        let said = &function["arguments"];
        let arguments = match said {
            Value::String(text) => serde_json::from_str(text).ok(),
            other => Some(other.clone()),
        };
        let arguments = arguments.filter(Value::is_object);
        let arguments = arguments.ok_or_else(|| wrong(&at("arguments"), said, "a JSON object, as a text"))?;
        let mut told = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        if let Some(id) = call["id"].as_str() {
            told["id"] = id.into();
        }
        Ok(told)
    };
    list.iter().enumerate().map(one).collect()
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Words.
    Text(String),
    /// A call, as OpenAI spells it, without its index.
    Call(Value),
}

/// Finds calls in an answer as its text comes.
#[derive(Debug)]
pub struct Calls {
    names: BTreeSet<String>,
    at: At,
    /// What is neither text nor a call yet.
    held: String,
    /// Bytes of it that hold no end of a call.
    searched: usize,
    /// Calls so far.
    pub made: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Before or between calls, which are marked.
    Text,
    /// Behind the beginning of a marked call.
    Call,
    /// Where calls are not marked: nothing but space came.
    Bare,
    /// The same, and what came may be an object.
    Object,
    /// No call can come any more.
    Words,
}

impl Calls {
    /// Of an answer that has no text yet. `marked`: calls stand between tags.
    pub fn new(tools: &Tools, marked: bool) -> Calls {
        let at = if marked { At::Text } else { At::Bare };
        Calls { names: tools.names.clone(), at, held: String::new(), searched: 0, made: 0 }
    }

    /// More text came.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// One thing more is certain.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.at {
            At::Text => match self.held.find(OPEN) {
                Some(start) => {
                    // Space before a call is none of the answer's.
                    let before = self.held[..start].trim_end().to_string();
                    say(before, pieces);
                    self.held.drain(..start);
                    (self.at, self.searched) = (At::Call, OPEN.len());
                    true
                }
                None => {
                    let sure = self.held[..self.held.len() - opening(&self.held)].trim_end().len();
                    say(self.held.drain(..sure).collect(), pieces);
                    false
                }
            },
            At::Call => {
                let Some(found) = self.held[self.searched..].find(CLOSE).map(|n| n + self.searched) else {
                    let mut from = self.held.len().saturating_sub(CLOSE.len()).max(self.searched);
                    while !self.held.is_char_boundary(from) {
                        from -= 1;
                    }
                    self.searched = from;
                    return false;
                };
                let end = found + CLOSE.len();
                match self.calls(&self.held[OPEN.len()..found]) {
                    Ok(calls) => {
                        self.held.drain(..end);
                        self.add(calls, pieces);
                    }
                    // The tag may stand in a text of the arguments.
                    Err(Unread::Unfinished) => {
                        self.searched = end;
                        return true;
                    }
                    Err(Unread::NoCall) => say(self.held.drain(..end).collect(), pieces),
                }
                self.at = At::Text;
                true
            }
            At::Bare => match self.held.trim_start().chars().next() {
                None => false,
                first => {
                    self.at = if first == Some('{') { At::Object } else { At::Words };
                    true
                }
            },
            At::Object => false,
            At::Words => {
                say(std::mem::take(&mut self.held), pieces);
                false
            }
        }
    }

    /// The answer is complete.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        let inner = match self.at {
            At::Call => held.strip_prefix(OPEN),
            At::Object => Some(held.as_str()),
            At::Text | At::Bare | At::Words => None,
        };
        match inner.map(|inner| self.calls(inner)) {
            Some(Ok(calls)) => self.add(calls, &mut pieces),
            // Behind a call space says nothing.
            _ if self.made > 0 && held.trim().is_empty() => {}
            _ => say(held, &mut pieces),
        }
        pieces
    }

    fn add(&mut self, calls: Vec<Value>, pieces: &mut Vec<Piece>) {
        self.made += calls.len();
        pieces.extend(calls.into_iter().map(Piece::Call));
    }

    /// Objects, one after the other, each of which calls a tool that was offered.
    fn calls(&self, text: &str) -> std::result::Result<Vec<Value>, Unread> {
        let (mut calls, mut rest) = (Vec::new(), text.trim());
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
            let map = match values.next() {
                Some(Ok(map)) => map,
                Some(Err(e)) if e.is_eof() => return Err(Unread::Unfinished),
                _ => return Err(Unread::NoCall),
            };
            calls.push(self.call(&map).ok_or(Unread::NoCall)?);
            rest = rest[values.byte_offset()..].trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
        }
        if calls.is_empty() { Err(Unread::NoCall) } else { Ok(calls) }
    }

    fn call(&self, map: &Map<String, Value>) -> Option<Value> {
        let name = map.get("name")?.as_str().filter(|name| self.names.contains(*name))?;
        let said = map.get("arguments").or(map.get("parameters"));
        let arguments = match said {
            None => "{}".to_string(),
            Some(object @ Value::Object(_)) => object.to_string(),
            Some(_) => return None,
        };
        let id = door::unique("call_");
        Some(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    }
}

/// Why a text is no call.
#[derive(Debug)]
enum Unread {
    /// It ends in the middle of an object.
    Unfinished,
    /// It is something else.
    NoCall,
}

fn say(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Bytes at the end of a text with which a call may begin.
fn opening(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|n| text.ends_with(&OPEN[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tools() -> Tools {
        let body = json!({"tools": [
            {"type": "function", "function": {"name": "weather", "parameters": {}}},
            {"type": "function", "function": {"name": "time"}},
        ]});
        Tools::read(&Fields::of(&body)).unwrap().unwrap()
    }

    /// Text, and names with arguments, of an answer that comes in pieces of so many bytes.
    fn found(answer: &str, marked: bool, size: usize) -> (String, Vec<(String, String)>) {
        let mut calls = Calls::new(&tools(), marked);
        let mut pieces = Vec::new();
        let mut rest = answer;
        while !rest.is_empty() {
            let mut n = size.min(rest.len());
            while !rest.is_char_boundary(n) {
                n += 1;
            }
            pieces.extend(calls.push(&rest[..n]));
            rest = &rest[n..];
        }
        pieces.extend(calls.finish());
        let (mut text, mut made) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(t) => text += &t,
                Piece::Call(c) => {
                    let word = |name: &str| c["function"][name].as_str().unwrap().to_string();
                    made.push((word("name"), word("arguments")));
                }
            }
        }
        assert_eq!(calls.made, made.len());
        (text, made)
    }

    #[test]
    fn calls_are_found_however_the_text_comes() {
        let (paris, rome) = (r#"{"city":"Paris"}"#, r#"{"city":"Rom 🌍 </tool_call>"}"#);
        let call = |name: &str, arguments: &str| format!("{{\"name\": \"{name}\", \"arguments\": {arguments}}}");
        let marked = |inner: &str| format!("<tool_call>\n{inner}\n</tool_call>");
        let (one, two) = (marked(&call("weather", paris)), marked(&call("weather", rome)));
        let made = |list: &[(&str, &str)]| list.iter().map(|(n, a)| (n.to_string(), a.to_string())).collect::<Vec<_>>();
        for (answer, is_marked, text, calls) in [
            (one.clone(), true, "", made(&[("weather", paris)])),
            (
                format!("Let me see. \n{one}\n{two}\n"),
                true,
                "Let me see.",
                made(&[("weather", paris), ("weather", rome)]),
            ),
            // The end of the answer ends a call.
            (one.replace("\n</tool_call>", ""), true, "", made(&[("weather", paris)])),
            (marked(&call("launch", "{}")), true, &*marked(&call("launch", "{}")), made(&[])),
            (marked("{\"name\": \"time\"}"), true, "", made(&[("time", "{}")])),
            (marked("no JSON"), true, &*marked("no JSON"), made(&[])),
            ("a < b, <tool, <tool_call".into(), true, "a < b, <tool, <tool_call", made(&[])),
            (" words \n".into(), true, " words \n", made(&[])),
            (call("weather", paris).replace("arguments", "parameters"), false, "", made(&[("weather", paris)])),
            (
                format!("{}; {}", call("weather", paris), call("time", "{}")),
                false,
                "",
                made(&[("weather", paris), ("time", "{}")]),
            ),
            ("{\"name\": \"nobody\"}".into(), false, "{\"name\": \"nobody\"}", made(&[])),
            (
                format!("{} and more", call("time", "{}")),
                false,
                &*format!("{} and more", call("time", "{}")),
                made(&[]),
            ),
            ("It is {1}.".into(), false, "It is {1}.", made(&[])),
            (one.clone(), false, &*one, made(&[])),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(found(&answer, is_marked, size), (text.to_string(), calls.clone()), "{answer} by {size}");
            }
        }
    }

    #[test]
    fn what_is_no_tool_is_named() {
        let f = |name: &str| json!({"type": "function", "function": {"name": name}});
        for (body, param) in [
            (json!({"tools": {}}), "tools"),
            (json!({"tools": vec![f("x"); limits::TOOLS_MAX + 1]}), "tools"),
            (json!({"tools": [f("x"), f("x")]}), "tools"),
            (json!({"tools": [f("x y")]}), "tools[0].function.name"),
            (json!({"tools": [f("x"), {"type": "web"}]}), "tools[1].type"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "x", "parameters": 3}}]}),
                "tools[0].function.parameters",
            ),
            (json!({"tools": [f("x")], "tool_choice": "always"}), "tool_choice"),
            (json!({"tools": [f("x")], "tool_choice": {"type": "function", "function": {"name": "y"}}}), "tool_choice"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tool_choice": "auto"}), "tool_choice"),
            (json!({"tools": [f("x")], "parallel_tool_calls": false}), "parallel_tool_calls"),
        ] {
            let refused = Tools::read(&Fields::of(&body)).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.param.as_deref()), (400, Some(param)), "{body}");
        }
        assert!(Tools::read(&Fields::of(&json!({"tools": [f("x")], "tool_choice": "none"}))).unwrap().is_none());
        for bad in [json!({}), json!([{}]), json!([{"function": {"name": "f", "arguments": "no"}}])] {
            assert!(earlier("messages[0].tool_calls", &bad).is_err(), "{bad}");
        }
        let told = earlier("x", &json!([{"id": "1", "function": {"name": "f", "arguments": "{\"a\": 1}"}}])).unwrap();
        assert_eq!(told[0]["function"]["arguments"]["a"], 1);
    }

    proptest! {
        /// What is no call comes out as it went in, in whatever pieces.
        #[test]
        fn no_letter_is_lost(answer in "[ab<tool_cal/>{}\"\n]{0,60}", size in 1usize..9) {
            for marked in [true, false] {
                let (text, made) = found(&answer, marked, size);
                prop_assert!(made.is_empty());
                prop_assert_eq!(&text, &found(&answer, marked, 1000).0);
                let squeezed = |t: &str| t.split_whitespace().collect::<String>();
                prop_assert_eq!(squeezed(&text), squeezed(&answer));
            }
        }
    }
}
