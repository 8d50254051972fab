//! The fields of the three kinds as a page for people, `crds/REFERENCE.md`: what `kubectl explain` says, with types, bounds,
//! defaults and rules on one page.

use std::collections::BTreeMap;
use std::fmt::Write;

use kube::CustomResourceExt;
use serde_json::Value;

use crate::manifest::schema;
use crate::uri;
use crate::{ModelEndpoint, ScoringJob, TrainingJob};

const HEAD: &str = "\
<!-- Generated from the Rust types in crds/src; a test compares the two.
     To write it anew: UPDATE_CRDS=1 cargo test -p crds --test manifests -->
# Fields

Every field of the three kinds, as `kubectl explain` has them. A field of a list is written `list[]`, of a map with keys of
your own `map.*`. A value in bold in the column of defaults must be given. Durations are whole seconds. What this version can't
carry out is refused by name when the manifest is applied, and by `trainyard validate`.
";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut told = BTreeMap::new();
    kind::<TrainingJob>("TrainingJob", &mut told, &mut page);
    kind::<ScoringJob>("ScoringJob", &mut told, &mut page);
    kind::<ModelEndpoint>("ModelEndpoint", &mut told, &mut page);
    page
}

/// Blocks that were told of a kind before, by their path: with that kind's name.
type Told = BTreeMap<String, (Value, &'static str)>;

fn kind<K: CustomResourceExt>(name: &'static str, told: &mut Told, page: &mut String) {
    let schema = schema::<K>();
    // Writing to a string can't fail.
    let _ = write!(page, "\n## {name}\n\n{}\n", text(&schema["description"]));
    for part in ["spec", "status"] {
        let block = &schema["properties"][part];
        let (mut rows, mut rules) = (String::new(), String::new());
        walk(block, part, name, told, &mut rows, &mut rules);
        let _ = write!(page, "\n### {name}.{part}\n\n{}\n\n", text(&block["description"]));
        let _ = write!(page, "| field | type | default | meaning |\n|---|---|---|---|\n{rows}");
        if !rules.is_empty() {
            let _ = write!(page, "\nRules:\n\n{rules}");
        }
    }
}

/// Writes the fields below a block, each with those below it, and the rules that stand at them.
fn walk(block: &Value, path: &str, name: &'static str, told: &mut Told, rows: &mut String, rules: &mut String) {
    for rule in block["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = rule["fieldPath"].as_str().unwrap_or_default();
        let _ = writeln!(rules, "- `{path}{field}`: {}", text(&rule["message"]));
    }
    let required: Vec<&str> = block["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (field, schema) in block["properties"].as_object().into_iter().flatten() {
        let below = format!("{path}.{field}");
        let default = match schema.get("default") {
            _ if required.contains(&field.as_str()) => "**required**".to_owned(),
            Some(Value::Object(_)) | None => String::new(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        // What has no text of its own is a part of Kubernetes' own types.
        let meaning = schema.get("description").map_or("As in Kubernetes.".to_owned(), text);
        let known =
            told.get(&below).filter(|(before, _)| before == schema && has_fields(schema)).map(|(_, kind)| *kind);
        let more =
            known.map(|kind| format!(" Its fields are those of [{kind}](#{}{}).", kind.to_lowercase(), part(path)));
        let _ =
            writeln!(rows, "| `{below}` | {} | {default} | {meaning}{} |", kind_of(schema), more.unwrap_or_default());
        if known.is_none() {
            told.insert(below.clone(), (schema.clone(), name));
            inside(schema, &below, name, told, rows, rules);
        }
    }
}

/// Goes into what a field holds: its own fields, those of its items, or those of its values.
fn inside(schema: &Value, path: &str, name: &'static str, told: &mut Told, rows: &mut String, rules: &mut String) {
    walk(schema, path, name, told, rows, rules);
    for (child, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(child) = schema.get(child) {
            inside(child, &format!("{path}{suffix}"), name, told, rows, rules);
        }
    }
}

fn has_fields(schema: &Value) -> bool {
    schema.get("properties").is_some() || schema.get("items").is_some_and(has_fields)
}

/// The end of a heading's anchor: that of the spec or of the status.
fn part(path: &str) -> &str {
    if path.starts_with("status") { "status" } else { "spec" }
}

/// The type of a field, with its bounds.
fn kind_of(schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "quantity".to_owned();
    }
    let bounds = |least: &str, most: &str| match (schema.get(least), schema.get(most)) {
        (Some(least), Some(most)) if least == most => format!(", {least}"),
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        (None, Some(most)) => format!(", {most} or less"),
        (None, None) => String::new(),
    };
    match schema["type"].as_str().unwrap_or_default() {
        "string" => of_text(schema),
        "array" => format!("list of {}{}", kind_of(&schema["items"]), bounds("minItems", "maxItems")),
        "object" if schema.get("additionalProperties").is_some() => {
            format!("map to {}{}", kind_of(&schema["additionalProperties"]), bounds("minProperties", "maxProperties"))
        }
        "object" if schema["x-kubernetes-preserve-unknown-fields"] == true => "object of Kubernetes' own".to_owned(),
        other => format!("{other}{}", bounds("minimum", "maximum")),
    }
}

fn of_text(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", text(value))).collect();
        return values.join(", ");
    }
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    match (schema["format"].as_str(), crate::schema::format_of(pattern)) {
        (Some("date-time"), _) => "time".to_owned(),
        _ if pattern == uri::READABLE => "URI".to_owned(),
        _ if pattern == uri::WRITABLE => "URI that can be written to".to_owned(),
        (_, Some(format)) => format.what.trim_start_matches("a ").trim_start_matches("an ").to_owned(),
        _ => "string".to_owned(),
    }
}

/// A text that can stand in a table.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('|', "\\|").replace('<', "&lt;")
}
