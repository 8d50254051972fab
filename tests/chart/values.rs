//! Values: each has a comment and a schema, wrong ones are refused with a message that names them, and what is in them by
//! default is what the code has.

use std::collections::BTreeSet;
use std::fs;

use operator::placement::Catalogue;
use serde_json::{Value, json};
use tests::chart::{self, Ran, helm};
use tests::image::Product;

use crate::golden::{SETS, given};

fn read(name: &str) -> String {
    fs::read_to_string(chart::folder().join(name)).unwrap()
}

#[test]
fn lint_finds_nothing() {
    let source = chart::folder().display().to_string();
    for set in SETS {
        let [values, file] = given(set);
        let ran = Ran::of(&mut helm(None, ["lint", "--strict", &source, &values, &file]));
        let said = format!("{}{}", ran.out, ran.err);
        assert!(ran.ok && !said.contains("[WARNING]") && !said.contains("[ERROR]"), "{set}: {said}");
    }
}

#[test]
fn every_value_has_a_comment() {
    let text = read("values.yaml");
    let lines: Vec<&str> = text.lines().collect();
    // Below these stand Kubernetes' own fields.
    let closed = ["resources", "podSecurityContext", "securityContext"];
    let mut block = "";
    for (index, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.trim_start().trim_start_matches("- ").split_once(':') else { continue };
        if line.trim_start().starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            block = key;
        }
        let is_foreign = line.starts_with(' ') && closed.contains(&block) || key.contains('_');
        // A block whose fields have comments of their own may do without.
        let is_commented = lines[index - 1].trim_start().starts_with('#');
        let has_commented_fields = line.ends_with(':') && lines.get(index + 1).is_some_and(|next| next.contains('#'));
        assert!(is_foreign || is_commented || has_commented_fields, "{}: {line}", index + 1);
    }
}

/// Paths of the values of an object, without what is in lists and without what the schema leaves to Kubernetes.
fn paths(value: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    if schema.get("properties").is_some() {
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            let property = &schema["properties"][name];
            assert!(property.is_object(), "{path} is not in the schema");
            paths(value, property, &path, found);
        }
    }
}

/// Paths that a schema knows, each with a description.
fn described(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path} has no description");
        described(property, &path, found);
    }
    if schema.get("properties").is_some() {
        assert_eq!(schema["additionalProperties"], json!(false), "{path} lets misspelt keys through");
    }
}

#[test]
fn the_schema_knows_each_value_and_no_other() {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let (mut there, mut known) = (BTreeSet::new(), BTreeSet::new());
    paths(&values, &schema, "", &mut there);
    described(&schema, "", &mut known);
    let missing: Vec<_> = known.difference(&there).collect();
    assert_eq!(missing, ["/global", "/resources/claims"], "in the schema, not in values.yaml");
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (given, expected) in [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("replicas=11", "at '/replicas': maximum: got 11, want 10"),
        ("scope.mode=namespaced", "at '/scope/mode': value must be one of 'Cluster', 'Namespaced'"),
        ("scope.namespaces={a}", "at '/scope': additional properties 'namespaces' not allowed"),
        ("image.tag=1", "at '/image/tag': got number, want string"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("image.repository=ghcr.io/trainyard/operator:latest", "at '/image/repository'"),
        ("leaseSeconds=2", "at '/leaseSeconds': minimum: got 2, want 3"),
        ("log.format=xml", "at '/log/format': value must be one of 'Json', 'Text'"),
        ("log.level=", "at '/log/level': minLength: got 0, want 1"),
        ("tracing.endpoint=collector:4318", "at '/tracing/endpoint'"),
        ("metrics.serviceMonitor.interval=30", "at '/metrics/serviceMonitor/interval'"),
        ("runtimes=null", "missing property 'runtimes'"),
        ("metrics.service=null", "at '/metrics': missing property 'service'"),
        ("runtimes={cpu}", "at '/runtimes/0': got string, want object"),
        ("runtimes[0].cuda=13", "at '/runtimes/0/cuda': got number, want string"),
        ("runtimes[0].architectures={x86-64}", "at '/runtimes/0/architectures/0'"),
        ("runtimes[0].imgae=a", "additional properties 'imgae' not allowed"),
        ("resources.limits.memory=lots", "at '/resources/limits/memory'"),
        ("networkPolicy.apiServerPorts={https}", "at '/networkPolicy/apiServerPorts/0': got string, want integer"),
        ("crds.enabled=maybe", "at '/crds/enabled': got string, want boolean"),
    ] {
        let ran = chart::template("trainyard", "trainyard", &["--set", given]);
        assert!(!ran.ok && ran.err.contains(expected), "{given}: {}", ran.err);
    }
    let [monitor, service] = ["metrics.serviceMonitor.enabled=true", "metrics.service.enabled=false"];
    let ran = chart::template("trainyard", "trainyard", &["--set", monitor, "--set", service]);
    assert!(ran.err.contains("metrics.serviceMonitor.enabled needs metrics.service.enabled"), "{}", ran.err);
    let ran = chart::template("trainyard", "trainyard", &["--set", "scope.namespace=vision"]);
    assert!(ran.err.contains("scope.namespace needs scope.mode=Namespaced"), "{}", ran.err);
}

#[test]
fn versions_and_catalogue_are_those_of_the_code() {
    let chart: Value = serde_saphyr::from_str(&read("Chart.yaml")).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(env!("CARGO_PKG_VERSION")))
    );

    for (set, names) in [("default", vec!["cuda-13.0", "cpu"]), ("production", vec!["cuda-13.0", "cuda-12.8", "cpu"])] {
        let objects = chart::objects(&crate::golden::rendered(set, "trainyard", &[]));
        let text = objects.iter().find_map(|object| object["data"]["catalogue.yaml"].as_str()).unwrap();
        let catalogue = Catalogue::parse(text).unwrap();
        assert_eq!(catalogue.runtimes().iter().map(|runtime| &runtime.name).collect::<Vec<_>>(), names);
        if set == "default" {
            assert_eq!(catalogue, Catalogue::built_in());
            let cpu = catalogue.for_cpus().map(|runtime| runtime.image.clone());
            assert_eq!(cpu, Some(Product::Trainer.released()), "jobs on CPUs pull the small image that is released");
        }
    }
}
