//! Fingerprints of plain data, by which two states are known to be the same.

use serde_json::Value;

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The fingerprint of a value, as 16 hexadecimal digits: the same whatever the order of its fields.
pub fn fingerprint(value: &Value) -> String {
    digits(number(value))
}

/// The fingerprint of a value as a number.
pub(crate) fn number(value: &Value) -> u64 {
    let mut text = String::new();
    write(value, &mut text);
    fnv(text.bytes())
}

/// A fingerprint as 16 hexadecimal digits.
pub(crate) fn digits(number: u64) -> String {
    format!("{number:016x}")
}

/// The fingerprint that [`digits`] has written; `None` if it has not.
pub(crate) fn parse(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

fn write(value: &Value, into: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, field) in fields {
                *into += &format!("{name:?}:");
                write(field, into);
            }
            *into += "}";
        }
        Value::Array(items) => {
            items.iter().for_each(|item| write(item, into));
            *into += "]";
        }
        plain => *into += &format!("{plain},"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_for_the_same_and_another_for_another() {
        let values = [
            json!({"a": 1, "b": [2, {"c": "x"}]}),
            json!({"a": 1, "b": [{"c": "x"}, 2]}),
            json!({"a": 1, "b": [2, {"c": "y"}]}),
            json!({"a": 1, "b": [2], "c": "x"}),
            json!([{"a": 1}, {"b": 2}]),
            json!([{"a": 1, "b": 2}]),
            json!(["1", 1]),
            json!([1, "1"]),
            json!(null),
        ];
        let prints: std::collections::BTreeSet<String> = values.iter().map(fingerprint).collect();
        assert_eq!(prints.len(), values.len());
        // FNV's own test vector.
        assert_eq!(fnv("foobar".bytes()), 0x8594_4171_f739_67e8);
        assert_eq!(fingerprint(&json!({"b": 1, "a": 2})), fingerprint(&json!({"a": 2, "b": 1})));
        assert_eq!(parse(&fingerprint(&json!([7]))), Some(number(&json!([7]))));
    }
}
