//! JSON from strangers: the files beside a model in HuggingFace's layout, and the index of its shards.
//!
//! A document is limited in bytes and in values before anything is made of it, and has no key twice (`serde_json` by
//! itself keeps the last one in silence). A [`Field`] knows where it stands, so an error names file and field.

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::{Value, at_most, map};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::limits;

/// A JSON object in a file.
pub(super) struct Document {
    /// Its name without folders.
    pub file: String,
    root: Json,
}

/// A value of a document that is not null.
#[derive(Clone)]
pub(super) struct Field<'a> {
    file: &'a str,
    /// `rope_scaling.factor`.
    path: String,
    pub json: &'a Json,
}

impl Document {
    /// Reads a file. `None` if there is none of this name.
    pub fn read(folder: &Path, file: &str) -> Result<Option<Document>> {
        match map(&folder.join(file)) {
            Ok(bytes) => Document::parse(file, &bytes).map(Some),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Parses a file's bytes.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Document> {
        let place = || Place::Key(file.into());
        at_most(bytes.len() as u64, limits::JSON_BYTES_MAX, "bytes of a JSON file", place())?;
        let left = Cell::new(limits::METADATA_VALUES_MAX);
        let mut from = serde_json::Deserializer::from_slice(bytes);
        let root = Strict(&left).deserialize(&mut from).and_then(|root| from.end().map(|()| root));
        let root = root.map_err(|e| match left.get() {
            0 => super::over(limits::METADATA_VALUES_MAX, "JSON values", place()),
            _ => Error::malformed(format!("not good JSON: {}", shown(&e))).at(place()),
        })?;
        if !root.is_object() {
            return Err(Error::malformed(format!("{} where a JSON object belongs", kind(&root))).at(place()));
        }
        Ok(Document { file: file.into(), root })
    }

    /// The value of a key, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<Field<'_>> {
        let json = self.root.get(key).filter(|v| !v.is_null())?;
        Some(Field { file: &self.file, path: key.into(), json })
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &str) -> Result<Field<'_>> {
        self.get(key).ok_or_else(|| Error::malformed("a required field is missing").at(self.place(key)))
    }

    /// Where a key stands, whether or not it is there.
    pub fn place(&self, key: &str) -> Place {
        Place::Key(format!("{}: {key}", self.file))
    }
}

impl<'a> Field<'a> {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place::Key(format!("{}: {}", self.file, self.path))
    }

    /// An error about this field.
    pub fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(what).at(self.place())
    }

    /// The same for something that is well formed and that this build has not.
    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::new(Kind::Unsupported, what).at(self.place())
    }

    fn wrong(&self, want: &str) -> Error {
        self.malformed(format!("expected {want}, found {}", kind(self.json)))
    }

    /// The value of a key, if it is there and not null. It is an error to ask anything but an object.
    pub fn get(&self, key: &str) -> Result<Option<Field<'a>>> {
        let object = self.object()?;
        let here = |json| Field { file: self.file, path: format!("{}.{key}", self.path), json };
        Ok(object.get(key).filter(|v| !v.is_null()).map(here))
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &str) -> Result<Field<'a>> {
        self.get(key)?.ok_or_else(|| self.malformed(format!("a required field is missing: {}", quoted(key))))
    }

    /// As an object.
    pub fn object(&self) -> Result<&'a Map<String, Json>> {
        self.json.as_object().ok_or_else(|| self.wrong("an object"))
    }

    /// As an array.
    pub fn items(&self) -> Result<Vec<Field<'a>>> {
        let array = self.json.as_array().ok_or_else(|| self.wrong("an array"))?;
        let item = |(i, json)| Field { file: self.file, path: format!("{}[{i}]", self.path), json };
        Ok(array.iter().enumerate().map(item).collect())
    }

    /// As text.
    pub fn text(&self) -> Result<&'a str> {
        self.json.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// As a non-negative integer.
    pub fn unsigned(&self) -> Result<u64> {
        self.json.as_u64().ok_or_else(|| self.wrong("a non-negative integer"))
    }

    /// As a number.
    pub fn float(&self) -> Result<f64> {
        self.json.as_f64().ok_or_else(|| self.wrong("a number"))
    }

    /// As a bool.
    pub fn bool(&self) -> Result<bool> {
        self.json.as_bool().ok_or_else(|| self.wrong("a bool"))
    }

    /// As a metadata value: a scalar. Whether it is the right one is for its reader to say.
    pub fn scalar(&self) -> Result<Value> {
        match self.json {
            Json::Bool(b) => Ok(Value::Bool(*b)),
            Json::String(s) => Ok(Value::String(s.clone())),
            Json::Number(n) => Ok(match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => Value::Unsigned(n),
                (_, Some(n)) => Value::Signed(n),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            }),
            _ => Err(self.wrong("a number, a string or a bool")),
        }
    }
}

