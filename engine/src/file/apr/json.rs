//! The metadata section: one JSON object, read into a flat list without building a tree first.
//!
//! Objects inside become keys with dots (`{"sharding": {"shard_count": 2}}` is `sharding.shard_count`), which is how
//! the format spells most of its keys anyway. A null is a key that is not there. A list that holds objects, nulls or
//! values of several kinds is left out: no key that is read has one. Depth and number of values are bounded.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::Value;
use crate::limits;

/// Entries by key.
pub type Entries = BTreeMap<String, Value>;

/// Reads the object that begins at byte `at` of the file.
pub fn parse(bytes: &[u8], at: usize) -> Result<Entries> {
    let mut into = Reading { entries: Entries::new(), left: limits::METADATA_VALUES_MAX, refusal: None };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = Section { into: &mut into, path: Some(String::new()), depth: 0 }.deserialize(&mut json);
    match read.and_then(|_| json.end()) {
        Ok(()) => Ok(into.entries),
        Err(e) => Err(into.refusal.unwrap_or_else(|| {
            // Line and column are of one long line; the byte in the file helps more.
            let byte = if e.line() == 1 { at + e.column() } else { at };
            Error::malformed(format!("the metadata is not a JSON object that can be read: {}", reason(&e)))
                .at(Place::Byte(byte as u64))
        })),
    }
}

/// serde_json's message without its place; text of the file that it cites is made safe.
fn reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.chars().any(char::is_control) { quoted(text) } else { text.chars().take(120).collect() }
}

struct Reading {
    entries: Entries,
    /// Values that may still come.
    left: u64,
    /// The error of ours that made serde stop.
    refusal: Option<Error>,
}

impl Reading {
    /// Counts a value.
    fn count<E: serde::de::Error>(&mut self) -> std::result::Result<(), E> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let what =
                    format!("more than {} metadata values, the limit of this build", limits::METADATA_VALUES_MAX);
                Err(self.refuse(Error::new(Kind::TooLarge, what).at(Place::Byte(20))))
            }
        }
    }

    fn refuse<E: serde::de::Error>(&mut self, e: Error) -> E {
        let said = E::custom(&e.what);
        self.refusal = Some(e);
        said
    }

    fn insert<E: serde::de::Error>(&mut self, key: String, value: Value) -> std::result::Result<(), E> {
        // Checkpoints exist that say the same thing twice; saying two things is another matter.
        if self.entries.get(&key).is_some_and(|old| *old != value) {
            return Err(self.refuse(Error::malformed("the key stands in the metadata twice").at(Place::Key(key))));
        }
        if self.entries.len() as u64 >= limits::METADATA_ENTRIES_MAX {
            let what = format!("more than {} metadata entries, the limit of this build", limits::METADATA_ENTRIES_MAX);
            return Err(self.refuse(Error::new(Kind::TooLarge, what).at(Place::Key(key))));
        }
        self.entries.insert(key, value);
        Ok(())
    }
}

/// What a value turned out to be.
enum Met {
    Scalar(Value),
    /// An object, already filed under its keys; a null; a list that is left out.
    Nothing,
}

