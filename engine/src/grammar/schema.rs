//! A JSON schema as a grammar. What is understood is a closed list; a keyword that is none of it is refused by its name
//! and place, so that no answer ever breaks a promise that a schema seemed to hold.
//!
//! | | |
//! |---|---|
//! | any value | `true`, `{}`, `type` (one or a list), `enum`, `const`, `anyOf`, `$ref` to `#`.. that does not lead back |
//! | objects | `properties` in the order in which they stand, `required`, `additionalProperties` |
//! | arrays | `items`, `minItems`, `maxItems` |
//! | strings | `minLength`, `maxLength` |
//! | said and not meant | `title`, `description`, `default`, `examples`, `deprecated`, `readOnly`, `writeOnly`, `$schema`, `$id`, `$comment`, `$defs`, `definitions` |
//!
//! An object has the properties that are named and no others, and those that need not be there may be left out. That is
//! narrower than a schema that allows others, and fits it.

use serde_json::{Map, Value};

use super::json::Json;
use super::{Element, Grammar, Rules, literal};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::limits;
use Element::Rule;

/// Keywords that say nothing of what an answer may be.
const SAID: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
];

/// Which keywords each type has.
const OF_TYPE: &[(&str, &[&str])] = &[
    ("object", &["properties", "required", "additionalProperties"]),
    ("array", &["items", "minItems", "maxItems"]),
    ("string", &["minLength", "maxLength"]),
    ("number", &[]),
    ("integer", &[]),
    ("boolean", &[]),
    ("null", &[]),
];

/// Any JSON object.
pub fn any_object() -> Grammar {
    let mut rules = Rules::default();
    let json = Json::new(&mut rules);
    Grammar::new(rules, json.object)
}

/// What fits a schema.
pub fn compile(schema: &Value) -> Result<Grammar> {
    let mut rules = Rules::default();
    let json = Json::new(&mut rules);
    let mut compiler = Compiler { rules, json, whole: schema, depth: 0, inside: Vec::new() };
    let root = compiler.rule(schema, "#")?;
    Ok(Grammar::new(compiler.rules, root))
}

/// A value between two texts.
pub struct Framed<'s> {
    /// What stands before it.
    pub before: String,
    /// What it fits; any object if none.
    pub schema: Option<&'s Value>,
    /// What stands after it.
    pub after: String,
    /// Where the schema stands, for errors.
    pub at: String,
}

/// One of these.
pub fn framed(options: &[Framed]) -> Result<Grammar> {
    let mut rules = Rules::default();
    let json = Json::new(&mut rules);
    let root = rules.rule();
    let mut compiler = Compiler { rules, json, whole: &Value::Null, depth: 0, inside: Vec::new() };
    for option in options {
        let value = match option.schema {
            None => compiler.json.object,
            Some(schema) => {
                compiler.whole = schema;
                compiler.rule(schema, &option.at)?
            }
        };
        let (before, after) =
            (compiler.literal(&option.before, &option.at)?, compiler.literal(&option.after, &option.at)?);
        compiler.rules.or(root, &[&before[..], &[Rule(value)], &after].concat());
    }
    Ok(Grammar::new(compiler.rules, root))
}

struct Compiler<'s> {
    rules: Rules,
    json: Json,
    whole: &'s Value,
    depth: usize,
    /// References that are being followed.
    inside: Vec<&'s str>,
}

fn refused(at: &str, what: impl Into<String>) -> Error {
    let short: String = at.chars().take(limits::QUOTED_CHARS_MAX).collect();
    Error::new(Kind::Usage, what).at(Place::Key(short))
}

impl<'s> Compiler<'s> {
    /// The rule of a schema. `at` is where it stands, as a pointer.
    fn rule(&mut self, schema: &'s Value, at: &str) -> Result<usize> {
        if self.depth == limits::SCHEMA_DEPTH_MAX {
            return Err(refused(at, format!("the schema is nested deeper than {}", limits::SCHEMA_DEPTH_MAX)));
        }
        self.depth += 1;
        let rule = self.any_rule(schema, at);
        self.depth -= 1;
        rule
    }

