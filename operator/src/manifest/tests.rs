//! Manifests with faults, and where the faults are said to be.

use serde_json::{Value, json};

use super::{File, LocatedFault, Setting};

const JOB: &str = "\
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata:
  name: digits
spec:
  data:
    uri: file:///data
  training:
    epochs: 3
  output:
    uri: file:///out
";

fn faults(text: &str) -> Vec<LocatedFault> {
    match File::parse("job.yaml", text) {
        Err(fault) => vec![fault],
        Ok(file) => file.check().err().unwrap_or_default(),
    }
}

/// The faults as `line:column path: message`.
fn told(text: &str) -> Vec<String> {
    let line = |fault: &LocatedFault| format!("{}:{} {}: {}", fault.line, fault.column, fault.path, fault.message);
    faults(text).iter().map(line).collect()
}

#[test]
fn a_good_manifest_has_no_faults() {
    assert_eq!(told(JOB), Vec::<String>::new());
}

#[test]
fn a_fault_shows_its_line_with_a_caret_below_the_value() {
    let text = JOB.replace("epochs: 3", "epochs: 0");
    let shown = faults(&text).iter().map(ToString::to_string).collect::<String>();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("job.yaml:9:13: spec.training.epochs: "), "{shown}");
    assert_eq!(lines[1..3], ["  9 |     epochs: 0", "    |             ^"]);
}

#[test]
fn faults_of_yaml_itself_have_a_place_too() {
    let mut wrong = Vec::new();
    for (what, text, line, column) in [
        ("a tab", JOB.replace("    epochs: 3", "\tepochs: 3"), 9, 2),
        ("a bracket that stays open", JOB.replace("uri: file:///out", "uri: [file:///out"), 11, 10),
        ("a field given twice", JOB.replace("    epochs: 3", "    epochs: 3\n    epochs: 4"), 10, 5),
        ("a list as a name", JOB.replace("    epochs: 3", "    ? [epochs]\n    : 3"), 9, 7),
        ("an unknown tag", JOB.replace("epochs: 3", "epochs: !many 3"), 9, 19),
        ("not a number", JOB.replace("epochs: 3", "epochs: .nan"), 9, 13),
        ("an unknown anchor", JOB.replace("epochs: 3", "epochs: *n"), 9, 13),
        ("nothing", "# nothing\n".to_owned(), 1, 1),
    ] {
        let found = faults(&text);
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        if (found[0].line, found[0].column) != (line, column) {
            wrong.push(format!("{what}: {}", found[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn group_and_kind_are_checked_first() {
    for (from, to, line, path) in [
        ("trainyard.dev/v1alpha1", "trainyard.dev/v1", 1, "apiVersion"),
        ("kind: TrainingJob", "kind: Job", 2, "kind"),
        ("name: digits", "name: Digits", 4, "metadata.name"),
    ] {
        let found = faults(&JOB.replace(from, to));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].path.as_str()), (line, path), "{}", found[0]);
    }
}

#[test]
fn each_document_of_a_file_is_checked() {
    let text =
        format!("{JOB}---\n{}---\n---\n{}", JOB.replace("epochs: 3", "epochs: x"), JOB.replace("epochs", "epoch"));
    let places: Vec<(usize, usize)> = faults(&text).iter().map(|fault| (fault.line, fault.column)).collect();
    assert_eq!(places, [(21, 13), (34, 5)]);
}

#[test]
fn two_jobs_of_one_file_have_names_and_outputs_of_their_own() {
    let other = JOB.replace("name: digits", "name: letters");
    let elsewhere = other.replace("/out", "/other");
    let apart = JOB.replace("  name: digits", "  name: digits\n  namespace: b");
    for (second, expected) in [
        (JOB, vec!["16:9 metadata.name: the TrainingJob digits is in this file already"]),
        (&other, vec!["23:10 spec.output.uri: file:///out is the output of the TrainingJob digits in this file too"]),
        (&elsewhere, vec![]),
        (&apart, vec![]),
    ] {
        assert_eq!(told(&format!("{JOB}---\n{second}")), expected, "{second}");
    }
}

#[test]
fn rules_point_at_what_they_are_about() {
    let text = JOB.replace(
        "    uri: file:///data",
        "    uri: file:///data\n    augmentation: {randomResizedCrop: {maxScale: 0.01}}",
    );
    let found = told(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("8:20 spec.data.augmentation.randomResizedCrop.minScale: "), "{found:?}");
}

#[test]
fn aliases_and_merge_keys_mean_what_they_mean_to_kubectl() {
    let text = JOB.replace("  training:\n", "  training:\n    <<: &base {batchSize: 4, epochs: 9}\n");
    let file = File::parse("job.yaml", &text).expect("it is YAML");
    let manifests = file.check().expect("it is valid");
    assert_eq!(manifests[0].value["spec"]["training"], json!({"batchSize": 4, "epochs": 3}));
}

#[test]
fn a_small_file_that_is_a_giant_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..8 {
        let before = format!("*a{}", level - 1);
        let list = vec![before; 10].join(", ");
        text += &format!("a{level}: &a{level} [{list}]\n");
    }
    let found = faults(&text);
    assert!(found[0].message.contains("values"), "{}", found[0]);
}

fn set(settings: &[&str]) -> Result<Result<Value, Vec<String>>, String> {
    let settings: Result<Vec<Setting>, _> = settings.iter().map(|text| Setting::parse(text)).collect();
    let mut file = File::parse("job.yaml", JOB).expect("it is YAML");
    file.set(&settings.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    Ok(match file.check() {
        Ok(manifests) => Ok(manifests[0].value["spec"].clone()),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
    })
}

#[test]
fn set_changes_a_field_by_the_rules_of_yaml() {
    let spec = set(&["spec.training.epochs=7", "spec.infrastructure.device=Cpu", "spec.runPolicy={suspend: yes}"]);
    let spec = spec.expect("fields").expect("valid");
    assert_eq!(spec["training"], json!({"epochs": 7}));
    assert_eq!(spec["infrastructure"], json!({"device": "Cpu"}));
    assert_eq!(spec["runPolicy"], json!({"suspend": true}));
    let spec = set(&["spec.infrastructure.pod.env[0].name=A", "spec.infrastructure.pod.env[0].value=\"1\""]);
    assert_eq!(
        spec.expect("fields").expect("valid")["infrastructure"]["pod"]["env"],
        json!([{"name": "A", "value": "1"}])
    );
}

#[test]
fn a_set_that_can_not_be_says_why() {
    for (setting, message) in [
        ("epochs", "--set epochs: write a field and its value, such as --set spec.training.epochs=3"),
        ("=3", "--set =3: write a field and its value, such as --set spec.training.epochs=3"),
        (
            "spec.training.epocs=3",
            "--set spec.training.epocs=3: spec.training.epocs is not a field of TrainingJob. Did you mean epochs?",
        ),
        ("status.phase=Failed", "--set status.phase=Failed: status.phase is not a field of TrainingJob."),
        ("spec.training.epochs=[1", "--set spec.training.epochs=[1: the value is no YAML: "),
        (
            "spec.infrastructure.pod.env[1].name=A",
            "--set spec.infrastructure.pod.env[1].name=A: there is no item 1 in the list; it can be 0 at most, which adds one",
        ),
    ] {
        let error = set(&[setting]).expect_err(setting);
        assert!(error.starts_with(message), "{error}");
    }
    let faults = set(&["spec.training.epochs=many"]).expect("a field").expect_err("no number");
    assert!(
        faults[0].starts_with("--set spec.training.epochs=many: spec.training.epochs: must be a whole number"),
        "{faults:?}"
    );
}

/// A wrong value for a field with this schema, and how it stands in YAML: a word that stands nowhere else.
fn wrong(schema: &Value) -> (Value, &'static str) {
    let text = schema.get("type") == Some(&json!("string")) && schema.get("enum").is_none();
    if text { (json!(987_654_321), "987654321") } else { (json!("wr0ng"), "wr0ng") }
}

/// Every field of a schema as the manifests that have it wrong: path, manifest, the word that is wrong.
fn each_field_wrong(
    schema: &Value,
    path: &str,
    build: &dyn Fn(Value) -> Value,
    cases: &mut Vec<(String, Value, &'static str)>,
) {
    let (value, word) =
        if schema.get("x-kubernetes-int-or-string").is_some() { (json!("wr0ng"), "wr0ng") } else { wrong(schema) };
    cases.push((path.to_owned(), build(value), word));
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            each_field_wrong(property, &format!("{path}.{name}"), &|value| build(json!({ name: value })), cases);
        }
        if schema.get("x-kubernetes-preserve-unknown-fields").is_none() {
            cases.push((format!("{path}.wr0ngField"), build(json!({"wr0ngField": 1})), "wr0ngField"));
        }
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        each_field_wrong(values, &format!("{path}.key"), &|value| build(json!({"key": value})), cases);
    }
    if let Some(items) = schema.get("items") {
        each_field_wrong(items, &format!("{path}[0]"), &|value| build(json!([value])), cases);
    }
}

/// `over` laid over `base`.
fn merged(base: &Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut all = base.clone();
            for (name, value) in over {
                let value = base.get(&name).map_or(value.clone(), |below| merged(below, value));
                all.insert(name, value);
            }
            Value::Object(all)
        }
        (_, over) => over,
    }
}

