//! Checks a value against a structural schema, as the API server does with strict field validation: types, bounds, patterns,
//! and no field that the schema doesn't know.

use regex::Regex;
use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::support::THIS_VERSION;
use crate::uri::{self, Uri};

/// Everything in `value` that `schema` refuses. `path` is that of the value.
pub(crate) fn check(schema: &Value, value: &Value, path: &str, faults: &mut Vec<Fault>) {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return int_or_string(schema, value, path, faults);
    }
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("object"), Value::Object(fields)) => object(schema, fields, path, faults),
        (Some("array"), Value::Array(items)) => array(schema, items, path, faults),
        (Some("string"), Value::String(text)) => string(schema, text, path, faults),
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            range(schema, number.as_f64(), path, faults);
        }
        (Some("number"), Value::Number(number)) => range(schema, number.as_f64(), path, faults),
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(wanted), _) => {
            let hint = match (wanted, value) {
                ("string", Value::Number(_) | Value::Bool(_)) => format!("Put it in quotes: \"{value}\""),
                ("object", _) => "Write its fields below it, indented".into(),
                ("array", _) => "Write a list: one line for each item, each after a dash".into(),
                (_, Value::Null) => "Give a value, or leave the field out".into(),
                _ => String::new(),
            };
            faults.push(Fault::error(path, format!("must be {}, not {}", article(wanted), kind(value)), hint));
        }
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, faults: &mut Vec<Fault>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for (name, value) in fields {
        let below = child(path, name);
        match (properties.get(name), schema.get("additionalProperties")) {
            (Some(property), _) => check(property, value, &below, faults),
            (None, Some(values)) => check(values, value, &below, faults),
            (None, None) if open => {}
            (None, None) => faults.push(unknown(name, properties, below)),
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            let meaning = properties.get(name).and_then(|p| p.get("description")).and_then(Value::as_str);
            faults.push(Fault::error(
                child(path, name),
                "is missing",
                meaning.unwrap_or_default().trim_end_matches('.'),
            ));
        }
    }
    bound(schema, "maxProperties", fields.len(), "entries", path, faults);
}

fn array(schema: &Value, items: &[Value], path: &str, faults: &mut Vec<Fault>) {
    bound(schema, "minItems", items.len(), "items", path, faults);
    bound(schema, "maxItems", items.len(), "items", path, faults);
    let Some(item) = schema.get("items") else { return };
    for (index, value) in items.iter().enumerate() {
        check(item, value, &format!("{path}[{index}]"), faults);
    }
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    for key in keys.into_iter().flatten().filter_map(Value::as_str) {
        for (index, value) in items.iter().enumerate() {
            let own = value.get(key);
            if own.is_some() && items[..index].iter().any(|earlier| earlier.get(key) == own) {
                let message = format!("has the same {key} as an item before it");
                faults.push(Fault::error(format!("{path}[{index}].{key}"), message, "Each may stand there once"));
            }
        }
    }
}

fn string(schema: &Value, text: &str, path: &str, faults: &mut Vec<Fault>) {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let known: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        if !known.contains(&text) {
            let hint = nearest(text, known.iter().copied()).map(|name| format!("Did you mean {name}?"));
            let message = format!("{text:?} is not one of {}", known.join(", "));
            faults.push(Fault::error(path, message, hint.unwrap_or_default()));
        }
    }
    bound(schema, "minLength", text.chars().count(), "characters", path, faults);
    bound(schema, "maxLength", text.chars().count(), "characters", path, faults);
    pattern(schema, text, path, faults);
}

fn pattern(schema: &Value, text: &str, path: &str, faults: &mut Vec<Fault>) {
    let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else { return };
    if Regex::new(pattern).is_ok_and(|regex| regex.is_match(text)) || text.is_empty() {
        return;
    }
    let (message, hint) = match (crate::schema::format_of(pattern), Uri::parse(text)) {
        (Some(format), _) => (format!("{text:?} is not {}", format.what), format.example.to_owned()),
        (None, Err(fault)) if is_uri(pattern) => (fault.to_string(), String::new()),
        (None, Ok(_)) if is_uri(pattern) => {
            let names: Vec<_> = THIS_VERSION.writable.iter().map(|scheme| format!("{}://", scheme.name())).collect();
            (format!("{text:?} can be read but not written"), format!("Outputs go to {}", names.join(", ")))
        }
        (None, _) => (format!("{text:?} does not match {pattern}"), String::new()),
    };
    faults.push(Fault::error(path, message, hint));
}

fn is_uri(pattern: &str) -> bool {
    matches!(pattern, uri::READABLE | uri::WRITABLE)
}

fn int_or_string(schema: &Value, value: &Value, path: &str, faults: &mut Vec<Fault>) {
    match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => {}
        Value::String(text) => string(schema, text, path, faults),
        _ => faults.push(Fault::error(
            path,
            format!("must be a quantity, not {}", kind(value)),
            "Such as 2, 500m or 8Gi",
        )),
    }
}

fn range(schema: &Value, number: Option<f64>, path: &str, faults: &mut Vec<Fault>) {
    let Some(number) = number else { return };
    let (least, most) = (schema.get("minimum").and_then(Value::as_f64), schema.get("maximum").and_then(Value::as_f64));
    if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
        let span = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("{least} or more"),
            (None, most) => format!("{} or less", most.unwrap_or_default()),
        };
        faults.push(Fault::error(path, format!("must be {span}, not {number}"), ""));
    }
}

fn bound(schema: &Value, name: &str, count: usize, what: &str, path: &str, faults: &mut Vec<Fault>) {
    let Some(limit) = schema.get(name).and_then(Value::as_u64) else { return };
    let count = count as u64;
    if name.starts_with("min") && count < limit {
        faults.push(Fault::error(path, format!("has {count} {what}; it needs {limit} at least"), ""));
    }
    if name.starts_with("max") && count > limit {
        faults.push(Fault::error(path, format!("has {count} {what}; at most {limit} are possible"), ""));
    }
}

fn unknown(name: &str, properties: &Map<String, Value>, path: String) -> Fault {
    let hint = match nearest(name, properties.keys().map(String::as_str)) {
        Some(known) => format!("Did you mean {known}?"),
        None => format!("There are {}", properties.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    Fault::error(path, "is not a field", hint)
}

/// The name that `text` was probably meant to be: the nearest one, if it is a third of its letters away at most.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let text = plain(text);
    names
        .map(|name| (distance(&text, &plain(name)), name))
        .min()
        .filter(|(distance, name)| distance * 3 <= name.len())
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

fn child(path: &str, name: &str) -> String {
    // Label keys and the like have dots of their own.
    match (path.is_empty(), name.contains(['.', '/'])) {
        (true, _) => name.to_owned(),
        (false, false) => format!("{path}.{name}"),
        (false, true) => format!("{path}[{name}]"),
    }
}

fn article(wanted: &str) -> String {
    match wanted {
        "integer" => "a whole number".into(),
        "object" => "a block of fields".into(),
        "array" => "a list".into(),
        "boolean" => "true or false".into(),
        "string" => "a text".into(),
        other => format!("a {other}"),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a block of fields".into(),
    }
}