    /// A text as it is, if there is room for it.
    fn literal(&self, text: &str, at: &str) -> Result<Vec<Element>> {
        match self.rules.size() + text.len() > limits::GRAMMAR_ELEMENTS_MAX {
            true => Err(refused(at, "the schema is too large")),
            false => Ok(literal(text)),
        }
    }

    fn any_rule(&mut self, schema: &'s Value, at: &str) -> Result<usize> {
        self.literal("", at)?;
        let map = match schema {
            Value::Bool(true) => return Ok(self.json.value),
            Value::Object(map) => map,
            Value::Bool(false) => return Err(refused(at, "nothing fits the schema 'false'")),
            other => return Err(refused(at, format!("{} is no schema", quoted(&other.to_string())))),
        };
        let kinds = kinds(map, at)?;
        let alone = ["$ref", "anyOf", "enum", "const"].into_iter().find(|k| map.contains_key(*k));
        self.understood(map, alone, &kinds, at)?;
        match alone {
            Some("$ref") => self.reference(&map["$ref"], at),
            Some("anyOf") => self.any_of(&map["anyOf"], &format!("{at}/anyOf")),
            Some("enum") => {
                let values =
                    listed(&map["enum"]).ok_or_else(|| refused(at, "'enum' has to be a list of some values"))?;
                self.values(values, &kinds, at)
            }
            Some(_) => self.values(std::slice::from_ref(&map["const"]), &kinds, at),
            None if kinds.is_empty() => Ok(self.json.value),
            None => {
                let rule = self.rules.rule();
                for kind in kinds {
                    let one = self.of_kind(kind, map, at)?;
                    self.rules.or(rule, &[Rule(one)]);
                }
                Ok(rule)
            }
        }
    }

    /// Refuses what would be ignored.
    fn understood(&self, map: &Map<String, Value>, alone: Option<&str>, kinds: &[&str], at: &str) -> Result<()> {
        for keyword in map.keys().map(String::as_str) {
            let of_kind = OF_TYPE.iter().any(|(kind, words)| kinds.contains(kind) && words.contains(&keyword));
            let meant = match alone {
                Some(alone) => keyword == alone || keyword == "type" && matches!(alone, "enum" | "const"),
                None => keyword == "type" || of_kind,
            };
            if !meant && !SAID.contains(&keyword) {
                let known = OF_TYPE.iter().any(|(_, words)| words.contains(&keyword)) || keyword == "type";
                let what = match (known, alone) {
                    (true, Some(alone)) => format!("{} beside '{alone}' is not supported", quoted(keyword)),
                    (true, None) => format!("{} is not of the schema's 'type'", quoted(keyword)),
                    (false, _) => format!("the keyword {} is not supported", quoted(keyword)),
                };
                return Err(refused(at, what));
            }
        }
        Ok(())
    }

    fn reference(&mut self, to: &'s Value, at: &str) -> Result<usize> {
        let wrong = || {
            refused(at, format!("'$ref' has to lead to a place in the schema, and it is {}", quoted(&to.to_string())))
        };
        let path = to.as_str().ok_or_else(wrong)?;
        let target = path.strip_prefix('#').and_then(|pointer| self.whole.pointer(pointer)).ok_or_else(wrong)?;
        if self.inside.contains(&path) {
            return Err(refused(at, format!("'$ref' {} leads back to itself, which is not supported", quoted(path))));
        }
        self.inside.push(path);
        let rule = self.rule(target, path)?;
        self.inside.pop();
        Ok(rule)
    }

    fn any_of(&mut self, list: &'s Value, at: &str) -> Result<usize> {
        let list = listed(list).ok_or_else(|| refused(at, "'anyOf' has to be a list of some schemas"))?;
        let rule = self.rules.rule();
        for (i, schema) in list.iter().enumerate() {
            let one = self.rule(schema, &format!("{at}/{i}"))?;
            self.rules.or(rule, &[Rule(one)]);
        }
        Ok(rule)
    }

