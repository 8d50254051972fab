//! Lists in JSON that are short in every request that makes sense: what comes beyond is counted and not kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Most inputs, outputs, or dimensions of a shape that are kept.
pub(super) const FEW: usize = 16;

/// The first elements of a list, and how many it has.
#[derive(Debug)]
pub(super) struct Few<T> {
    pub(super) items: Vec<T>,
    pub(super) count: usize,
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few { items: Vec::new(), count: 0 }
    }
}

/// Reads a list, each element as the seed says; `null` is an empty one.
pub(super) struct FewOf<S>(pub(super) S);

impl<'de, S: DeserializeSeed<'de> + Clone> DeserializeSeed<'de> for FewOf<S> {
    type Value = Few<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Few<S::Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Clone> Visitor<'de> for FewOf<S> {
    type Value = Few<S::Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<Few<S::Value>, E> {
        Ok(Few::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Few<S::Value>, A::Error> {
        let mut items = Vec::new();
        while items.len() < FEW
            && let Some(item) = elements.next_element_seed(self.0.clone())?
        {
            items.push(item);
        }
        let mut count = items.len();
        while count >= FEW && elements.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Few { items, count })
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;

    #[test]
    fn the_first_elements_are_kept_and_all_are_counted() {
        let read = |text: &str| {
            let few = FewOf(PhantomData::<i64>).deserialize(&mut serde_json::Deserializer::from_str(text));
            few.map(|few| (few.items, few.count)).map_err(|error| error.to_string())
        };
        assert_eq!(read("null"), Ok((vec![], 0)));
        assert_eq!(read("[3, 4]"), Ok((vec![3, 4], 2)));
        let many = format!("[{}7]", "7,".repeat(99));
        assert_eq!(read(&many), Ok((vec![7; FEW], 100)));
        assert_eq!(read("3"), Err("invalid type: integer `3`, expected an array at line 1 column 1".to_owned()));
    }
}
