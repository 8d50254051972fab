//! Counts as text: most of them are zero, and a thousand classes have millions. Written as the length, then index and
//! count of each that is not zero.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most counts that are read: those of the confusion matrix of 16,384 classes. It bounds what a damaged file can ask for.
const MOST: usize = 1 << 28;

pub(super) fn serialize<S: Serializer>(counts: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    let pairs: Vec<(usize, u64)> = counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
    (counts.len(), pairs).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let (length, pairs): (usize, Vec<(usize, u64)>) = Deserialize::deserialize(deserializer)?;
    if length > MOST {
        return Err(D::Error::custom(format_args!("{length} counts are more than {MOST}")));
    }
    let mut counts = vec![0; length];
    for (index, count) in pairs {
        *counts
            .get_mut(index)
            .ok_or_else(|| D::Error::custom(format_args!("there is no count {index} of {length}")))? = count;
    }
    Ok(counts)
}