/// What a value is, for messages.
fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(n) if n.is_f64() => "a float",
        Json::Number(n) if n.is_i64() && !n.is_u64() => "a negative integer",
        Json::Number(_) => "an integer",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

/// What the parser says, made safe to print: it may repeat words of the file.
pub(super) fn shown(e: &serde_json::Error) -> String {
    let safe = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    e.to_string().chars().take(240).map(safe).collect()
}

/// Makes a tree of a document: no key twice, and only so many values.
#[derive(Clone, Copy)]
struct Strict<'c>(&'c Cell<u64>);

impl Strict<'_> {
    fn count<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.0.set(left);
        if left == 0 { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Json, D::Error> {
        self.count()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> std::result::Result<Json, E> {
        Ok(b.into())
    }
    fn visit_u64<E>(self, n: u64) -> std::result::Result<Json, E> {
        Ok(n.into())
    }
    fn visit_i64<E>(self, n: i64) -> std::result::Result<Json, E> {
        Ok(n.into())
    }
    fn visit_f64<E>(self, x: f64) -> std::result::Result<Json, E> {
        Ok(x.into())
    }
    fn visit_str<E>(self, s: &str) -> std::result::Result<Json, E> {
        Ok(s.into())
    }
    fn visit_string<E>(self, s: String) -> std::result::Result<Json, E> {
        Ok(s.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> std::result::Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Json, A::Error> {
        let mut object = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {} stands there twice", quoted(&key))));
            }
            let value = from.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Document::parse("x.json", text.as_bytes()).err().expect("refused").to_string()
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let d = Document::parse("x.json", br#" {"a": {"b": [1, -2, 2.5, "x", true, null]}, "c": null} "#).unwrap();
        let items = d.need("a").unwrap().need("b").unwrap().items().unwrap();
        assert_eq!((items[0].unsigned().unwrap(), items[2].float().unwrap()), (1, 2.5));
        assert_eq!(items[1].scalar().unwrap(), Value::Signed(-2));
        assert_eq!((items[3].text().unwrap(), items[4].bool().unwrap()), ("x", true));
        assert!(d.get("c").is_none());
        let e = items[1].unsigned().unwrap_err();
        assert_eq!(e.to_string(), "expected a non-negative integer, found a negative integer (in 'x.json: a.b[1]')");
    }

    #[test]
    fn what_contradicts_itself_or_is_too_much_is_refused() {
        assert!(refused(r#"{"a": 1, "b": {"c": 1, "c": 2}}"#).contains("'c' stands there twice"));
        assert!(refused("[1]").contains("an array where a JSON object belongs"));
        assert!(refused("{\"a\": 1} x").contains("not good JSON"));
        assert!(refused(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(refused("{\"a\": 1e999}").contains("out of range"));
        assert!(refused("{\"a\": \"\u{0}\"}").contains("not good JSON"));
        let many = format!("{{\"a\": [{}0]}}", "0,".repeat(limits::METADATA_VALUES_MAX as usize));
        assert!(refused(&many).contains("JSON values"));
        let e = Document::parse("x.json", &vec![b' '; limits::JSON_BYTES_MAX as usize + 1]).err().unwrap();
        assert_eq!(e.kind, Kind::TooLarge);
    }
}
