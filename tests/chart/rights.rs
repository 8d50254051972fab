//! What the chart asks for: no more than the operator needs, each right with its reason. That it is enough, and that each is
//! used, is held by `tests/operator/rights.rs`, where the operator works with these rights alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use tests::chart::{self, rules};

use crate::golden::{SETS, rendered};

#[test]
fn no_role_has_wildcards_secrets_or_a_way_to_more_rights() {
    for set in SETS {
        let objects = chart::objects(&rendered(set, "trainyard", &[]));
        for object in &objects {
            let kind = object["kind"].as_str().unwrap_or_default();
            assert!(!kind.contains("Webhook"), "{set} has a {kind}");
            for rule in object["rules"].as_array().into_iter().flatten() {
                let rule: PolicyRule = serde_json::from_value(rule.clone()).expect("a rule");
                let resources: Vec<String> = rule.resources.unwrap_or_default();
                let words = rule.verbs.iter().chain(&resources).chain(rule.api_groups.iter().flatten());
                for word in words {
                    let is_bad =
                        ["*", "secrets", "bind", "escalate", "impersonate", "pods/exec"].contains(&word.as_str());
                    assert!(!is_bad && !word.starts_with("role"), "{set}: {kind} has {word}");
                }
                assert_eq!(rule.non_resource_urls, None);
            }
        }
    }
}

#[test]
fn both_modes_have_the_same_rights_and_one_reads_no_nodes() {
    let more = ["--set", "scope.mode=Namespaced,crds.enabled=false,rbac.aggregate=false"];
    let (cluster, namespaced) = (chart::render("a", "b", &[]), chart::render("a", "b", &more));
    let is_of_nodes = |rule: &PolicyRule| rule.resources == Some(vec!["nodes".to_owned()]);
    let (nodes, mut wide): (Vec<_>, Vec<_>) = rules(&cluster, "ClusterRole").into_iter().partition(is_of_nodes);
    wide.extend(rules(&cluster, "Role"));
    assert_eq!(rules(&namespaced, "Role"), wide);
    assert_eq!(nodes.len(), 1);
    // Somebody without any right outside a namespace can install it.
    let outside: BTreeSet<_> = namespaced
        .iter()
        .filter(|object| object["metadata"]["namespace"].is_null())
        .map(|object| object["kind"].to_string())
        .collect();
    assert_eq!(outside, BTreeSet::new());
}

#[test]
fn an_operator_of_another_namespace_has_its_rights_and_its_lease_there() {
    let more = ["--set", "scope.mode=Namespaced,scope.namespace=vision,crds.enabled=false,rbac.aggregate=false"];
    let objects = chart::render("a", "platform", &more);
    let of = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    let [role, binding, deployment] = ["Role", "RoleBinding", "Deployment"].map(|kind| {
        let all = of(kind);
        assert_eq!(all.len(), 1, "{kind}");
        all[0]
    });
    assert_eq!(of("ClusterRole"), Vec::<&Value>::new());
    for object in [role, binding] {
        assert_eq!(object["metadata"]["namespace"], "vision", "{object}");
    }
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let pod = &deployment["spec"]["template"]["spec"];
    let account = json!([{"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": "platform"}]);
    assert_eq!((&deployment["metadata"]["namespace"], &binding["subjects"]), (&json!("platform"), &account));
    // The lease is where the operator works, unless it is told otherwise (operator/src/cli/cluster.rs).
    let arguments = pod["containers"][0]["args"].to_string();
    assert!(arguments.contains("\"--namespace=vision\"") && !arguments.contains("--lease-namespace"), "{arguments}");
    let leases = |rule: &PolicyRule| rule.resources == Some(vec!["leases".to_owned()]);
    let verbs = rules(&objects, "Role").into_iter().filter(leases).flat_map(|rule| rule.verbs).collect::<Vec<_>>();
    assert_eq!(verbs, ["create", "get", "update"]);
}

#[test]
fn each_rule_names_code_that_is_there() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let text = fs::read_to_string(chart::folder().join("templates/_rules.tpl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut rules = 0;
    for (index, _) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups")) {
        let comment: Vec<_> = lines[..index].iter().rev().take_while(|line| line.starts_with('#')).collect();
        let words = comment.iter().rev().flat_map(|line| line.split_whitespace());
        let files: Vec<_> = words.filter(|word| word.ends_with(".rs")).collect();
        assert!(!files.is_empty(), "line {} of _rules.tpl names no code: {comment:?}", index + 1);
        // The first has its whole path; the others are told from where it lies.
        let folder = root.join(files[0]).parent().map(Path::to_owned).unwrap_or_default();
        for file in files {
            let beside = [folder.join(file), folder.join("..").join(file)];
            let is_there = root.join(file).is_file() || beside.iter().any(|path| path.is_file());
            assert!(is_there, "{file} is not there");
        }
        rules += 1;
    }
    assert!(rules > 8, "{rules}");
}