    /// These values and no others, as far as they are of the kinds.
    fn values(&mut self, values: &[Value], kinds: &[&str], at: &str) -> Result<usize> {
        let rule = self.rules.rule();
        let fitting = values.iter().filter(|v| kinds.is_empty() || kinds.iter().any(|kind| is(v, kind)));
        let mut count = 0;
        for value in fitting {
            let text = self.literal(&value.to_string(), at)?;
            self.rules.or(rule, &text);
            count += 1;
        }
        if count == 0 { Err(refused(at, "no value of the list is of its 'type'")) } else { Ok(rule) }
    }

    fn of_kind(&mut self, kind: &str, map: &'s Map<String, Value>, at: &str) -> Result<usize> {
        Ok(match kind {
            "string" => self.string(map, at)?,
            "number" => self.json.number,
            "integer" => self.json.integer,
            "boolean" => self.rules.of(&[&literal("true"), &literal("false")]),
            "null" => self.rules.of(&[&literal("null")]),
            "array" => self.array(map, at)?,
            _ => self.object(map, at)?,
        })
    }

    fn string(&mut self, map: &Map<String, Value>, at: &str) -> Result<usize> {
        let (least, most) = (count(map, "minLength", at)?, count(map, "maxLength", at)?);
        if least.is_none() && most.is_none() {
            return Ok(self.json.string);
        }
        let letters = self.repeated(&[Rule(self.json.letter)], least.unwrap_or(0), most, at)?;
        let quote = literal("\"");
        Ok(self.rules.of(&[&[&quote[..], &[Rule(letters)], &quote].concat()]))
    }

    /// A sequence so many times.
    fn repeated(&mut self, what: &[Element], least: usize, most: Option<usize>, at: &str) -> Result<usize> {
        if most.is_some_and(|most| most < least) {
            return Err(refused(at, "the most that may be there is less than the least"));
        }
        let mut rest = match most {
            None => {
                let more = self.rules.rule();
                self.rules.or(more, &[]);
                self.rules.or(more, &[what, &[Rule(more)]].concat());
                more
            }
            Some(most) => {
                let mut rest = self.rules.of(&[&[]]);
                for _ in least..most {
                    rest = self.rules.of(&[&[], &[what, &[Rule(rest)]].concat()]);
                }
                rest
            }
        };
        for _ in 0..least {
            rest = self.rules.of(&[&[what, &[Rule(rest)]].concat()]);
        }
        Ok(rest)
    }

    fn array(&mut self, map: &'s Map<String, Value>, at: &str) -> Result<usize> {
        let item = match map.get("items") {
            Some(schema) => self.rule(schema, &format!("{at}/items"))?,
            None => self.json.value,
        };
        let (least, most) = (count(map, "minItems", at)?, count(map, "maxItems", at)?);
        let (open, close, space) = (literal("["), literal("]"), [Rule(self.json.space)]);
        if least.is_none() && most.is_none() {
            let list = match map.contains_key("items") {
                true => self.json.list(&mut self.rules, item),
                false => return Ok(self.json.array),
            };
            return Ok(self.rules.of(&[&[&open[..], &[Rule(list)], &close].concat()]));
        }
        let least = least.unwrap_or(0);
        let rule = self.rules.rule();
        if least == 0 {
            self.rules.or(rule, &[&open[..], &space, &close].concat());
        }
        if most != Some(0) {
            let next = [&self.json.comma()[..], &[Rule(item)]].concat();
            let more = self.repeated(&next, least.saturating_sub(1), most.map(|m| m - 1), at)?;
            self.rules.or(rule, &[&open[..], &space, &[Rule(item), Rule(more)], &space, &close].concat());
        }
        Ok(rule)
    }

