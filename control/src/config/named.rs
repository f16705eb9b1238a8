//! Specifications that get their name from the table that they are in.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::{check::Check, plan::Object};

/// Tables by their names, each as a `T` of that name, and checked.
pub(super) fn named<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Object + Check,
{
    deserializer.deserialize_map(Tables(PhantomData))
}

struct Tables<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Object + Check> Visitor<'de> for Tables<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tables by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let spec = map.next_value_seed(Named { name: &name, of: PhantomData })?;
            found.insert(name, spec);
        }
        Ok(found)
    }
}

/// One table, and its name.
struct Named<'a, T> {
    name: &'a str,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de> + Object + Check> DeserializeSeed<'de> for Named<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, table: D) -> Result<T, D::Error> {
        let spec =
            T::deserialize(WithName { inner: table, field: T::REQUIRED[0], name: self.name })?;
        // Here, where an error gets the line of the table.
        spec.check().map_err(D::Error::custom)?;
        Ok(spec)
    }
}

/// A table, or what visits it, or its fields: with one field more, which comes first.
struct WithName<'a, I> {
    inner: I,
    field: &'static str,
    name: &'a str,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for WithName<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, field, name } = self;
        inner.deserialize_map(WithName { inner: visitor, field, name })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for WithName<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Self { inner, field, name } = self;
        inner.visit_map(Fields { map, next: Next::Field, field, name })
    }
}

/// What comes next of a table's fields.
enum Next {
    /// The name's field.
    Field,
    /// The name.
    Name,
    /// What is written in the table.
    Rest,
}

struct Fields<'a, A> {
    map: A,
    next: Next,
    field: &'static str,
    name: &'a str,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        if matches!(self.next, Next::Field) {
            self.next = Next::Name;
            let field: StrDeserializer<'_, A::Error> = self.field.into_deserializer();
            return seed.deserialize(field).map(Some);
        }
        self.map.next_key_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        if matches!(self.next, Next::Name) {
            self.next = Next::Rest;
            let name: StrDeserializer<'_, A::Error> = self.name.into_deserializer();
            return seed.deserialize(name);
        }
        self.map.next_value_seed(seed)
    }
}