/// A value somewhere in the metadata.
struct Section<'a> {
    into: &'a mut Reading,
    /// Its key; empty for the whole; `None` for an element of a list, which is a scalar or of no interest.
    path: Option<String>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = Met;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Met, D::Error> {
        if self.depth == 0 { d.deserialize_map(self) } else { d.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = Met;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_bool<E: serde::de::Error>(self, x: bool) -> std::result::Result<Met, E> {
        self.scalar(Value::Bool(x))
    }

    fn visit_u64<E: serde::de::Error>(self, x: u64) -> std::result::Result<Met, E> {
        self.scalar(Value::Unsigned(x))
    }

    fn visit_i64<E: serde::de::Error>(self, x: i64) -> std::result::Result<Met, E> {
        self.scalar(u64::try_from(x).map_or(Value::Signed(x), Value::Unsigned))
    }

    fn visit_f64<E: serde::de::Error>(self, x: f64) -> std::result::Result<Met, E> {
        self.scalar(Value::Float(x))
    }

    fn visit_str<E: serde::de::Error>(self, x: &str) -> std::result::Result<Met, E> {
        self.scalar(Value::String(x.to_owned()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Met, E> {
        self.into.count()?;
        Ok(Met::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Met, A::Error> {
        let Some(outer) = self.path else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Met::Nothing);
        };
        if self.depth > limits::ARRAY_DEPTH_MAX {
            let what = format!("more than {} levels of objects, the limit of this build", limits::ARRAY_DEPTH_MAX);
            return Err(self.into.refuse(Error::new(Kind::TooLarge, what).at(Place::Key(outer))));
        }
        while let Some(key) = map.next_key::<String>()? {
            let path = if outer.is_empty() { key } else { format!("{outer}.{key}") };
            if path.len() as u64 > limits::KEY_BYTES_MAX {
                return Err(A::Error::custom("a key is too long"));
            }
            let inner = Section { into: &mut *self.into, path: Some(path.clone()), depth: self.depth + 1 };
            if let Met::Scalar(value) = map.next_value_seed(inner)? {
                self.into.insert(path, value)?;
            }
        }
        Ok(Met::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Met, A::Error> {
        let mut values: Vec<Value> = Vec::new();
        let inside = self.path.is_none();
        loop {
            let element = Section { into: &mut *self.into, path: None, depth: self.depth + 1 };
            match list.next_element_seed(element)? {
                None if inside => return Ok(Met::Nothing),
                None => return Ok(Met::Scalar(Value::Array(values))),
                Some(Met::Scalar(value)) if !inside && values.first().is_none_or(|first| alike(first, &value)) => {
                    values.push(value);
                }
                Some(_) => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Met::Nothing);
                }
            }
        }
    }
}

impl Section<'_> {
    fn scalar<E: serde::de::Error>(self, value: Value) -> std::result::Result<Met, E> {
        self.into.count()?;
        Ok(Met::Scalar(value))
    }
}

/// Whether two elements may stand in one list. An integer among floats is a float that was printed short.
fn alike(a: &Value, b: &Value) -> bool {
    let number = |v: &Value| matches!(v, Value::Unsigned(_) | Value::Signed(_) | Value::Float(_));
    a.kind() == b.kind() || number(a) && number(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Entries> {
        parse(json.as_bytes(), 64)
    }

    #[test]
    fn objects_become_keys_and_nulls_are_absent() {
        let e = read(
            r#"{"a":1,"b.c":-2,"d":{"e":1.5,"f":{"g":true}},"n":null,"s":"x","l":["p","q"],"i":[1,2.5],"o":[{}],"m":[1,"x"]}"#,
        );
        let e = e.unwrap();
        let keys: Vec<&str> = e.keys().map(String::as_str).collect();
        assert_eq!(keys, ["a", "b.c", "d.e", "d.f.g", "i", "l", "s"]);
        assert_eq!((&e["b.c"], &e["d.e"]), (&Value::Signed(-2), &Value::Float(1.5)));
        assert_eq!(e["i"], Value::Array(vec![Value::Unsigned(1), Value::Float(2.5)]));
    }

    #[test]
    fn a_key_may_say_the_same_twice_and_not_two_things() {
        assert_eq!(read(r#"{"a":null,"a":1,"a":1}"#).unwrap()["a"], Value::Unsigned(1));
        let e = read(r#"{"a":1,"a":2}"#).unwrap_err();
        assert_eq!(e.at, Some(Place::Key("a".into())));
    }

    #[test]
    fn what_is_not_an_object_is_refused_with_its_place() {
        for bad in ["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":1} x"#, "{\"a\":\"\x07\"}", r#"{"a":1e999}"#] {
            let e = read(bad).unwrap_err();
            assert!(matches!(e.at, Some(Place::Byte(64..))) && !e.to_string().contains('\n'), "{bad}: {e}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}", 0).is_err());
        let deep = format!("{}1{}", "{\"a\":".repeat(50), "}".repeat(50));
        assert_eq!(read(&deep).unwrap_err().kind, Kind::TooLarge);
        assert!(read(&format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500))).is_err());
    }

    #[test]
    fn values_are_counted() {
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(limits::METADATA_VALUES_MAX as usize));
        assert_eq!(read(&many).unwrap_err().kind, Kind::TooLarge);
    }
}
