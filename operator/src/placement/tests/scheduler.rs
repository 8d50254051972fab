//! The scheduler's own reading of a pod's node selection, written anew from its documentation: what the gate is checked by.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::observe::NodeFacts;
use crate::placement::Placed;

use super::builders::{Job, required};

/// Whether the scheduler would let a pod that was placed so onto the node, were there room and no taint.
pub(super) fn lets(job: &Job, placed: &Placed, node: &NodeFacts) -> bool {
    let selected = job.infrastructure.pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = placed.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let has_terms = affinity.is_some_and(|one| one.required_during_scheduling_ignored_during_execution.is_some());
    selected && (!has_terms || required(placed).iter().any(|term| term_lets(term, node)))
}

fn term_lets(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let name: BTreeMap<String, String> = [("metadata.name".to_owned(), node.name.clone())].into();
    let mut checks = Vec::new();
    for one in term.match_expressions.iter().flatten() {
        checks.push(holds(one, &node.labels));
    }
    for one in term.match_fields.iter().flatten() {
        assert_eq!(
            one.values.as_ref().map(Vec::len),
            Some(1),
            "the API server takes one value in a field's requirement"
        );
        assert!(matches!(one.operator.as_str(), "In" | "NotIn"), "a field is only compared by In and NotIn");
        checks.push(holds(one, &name));
    }
    !checks.is_empty() && !checks.contains(&false)
}

fn holds(one: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = one.values.clone().unwrap_or_default();
    for value in &values {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        assert!(value.len() <= 253 && value.chars().all(good), "{value:?} is no value of a label or name");
        assert!(value.is_empty() || (ends(value.chars().next()) && ends(value.chars().last())), "{value:?}");
    }
    let label = labels.get(&one.key);
    match (one.operator.as_str(), values.len()) {
        ("In", 1..) => matches!(label, Some(label) if values.contains(label)),
        ("NotIn", 1..) => !matches!(label, Some(label) if values.contains(label)),
        ("Exists", 0) => label.is_some(),
        ("DoesNotExist", 0) => label.is_none(),
        ("Gt" | "Lt", 1) => {
            let bound: i64 = values[0].parse().expect("the API server takes integers only");
            match label.map(|label| label.parse::<i64>()) {
                Some(Ok(label)) if one.operator == "Gt" => label > bound,
                Some(Ok(label)) => label < bound,
                _ => false,
            }
        }
        other => panic!("the API server refuses {other:?}"),
    }
}