#[test]
fn each_field_wrong_once_is_found_at_its_place() {
    let training = json!({"data": {"uri": "file:///data"}, "output": {"uri": "file:///out"}});
    let scoring = json!({"model": {"uri": "file:///m"}, "data": {"uri": "file:///d"}, "output": {"uri": "file:///o"}});
    let mut count = 0;
    for (kind, schema, base) in [
        ("TrainingJob", crds::manifest::schema::<crds::TrainingJob>(), training),
        ("ScoringJob", crds::manifest::schema::<crds::ScoringJob>(), scoring),
    ] {
        let mut cases = Vec::new();
        each_field_wrong(&schema["properties"]["spec"], "spec", &|value| value, &mut cases);
        count += cases.len();
        for (path, spec, word) in cases {
            let manifest = json!({
                "apiVersion": "trainyard.dev/v1alpha1",
                "kind": kind,
                "metadata": {"name": "a"},
                "spec": merged(&base, spec),
            });
            let text = serde_saphyr::to_string(&manifest).expect("YAML");
            let (index, line) = text.lines().enumerate().find(|(_, line)| line.contains(word)).expect("the wrong word");
            let column = line.find(word).expect("the wrong word") + 1;
            let found = faults(&text);
            let at = found.iter().find(|fault| fault.path == path);
            let at = at.unwrap_or_else(|| panic!("{kind} {path}: not among {found:?}\n{text}"));
            assert_eq!((at.line, at.column), (index + 1, column), "{kind} {path}: {at}\n{text}");
        }
    }
    assert!(count > 200, "{count} fields");
}
