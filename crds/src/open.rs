//! Fields whose schema is open: the API server takes what does not fit their type, and the operator must not stumble over it.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What was given for a field of Kubernetes' own type, of which the schema says no more than that it is an object.
///
/// One job with `fsGroup: "1000"` in it would otherwise keep the operator from reading the list that it stands in, and with
/// it from all jobs.
#[derive(Clone, Debug, PartialEq)]
pub enum Open<T> {
    /// It fits the type.
    Fits(T),
    /// It does not.
    Misfit {
        /// As it was given.
        given: Value,
        /// Why it does not fit.
        why: String,
    },
}

impl<T> Open<T> {
    /// What was given, if it fits.
    pub fn get(&self) -> Option<&T> {
        match self {
            Open::Fits(value) => Some(value),
            Open::Misfit { .. } => None,
        }
    }

    /// Why what was given does not fit, if it doesn't.
    pub fn misfit(&self) -> Option<&str> {
        match self {
            Open::Fits(_) => None,
            Open::Misfit { why, .. } => Some(why),
        }
    }
}

impl<T> From<T> for Open<T> {
    fn from(value: T) -> Open<T> {
        Open::Fits(value)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Open<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Open<T>, D::Error> {
        let given = Value::deserialize(deserializer)?;
        if !given.is_object() {
            // That is against the schema.
            return Err(D::Error::custom(format!("{given} is no object")));
        }
        Ok(match T::deserialize(&given) {
            Ok(value) => Open::Fits(value),
            Err(error) => Open::Misfit { given, why: error.to_string() },
        })
    }
}

impl<T: Serialize> Serialize for Open<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Open::Fits(value) => value.serialize(serializer),
            Open::Misfit { given, .. } => given.serialize(serializer),
        }
    }
}
