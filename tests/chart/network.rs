//! The chart's NetworkPolicy lets through what the operator does, by the ports and labels of the contract.

use crds::contract::{PROGRESS_PORT, SERVE_PORT, labels};
use serde_json::{Value, json};
use tests::chart::render;

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_operator_may_ask_the_pods_that_it_makes_on_the_ports_that_they_listen_on() {
    let objects = render("a", "b", &["--set", "networkPolicy.enabled=true"]);
    let policy = &of_kind(&objects, "NetworkPolicy")["spec"];
    let egress = policy["egress"].as_array().expect("rules");
    let to_pods: Vec<&Value> = egress.iter().filter(|rule| !rule["to"].is_null()).collect();
    let selector = json!({"matchExpressions": [{"key": labels::KIND, "operator": "Exists"}]});
    let expected = json!({
        "to": [{"namespaceSelector": {}, "podSelector": selector}],
        "ports": [{"port": PROGRESS_PORT}, {"port": SERVE_PORT}],
    });
    assert_eq!(to_pods, [&expected]);

    // What is let in has the name of a port that the operator's container has.
    let name = &policy["ingress"][0]["ports"][0]["port"];
    let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let ports = container["ports"].as_array().expect("ports");
    assert!(ports.iter().any(|port| port["name"] == *name), "{name}: {ports:?}");
}
