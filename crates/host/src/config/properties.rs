//! A table of names that are not ours.

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Names and values: a table in TOML (texts, numbers or booleans), or one text `name=value,name=value` in an environment variable. Values whose
/// name speaks of a secret never print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PropertyTable(pub BTreeMap<String, String>);

impl PropertyTable {
    fn printable(&self) -> impl Iterator<Item = (&str, &str)> {
        const SECRET: [&str; 6] = ["password", "secret", "pem", "key", "token", "oauthbearer"];
        let hidden = |name: &str| SECRET.iter().any(|word| name.contains(word));
        self.0.iter().map(move |(name, value)| (name.as_str(), if hidden(name) { "***" } else { value.as_str() }))
    }
}

impl fmt::Debug for PropertyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.printable()).finish()
    }
}

impl Serialize for PropertyTable {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_map(self.printable())
    }
}

impl<'de> Deserialize<'de> for PropertyTable {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(PropertyTableVisitor)
    }
}

struct PropertyTableVisitor;

impl<'de> Visitor<'de> for PropertyTableVisitor {
    type Value = PropertyTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or one text `name=value,name=value`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PropertyTable, E> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            // The pair may hold a secret: only its name may be told.
            let (name, value) = pair.split_once('=').ok_or_else(|| E::custom("a property has no `=` and value"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        });
        pairs.collect::<Result<_, E>>().map(PropertyTable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PropertyTable, A::Error> {
        let mut properties = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, PropertyValue>()? {
            properties.insert(name, value.0);
        }
        Ok(PropertyTable(properties))
    }
}

/// A text, or the text of a number or boolean.
struct PropertyValue(String);

impl<'de> Deserialize<'de> for PropertyValue {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(PropertyValueVisitor)
    }
}

struct PropertyValueVisitor;

impl Visitor<'_> for PropertyValueVisitor {
    type Value = PropertyValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PropertyValue, E> {
        Ok(PropertyValue(text.into()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<PropertyValue, E> {
        Ok(PropertyValue(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<PropertyValue, E> {
        Ok(PropertyValue(value.to_string()))
    }
}
