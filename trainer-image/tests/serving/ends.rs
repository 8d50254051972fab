//! How a server ends, and how a model takes the place of another one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::client::{get, post_image, request_of, send};
use crate::grpc::{Channel, NOT_SERVING, SERVING};
use crate::model::{copy_of, png, trained};
use crate::server::{Server, wait_until};

#[test]
fn what_was_taken_in_is_answered_before_the_end() {
    let model = trained("first");
    let arguments = [model.to_str().unwrap(), "--device", "Cpu", "--max-batch-size", "4", "--drain-seconds", "1"];
    let server = Server::start(&arguments);
    let body = serde_json::to_vec(&request_of(&vec![png(true, 1); 200])).unwrap();
    let json = [("Content-Type", "application/json")];
    let long = send(server.rest, "POST /v2/models/first/infer", &json, &body);
    wait_until("image that is computed", || server.metric("trainyard_serving_images_total") >= 1.0);
    server.signal(Signal::SIGTERM);
    wait_until("server that is not ready", || get(server.rest, "/v2/health/ready").status == 503);
    // Whoever has not heard of it yet is still answered, and asked to go elsewhere.
    let agent = ureq::Agent::new_with_defaults();
    let answer = agent.get(format!("http://{}/v2/health/live", server.rest)).call().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["connection"].to_str().unwrap()), (200, "close"));
    let answer = long.answer();
    assert_eq!((answer.status, answer.json()["outputs"][1]["data"].as_array().unwrap().len()), (200, 200));
    assert_eq!(server.end(), Some(0));
}

/// Puts the second model in the place of one, as a training commits it: the card last.
fn put_second(model: &Path) {
    let staged = model.with_extension("staged");
    for file in ["model.safetensors", "metrics.json", "model.json"] {
        fs::copy(trained("second").join(file), &staged).unwrap();
        fs::rename(&staged, model.join(file)).unwrap();
    }
}

#[test]
fn a_request_that_was_let_in_is_answered_by_its_version_although_another_one_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("live");
    copy_of("first", &model);
    let server = Server::start(&[model.to_str().unwrap(), "--device", "Cpu", "--watch-seconds", "1"]);
    let version = || get(server.rest, "/v2/models/live").json()["versions"][0].as_str().unwrap().to_owned();
    let (old, image) = (version(), png(true, 1));
    let line = format!("POST /v2/models/live/versions/{old}/infer");
    let headers = [("Content-Type", "image/png"), ("Content-Length", &image.len().to_string())];
    let (begin, rest) = image.split_at(10);
    let slow = send(server.rest, &line, &headers, begin);
    // The server looks for it once a second, and loads it: by then the head of the request has been read.
    put_second(&model);
    wait_until("new version", || version() != old);
    let answer = slow.more(rest).answer();
    assert_eq!((answer.status, answer.json()["model_version"].as_str().unwrap()), (200, old.as_str()));
    // From now on it is gone.
    assert_eq!(send(server.rest, &line, &headers, &image).answer().status, 404);
}

#[test]
fn who_watches_the_health_of_grpc_does_not_hold_up_the_end() {
    let model = trained("first");
    let arguments = [model.to_str().unwrap(), "--device", "Cpu", "--max-batch-size", "4", "--drain-seconds", "1"];
    let server = Server::start(&arguments);
    let channel = Channel::new(server.grpc);
    let mut watch = channel.watch();
    while watch.next() != Some(SERVING) {}
    let images = vec![png(true, 1); 100];
    let asked = channel.infer("first", &images);
    wait_until("image that is computed", || server.metric("trainyard_serving_images_total") >= 1.0);
    server.signal(Signal::SIGTERM);
    assert_eq!((watch.next(), watch.next()), (Some(NOT_SERVING), None));
    assert_eq!(asked.status(), "0");
    let (code, log) = server.end_with_log();
    assert_eq!(code, Some(0));
    assert!(log.contains("stopped") && !log.contains("some requests were not answered"), "{log}");
}

#[test]
fn a_new_version_that_can_not_be_loaded_yet_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("live");
    copy_of("first", &model);
    let server = Server::start(&[model.to_str().unwrap(), "--device", "Cpu", "--watch-seconds", "1"]);
    let version = || get(server.rest, "/v2/models/live").json()["versions"][0].as_str().unwrap().to_owned();
    let held_up = || get(server.rest, "/serving").json()["heldUp"].as_str().unwrap_or_default().to_owned();
    let old = version();
    // As somebody copies a folder who knows nothing of an order.
    fs::copy(trained("second").join("model.json"), model.join("model.json")).unwrap();
    wait_until("failure", || server.metric("trainyard_serving_failed_model_swaps_total") >= 1.0);
    let why = held_up();
    assert!(why.contains("is not the recorded one") && why.ends_with("it is tried again"), "{why}");
    assert_eq!((version(), get(server.rest, "/v2/health/ready").status), (old.clone(), 200));
    for file in ["model.safetensors", "metrics.json"] {
        fs::copy(trained("second").join(file), model.join(file)).unwrap();
    }
    wait_until("new version", || version() != old);
    assert_eq!(held_up(), "");
}

#[test]
fn a_new_version_takes_the_place_of_the_old_one_without_a_failed_request() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("live");
    copy_of("first", &model);
    let server = Server::start(&[model.to_str().unwrap(), "--device", "Cpu", "--watch-seconds", "1"]);
    let version = || get(server.rest, "/v2/models/live").json()["versions"][0].as_str().unwrap().to_owned();
    let old = version();
    let (done, address) = (Arc::new(AtomicBool::new(false)), server.rest);
    let clients: Vec<_> = (0..3)
        .map(|index| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let answer = post_image(address, "/v2/models/live/infer", "image/png", &png(true, index));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    seen.push(answer.json()["model_version"].as_str().unwrap().to_owned());
                }
                seen
            })
        })
        .collect();
    put_second(&model);
    wait_until("new version", || version() != old);
    let new = version();
    // One that is broken stays outside, and the server stays ready.
    let card = fs::read_to_string(model.join("model.json")).unwrap().replace("\"right\"", "\"wrong\"");
    fs::write(model.join("model.json"), card.replace("\"classes\": [", "\"classes\": [\"third\",")).unwrap();
    wait_until("refusal in the log", || server.log().contains("the new version can't be served, the old one stays"));
    assert_eq!((version(), get(server.rest, "/v2/health/ready").status), (new.clone(), 200));
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.join().unwrap();
        assert!(seen.iter().all(|version| *version == old || *version == new), "{seen:?}");
        let turn = seen.iter().position(|version| *version == new).unwrap_or(seen.len());
        assert!(seen[turn..].iter().all(|version| *version == new), "there is no way back: {seen:?}");
    }
    assert_eq!(server.metric("trainyard_serving_model_swaps_total"), 1.0);
}
