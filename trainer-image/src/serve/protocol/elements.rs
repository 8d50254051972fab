//! The elements of a tensor in JSON: numbers as they come, strings decoded as they come, and no more of them than a request may have.

use std::cell::Cell;
use std::fmt;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::Most;

/// Base64 with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the elements of a request may be, and whether there were more.
#[derive(Clone, Copy)]
pub(super) struct Limit<'a> {
    pub(super) most: Most,
    /// The reader's own error can't say what kind it is.
    pub(super) is_exceeded: &'a Cell<bool>,
}

/// The elements of an array, nested or not, in their order. An array of a million numbers takes four million bytes.
#[derive(Debug, Default)]
pub(super) struct Elements {
    pub(super) numbers: Vec<f32>,
    pub(super) files: Vec<Bytes>,
    /// The first string that is not base64, by its place; none is decoded after it.
    pub(super) broken: Option<(usize, DecodeError)>,
}

/// Reads elements; none where there is `null`.
pub(super) struct ElementsOf<'a>(pub(super) Limit<'a>);

impl<'de> DeserializeSeed<'de> for ElementsOf<'_> {
    type Value = Option<Elements>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Elements>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ElementsOf<'_> {
    type Value = Option<Elements>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_none<E>(self) -> Result<Option<Elements>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Elements>, D::Error> {
        let mut elements = Elements::default();
        deserializer.deserialize_seq(Collect { elements: &mut elements, limit: self.0 })?;
        Ok(Some(elements))
    }
}

struct Collect<'a> {
    elements: &'a mut Elements,
    limit: Limit<'a>,
}

impl Collect<'_> {
    /// That there may be one more beside so many.
    fn admit<E: Error>(&self, there: usize, most: usize) -> Result<(), E> {
        if there < most {
            return Ok(());
        }
        self.limit.is_exceeded.set(true);
        Err(E::custom("there are more elements than allowed"))
    }
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, a string or an array of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Collect { elements: self.elements, limit: self.limit })?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.admit(self.elements.numbers.len(), self.limit.most.values())?;
        self.elements.numbers.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.admit(self.elements.files.len(), self.limit.most.images)?;
        if self.elements.broken.is_none() {
            match BASE64.decode(value) {
                Ok(file) => self.elements.files.push(file.into()),
                Err(error) => self.elements.broken = Some((self.elements.files.len(), error)),
            }
        }
        Ok(())
    }
}