    fn object(&mut self, map: &'s Map<String, Value>, at: &str) -> Result<usize> {
        let none = Map::new();
        let properties = match map.get("properties") {
            None => None,
            Some(Value::Object(map)) if map.len() as u64 <= limits::SCHEMA_COUNT_MAX => Some(map),
            Some(_) => {
                return Err(refused(
                    at,
                    format!("'properties' has to be an object of at most {}", limits::SCHEMA_COUNT_MAX),
                ));
            }
        };
        let required = strings(map.get("required"), at)?;
        if let Some(name) = required.iter().find(|name| !properties.unwrap_or(&none).contains_key(**name)) {
            return Err(refused(at, format!("{} is required and not among 'properties'", quoted(name))));
        }
        let others = match map.get("additionalProperties") {
            None | Some(Value::Bool(_)) => None,
            Some(schema) => Some(self.rule(schema, &format!("{at}/additionalProperties"))?),
        };
        let (open, close) = (literal("{"), literal("}"));
        let Some(properties) = properties.filter(|p| !p.is_empty()) else {
            let closed = map.get("additionalProperties") == Some(&Value::Bool(false)) || properties.is_some();
            let inner = match others {
                Some(value) => {
                    let key = Rule(self.json.string);
                    let member = self.rules.of(&[&[&[key], &self.json.colon()[..], &[Rule(value)]].concat()]);
                    self.json.list(&mut self.rules, member)
                }
                None if closed => self.json.space,
                None => return Ok(self.json.object),
            };
            return Ok(self.rules.of(&[&[&open[..], &[Rule(inner)], &close].concat()]));
        };
        // From the last to the first: what may follow where nothing stands before, and where something does.
        let end = self.rules.of(&[&[Rule(self.json.space)]]);
        let (mut first, mut later) = (end, end);
        for (name, schema) in properties.iter().rev() {
            let value = self.rule(schema, &format!("{at}/properties/{name}"))?;
            let key = self.literal(&Value::from(name.as_str()).to_string(), at)?;
            let member = self.rules.of(&[&[&key[..], &self.json.colon(), &[Rule(value)]].concat()]);
            let begun = [Rule(self.json.space), Rule(member), Rule(later)];
            let going_on = [&self.json.comma()[..], &[Rule(member), Rule(later)]].concat();
            let (left_out, left_out_later) = ([Rule(first)], [Rule(later)]);
            (first, later) = match required.contains(&name.as_str()) {
                true => (self.rules.of(&[&begun]), self.rules.of(&[&going_on])),
                false => (self.rules.of(&[&begun, &left_out]), self.rules.of(&[&going_on, &left_out_later])),
            };
        }
        Ok(self.rules.of(&[&[&open[..], &[Rule(first)], &close].concat()]))
    }
}

/// The types that a schema names; none where it names none.
fn kinds<'m>(map: &'m Map<String, Value>, at: &str) -> Result<Vec<&'m str>> {
    let named: Vec<&str> = match map.get("type") {
        None => return Ok(implied(map)),
        Some(Value::String(one)) => vec![one],
        some => strings(some, at)?,
    };
    match named.iter().find(|kind| OF_TYPE.iter().all(|(known, _)| known != *kind)) {
        None if !named.is_empty() => Ok(named),
        None => Err(refused(at, "'type' names none")),
        Some(kind) => Err(refused(at, format!("there is no type {}", quoted(kind)))),
    }
}

/// Where no type is named, keywords of one type do not forbid the others; who writes `properties` means an object.
fn implied(map: &Map<String, Value>) -> Vec<&'static str> {
    let of = OF_TYPE.iter().filter(|(_, words)| words.iter().any(|w| map.contains_key(*w)));
    of.map(|(kind, _)| *kind).collect()
}

fn is(value: &Value, kind: &str) -> bool {
    match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(n) => kind == "number" || kind == "integer" && (n.is_i64() || n.is_u64()),
        Value::String(_) => kind == "string",
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    }
}

/// Some things, and not too many.
fn listed(value: &Value) -> Option<&Vec<Value>> {
    value.as_array().filter(|list| !list.is_empty() && list.len() as u64 <= limits::SCHEMA_COUNT_MAX)
}

fn strings<'m>(value: Option<&'m Value>, at: &str) -> Result<Vec<&'m str>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    list.ok_or_else(|| refused(at, format!("{} has to be a list of texts", quoted(&value.to_string()))))
}

fn count(map: &Map<String, Value>, keyword: &str, at: &str) -> Result<Option<usize>> {
    let Some(value) = map.get(keyword) else { return Ok(None) };
    let n = value.as_u64().filter(|n| *n <= limits::SCHEMA_COUNT_MAX).map(|n| n as usize);
    n.map(Some).ok_or_else(|| {
        refused(at, format!("{} has to be a whole number of at most {}", quoted(keyword), limits::SCHEMA_COUNT_MAX))
    })
}
