//! Alerts and dashboard: Prometheus' own parser takes the rules, and each metric and label that they name is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use crds::status::{EndpointPhase, Phase};
use serde_json::{Value, json};
use tests::chart;
use trainer::progress::ProgressServer;

/// Labels by the names of metrics.
pub(crate) type Metrics = BTreeMap<String, BTreeSet<String>>;

/// Metrics of a scrape: names as Prometheus keeps them.
pub(crate) fn metrics(scrape: &str) -> Metrics {
    let mut found = Metrics::new();
    for line in scrape.lines().filter(|line| !line.is_empty()) {
        // A family without samples yet is known by its type alone; its labels are not.
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap_or((family, ""));
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            for suffix in suffixes {
                found.entry(format!("{name}{suffix}")).or_default();
            }
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once(['{', ' ']).unwrap_or((line, ""));
            let labels = rest.split('}').next().filter(|_| line.contains('{')).unwrap_or_default();
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            found.entry(name.to_owned()).or_default().extend(labels);
        }
    }
    found
}

/// What the trainer exports when it has told all that it can tell.
fn of_the_trainer() -> Metrics {
    let server = ProgressServer::listen(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0, 1).expect("a server");
    server.update(|progress| {
        progress.loss = Some(1.0);
        progress.metric = Some(1.0);
        progress.eta_seconds = Some(1);
        progress.checkpoint_step = Some(1);
        progress.gradient_bytes = Some(1);
    });
    let url = format!("http://{}/metrics", server.address());
    metrics(&ureq::get(&url).call().expect("an answer").body_mut().read_to_string().expect("a text"))
}

/// The selectors of expressions, as Prometheus understands them.
fn selectors(arguments: &[&str], text: &str) -> Vec<String> {
    let mut command = Command::new(chart::checker("rules"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    child.stdin.take().expect("an input").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn alerts() -> String {
    fs::read_to_string(chart::folder().join("files/alerts.yaml")).expect("alerts")
}

/// Selectors of the rules and of the dashboard.
fn read_by_us() -> Vec<String> {
    let dashboard = fs::read_to_string(chart::folder().join("files/dashboard.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<String> = targets
        .filter_map(|target| target["expr"].as_str())
        .map(|text| text.replace("$__rate_interval", "5m").replace("$namespace", ".*"))
        .collect();
    assert!(expressions.len() > 15, "{expressions:?}");
    let mut all = selectors(&[], &alerts());
    all.extend(selectors(&["-expressions"], &expressions.join("\n")));
    all
}

/// Holds what rules and dashboard read against what operator and trainer export.
pub(crate) fn all_is_exported(by_the_operator: &Metrics) {
    let by_the_trainer = of_the_trainer();
    for selector in read_by_us() {
        let (name, matchers) = selector.split_once('{').unwrap_or((&selector, ""));
        let labels: BTreeSet<&str> = matchers
            .split(',')
            .filter_map(|matcher| matcher.split_once(['=', '!']))
            .map(|(label, _)| label)
            .filter(|label| *label != "__name__")
            .collect();
        let exported = by_the_operator.get(name).or(by_the_trainer.get(name));
        let exported = exported.unwrap_or_else(|| panic!("{name} is not exported"));
        // A pod's namespace is added by who scrapes it.
        let from_scrape = if by_the_trainer.contains_key(name) { "namespace" } else { "" };
        let unknown: Vec<_> =
            labels.iter().filter(|label| **label != from_scrape && !exported.contains(**label)).collect();
        assert!(unknown.is_empty(), "{name} has no label {unknown:?}: {exported:?}");
    }
}

#[test]
fn each_alert_says_what_to_do() {
    let rules = chart::objects(&alerts()).remove(0);
    let groups = rules["groups"].as_array().expect("groups");
    let mut names = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()) {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name) && name.starts_with("Trainyard"), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for text in ["summary", "description", "runbook"] {
            let text = rule["annotations"][text].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name}: {text}");
        }
    }
}

#[test]
fn the_phases_that_alerts_name_are_phases_that_there_are() {
    let mut of_endpoints = BTreeSet::new();
    for selector in selectors(&[], &alerts()).iter().filter(|selector| selector.starts_with("trainyard_jobs{")) {
        let is_of_endpoints = selector.contains(r#"kind="ModelEndpoint""#);
        let (_, rest) = selector.split_once("phase=").unwrap_or_else(|| panic!("{selector} names no phase"));
        let phases = rest.split('"').nth(1).unwrap_or_default();
        for phase in phases.split('|').map(|phase| json!(phase)) {
            if is_of_endpoints {
                let known: EndpointPhase = serde_json::from_value(phase.clone()).expect(selector);
                of_endpoints.insert(format!("{known:?}"));
            } else {
                let _: Phase = serde_json::from_value(phase).expect(selector);
            }
        }
    }
    assert_eq!(of_endpoints, ["Degraded", "Failed", "Held"].map(str::to_owned).into());
}
