//! What a pod itself says about its nodes, judged as the scheduler judges it: nodeSelector, required node affinity, taints.
//!
//! The rules are those of `k8s.io/component-helpers/scheduling/corev1` (`nodeaffinity`, `taints`): a requirement that is
//! malformed makes its term match nothing, a term without requirements matches nothing, terms are alternatives.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use crate::observe::NodeFacts;
use crate::observe::node::labels;

/// Whether the node has all these labels.
pub(super) fn has_labels(node: &NodeFacts, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| node.label(name) == Some(value))
}

/// Whether one of the terms matches the node.
pub(super) fn any_matches(node: &NodeFacts, terms: &[NodeSelectorTerm]) -> bool {
    terms.iter().any(|term| matches(node, term))
}

fn matches(node: &NodeFacts, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let some = !expressions.is_empty() || !fields.is_empty();
    some && expressions.iter().all(|one| label_matches(node.label(&one.key), one))
        && fields.iter().all(|one| field_matches(&node.name, one))
}

fn label_matches(label: Option<&str>, wanted: &NodeSelectorRequirement) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = |label: &str| values.iter().any(|value| value == label);
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = || match values {
        // A signed bound is no label value, and spoils its term.
        [bound] if !bound.starts_with(['-', '+']) => Some((number(label?)?, number(bound)?)),
        _ => None,
    };
    match wanted.operator.as_str() {
        "In" => label.is_some_and(listed),
        "NotIn" => !values.is_empty() && !label.is_some_and(listed),
        "Exists" => values.is_empty() && label.is_some(),
        "DoesNotExist" => values.is_empty() && label.is_none(),
        "Gt" => numbers().is_some_and(|(label, bound)| label > bound),
        "Lt" => numbers().is_some_and(|(label, bound)| label < bound),
        _ => false,
    }
}

/// The only field there is: `metadata.name`, one value for each requirement.
fn field_matches(name: &str, wanted: &NodeSelectorRequirement) -> bool {
    let [value] = wanted.values.as_deref().unwrap_or_default() else { return false };
    match (wanted.key.as_str(), wanted.operator.as_str()) {
        ("metadata.name", "In") => value == name,
        ("metadata.name", "NotIn") => value != name,
        _ => false,
    }
}

/// The taints that keep pods with these tolerations off the node for good. Those that Kubernetes puts on a node for a while
/// and takes away again don't count, nor do those that say that a device is at fault: the node may come back.
pub(super) fn closing<'a>(node: &'a NodeFacts, tolerations: &'a [Toleration]) -> impl Iterator<Item = &'a Taint> {
    node.taints.iter().filter(move |taint| {
        let closes = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let passing = labels::PASSING_TAINTS.iter().any(|begin| taint.key.starts_with(begin));
        let fault = taint.key.starts_with(labels::FAULT_TAINTS);
        closes && !passing && !fault && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (key, effect) = (set(&toleration.key), set(&toleration.effect));
    let value = |text: &Option<String>| text.clone().unwrap_or_default();
    if effect.is_some_and(|effect| effect != taint.effect) || key.as_ref().is_some_and(|key| *key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => key.is_some() && value(&toleration.value) == value(&taint.value),
        // Exists, and what a later Kubernetes may compare by: a node is called closed only where that is certain.
        _ => true,
    }
}

/// A taint as kubectl writes it: `key=value:Effect`.
pub(super) fn taint_text(taint: &Taint) -> String {
    let value = taint.value.as_deref().filter(|value| !value.is_empty());
    format!("{}{}:{}", taint.key, value.map(|value| format!("={value}")).unwrap_or_default(), taint.effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Toleration {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_are_judged_as_the_scheduler_judges_them() {
        let taint = Taint { key: "a".into(), value: Some("1".into()), effect: "NoSchedule".into(), time_added: None };
        for (key, operator, value, effect, tolerated) in [
            ("a", "Equal", "1", "NoSchedule", true),
            ("a", "", "1", "", true),
            ("a", "", "", "", false),
            ("a", "Equal", "2", "NoSchedule", false),
            ("a", "Exists", "", "", true),
            ("a", "Exists", "", "NoExecute", false),
            ("b", "Exists", "", "", false),
            ("", "Exists", "", "", true),
            ("", "Equal", "1", "", false),
        ] {
            let toleration = toleration(key, operator, value, effect);
            assert_eq!(tolerates(&toleration, &taint), tolerated, "{toleration:?}");
        }
    }

    #[test]
    fn taints_that_pass_do_not_close_a_node() {
        let taint = |key: &str, effect: &str| Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
        for (key, effect, closes) in [
            ("dedicated", "NoSchedule", true),
            ("dedicated", "NoExecute", true),
            ("dedicated", "PreferNoSchedule", false),
            ("node.kubernetes.io/unschedulable", "NoSchedule", false),
            ("node.kubernetes.io/unreachable", "NoExecute", false),
            ("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule", false),
            ("gpu.nvidia.com/xid", "NoExecute", false),
        ] {
            let node = NodeFacts { taints: vec![taint(key, effect)], ..NodeFacts::default() };
            assert_eq!(closing(&node, &[]).count() == 1, closes, "{key}:{effect}");
        }
    }
}
