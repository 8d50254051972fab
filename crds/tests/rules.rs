//! Each CEL rule of each kind has one manifest that it accepts and one that it refuses; a rule without such a pair fails here.

mod common;
#[path = "common/pairs.rs"]
mod pairs;

use std::collections::BTreeSet;

use common::{least, with};
use crds::check::{read, read_update};
use crds::contract::env;
use crds::manifest::schema;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use kube::core::cel::{CompiledSchema, compile_schema, estimate_rule_cost};
use pairs::{Pair, pairs};
use serde_json::{Value, json};

/// Every rule of a schema as (path, message).
fn rules(schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push((path.to_owned(), rule["message"].as_str().unwrap().to_owned()));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        rules(property, format!("{path}.{name}").trim_start_matches('.'), found);
    }
    if schema["items"].is_object() {
        rules(&schema["items"], &format!("{path}[]"), found);
    }
}

fn all_rules() -> Vec<(&'static str, String, String)> {
    [
        ("TrainingJob", schema::<TrainingJob>()),
        ("ScoringJob", schema::<ScoringJob>()),
        ("ModelEndpoint", schema::<ModelEndpoint>()),
    ]
    .into_iter()
    .flat_map(|(kind, schema)| {
        let mut found = Vec::new();
        rules(&schema, "", &mut found);
        found.into_iter().map(move |(path, message)| (kind, path, message))
    })
    .collect()
}

#[test]
fn every_rule_has_a_pair_and_every_pair_a_rule() {
    let rules = all_rules();
    let pairs = pairs();
    let matches = |pair: &Pair, (kind, path, message): &(&str, String, String)| {
        pair.rule.0 == *kind && pair.rule.1 == *path && message.starts_with(&pair.rule.2)
    };
    let bare: Vec<_> = rules.iter().filter(|rule| !pairs.iter().any(|pair| matches(pair, rule))).collect();
    let stray: BTreeSet<_> =
        pairs.iter().filter(|pair| !rules.iter().any(|rule| matches(pair, rule))).map(|pair| &pair.rule).collect();
    assert!(bare.is_empty() && stray.is_empty(), "rules without a pair: {bare:#?}\npairs without a rule: {stray:#?}");
}

/// What the pages for people name is what may be set, and what an image of one's own reads, and nothing else of ours.
#[test]
fn variables_that_the_pages_name_may_stand_in_a_manifest() {
    let pages = concat!(include_str!("../../README.md"), include_str!("../GUIDE.md"), include_str!("../CAUSES.md"));
    let ours = regex::Regex::new("TRAINYARD_[A-Z_]*[A-Z]").unwrap();
    let named: BTreeSet<&str> = ours.find_iter(pages).map(|found| found.as_str()).collect();
    let settings = BTreeSet::from(env::SETTINGS);
    let read_by_images = [env::ASSIGNMENT, env::STOP_SECONDS, env::TOKEN_FILE];
    assert_eq!(named, settings.iter().copied().chain(read_by_images).collect());
    for kind in ["TrainingJob", "ScoringJob", "ModelEndpoint"] {
        let judge = |name: &str| {
            let pod = json!({"env": [{"name": name, "value": "1"}]});
            read(&with(least(kind), &json!({"spec": {"infrastructure": {"pod": pod}}})))
        };
        for name in &settings {
            assert!(judge(name).is_ok(), "{kind} refuses {name}: {:?}", judge(name));
        }
        for name in read_by_images.into_iter().chain([env::NODE_NAME, "TRAINYARD_EXACTLY"]) {
            assert!(judge(name).is_err(), "{kind} takes {name}");
        }
    }
}

/// The API server refuses a rule whose worst case costs too much, and one that doesn't compile.
#[test]
fn no_rule_costs_too_much() {
    fn walk(schema: &CompiledSchema, path: &str, found: &mut Vec<String>) {
        for rule in &schema.validations {
            let rule = &rule.as_ref().unwrap_or_else(|fault| panic!("{path}: {fault}")).rule.rule;
            found.extend(estimate_rule_cost(rule, schema).iter().map(|warning| format!("{path}: {warning:?}")));
        }
        for (name, property) in &schema.properties {
            walk(property, &format!("{path}.{name}"), found);
        }
    }
    let mut found = Vec::new();
    for schema in [schema::<TrainingJob>(), schema::<ScoringJob>(), schema::<ModelEndpoint>()] {
        walk(&compile_schema(&schema), "", &mut found);
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_rule_accepts_and_refuses() {
    for Pair { rule, old, accepted, refused } in pairs() {
        let judge = |manifest: &Value| match &old {
            Some(old) => read_update(old, manifest),
            None => read(manifest),
        };
        if let Err(faults) = judge(&accepted) {
            panic!("{rule:?} should accept {accepted}: {faults:?}");
        }
        if refused == json!({}) {
            continue;
        }
        let faults = judge(&refused).err().unwrap_or_else(|| panic!("{rule:?} should refuse {refused}"));
        let [fault] = &faults[..] else { panic!("{rule:?} should be all that refuses {refused}: {faults:?}") };
        assert!(fault.message.starts_with(&rule.2), "{rule:?} refuses with another rule's message: {fault:?}");
        assert!(!fault.path.is_empty(), "{rule:?} names no field: {fault:?}");
    }
}
