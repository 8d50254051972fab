//! Folders that are not what they say: a server that can't trust its model doesn't start, and says why.

use std::fs;
use std::path::Path;

use crds::contract::{Cause, env};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::model::{copy_of, trained, uri};
use crate::server::failure;

/// Changes the card of a folder.
fn card(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("model.json");
    let mut card: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut card);
    fs::write(path, serde_json::to_vec(&card).unwrap()).unwrap();
}

/// Puts other weights in a folder, with the right digest.
fn weights(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    card(folder, |card| card["files"]["model.safetensors"] = json!(format!("sha256:{digest}")));
}

/// A safetensors file with this header.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_folder_that_lies_is_not_served() {
    let table: [(&str, fn(&Path), &str); 13] = [
        ("no card", |folder| fs::remove_file(folder.join("model.json")).unwrap(), "can't read the model"),
        ("no weights", |folder| fs::remove_file(folder.join("model.safetensors")).unwrap(), "can't read"),
        (
            "tampered weights",
            |folder| {
                let mut bytes = fs::read(folder.join("model.safetensors")).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(folder.join("model.safetensors"), bytes).unwrap();
            },
            "the digest of model.safetensors is not the recorded one",
        ),
        ("a card that is no JSON", |folder| fs::write(folder.join("model.json"), "{").unwrap(), "not a model card"),
        (
            "a card without end",
            |folder| fs::File::create(folder.join("model.json")).unwrap().set_len(1 << 40).unwrap(),
            "more than 268435456 bytes are no model card",
        ),
        (
            "a million classes",
            |folder| {
                let classes: Vec<String> = (0..1_000_000).map(|index| format!("class {index}")).collect();
                card(folder, |card| card["classes"] = json!(classes));
            },
            "names 1000000 classes, and no layer of the weights has as many outputs",
        ),
        ("no class", |folder| card(folder, |card| card["classes"] = json!([])), "names 0 classes"),
        (
            "an image of a million pixels a side",
            |folder| card(folder, |card| card["preprocessing"]["cropSize"] = json!(1_000_000)),
            "both must be from 1 to 8192",
        ),
        (
            "another preprocessing",
            |folder| card(folder, |card| card["preprocessing"]["mean"] = json!([0.0, 0.0, 0.0])),
            "its preprocessing is not the one this trainer computes",
        ),
        ("a header longer than the file", |folder| weights(folder, &u64::MAX.to_le_bytes()), "not a safetensors file"),
        (
            "a tensor beyond the end",
            |folder| {
                let header = r#"{"fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8000000000]}}"#;
                weights(folder, &safetensors(header, &[0; 8]));
            },
            "not a safetensors file",
        ),
        (
            "a tensor larger than memory",
            |folder| {
                let header = r#"{"fc.bias":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
                weights(folder, &safetensors(header, &[0; 8]));
            },
            "not a safetensors file",
        ),
        (
            "a weight that is no number",
            |folder| {
                let mut bytes = fs::read(folder.join("model.safetensors")).unwrap();
                let last = bytes.len() - size_of::<f32>();
                bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
                weights(folder, &bytes);
            },
            "holds a value that is not finite (NaN)",
        ),
    ];
    let root = tempfile::tempdir().unwrap();
    for (index, (what, spoil, sentence)) in table.into_iter().enumerate() {
        let folder = root.path().join(index.to_string());
        copy_of("first", &folder);
        spoil(&folder);
        let (code, message) = failure(&[folder.to_str().unwrap(), "--device", "Cpu"], &[]);
        let cause =
            if what.starts_with("no card") || what == "no weights" { Cause::DataMissing } else { Cause::BadData };
        assert!(message.message.contains(sentence), "{what}: {message:?}");
        assert_eq!((code, message.cause), (cause.exit_code(), cause), "{what}: {message:?}");
    }
}

#[test]
fn another_model_than_that_of_the_revision_is_not_served() {
    let folder = trained("first");
    let assignment = json!({
        "contractVersion": 1, "kind": "ModelEndpoint", "name": "first", "namespace": "a", "uid": "u", "attempt": 3,
        "member": 0, "members": 1,
        "spec": {"model": {"uri": uri(&folder)}, "infrastructure": {"device": "Cpu"}},
    });
    let (assignment, other) = (assignment.to_string(), format!("sha256:{}", "0".repeat(64)));
    let (code, message) = failure(&[], &[(env::ASSIGNMENT, &assignment), (env::MODEL_DIGEST, &other)]);
    let holds = format!("{} holds another model (sha256:", folder.display());
    let than = format!(") than that of revision 3 ({other})");
    assert!(message.message.contains(&holds) && message.message.contains(&than), "{message:?}");
    assert_eq!((code, message.cause), (Cause::BadData.exit_code(), Cause::BadData));
}

#[test]
fn what_can_not_be_served_is_said_at_once() {
    let model = trained("first");
    let model = model.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let table: [(&[&str], Cause, &str); 4] = [
        (&[], Cause::BadSpec, "there is no model to serve"),
        (&["s3:/x"], Cause::DataMissing, "can't read the model"),
        (&[model, "--token-file", "/nowhere/token"], Cause::DataMissing, "can't read the token from /nowhere/token"),
        (&[model, "--port", &port], Cause::BadSpec, "can't listen at port"),
    ];
    for (arguments, cause, sentence) in table {
        let (code, message) = failure(arguments, &[]);
        assert!(message.message.contains(sentence), "{arguments:?}: {message:?}");
        assert_eq!((code, message.cause), (cause.exit_code(), cause), "{arguments:?}: {message:?}");
    }
}
