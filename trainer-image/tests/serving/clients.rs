//! The public clients of the protocol, as their documentation says, and a fuzzer that reads the OpenAPI document.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::model::{CLASSES, trained};
use crate::server::Server;

/// The Python that has the clients.
fn python() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python.sh");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn server() -> Server {
    Server::start(&[trained("first").to_str().unwrap(), "--device", "Cpu", "--explain"])
}

#[test]
fn tritonclient_works_over_http_and_grpc() {
    let server = server();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serving/clients.py");
    let output = Command::new(python())
        .arg(script)
        .args([server.rest.to_string(), server.grpc.to_string(), "first".to_owned()])
        .arg(trained("images").join("right/002.png"))
        .args(CLASSES)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "the clients agree\n");
}

#[test]
fn grpc_asks_for_the_token_and_its_health_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let server = Server::start(&[trained("first").to_str().unwrap(), "--token-file", token.to_str().unwrap()]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serving/bearer.py");
    let output =
        Command::new(python()).arg(script).args([&server.grpc.to_string(), "first", "secret"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "only those who bear it\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_stream_that_is_open_does_not_hold_up_the_end() {
    let server = server();
    let mut client = Command::new(python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serving/stream.py"))
        .args([&server.grpc.to_string(), "first"])
        .arg(trained("images").join("right/002.png"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    server.signal(Signal::SIGTERM);
    assert_eq!(lines.next().unwrap().unwrap(), "StatusCode.UNAVAILABLE the server stops: open a stream anew");
    assert_eq!(server.end(), Some(0));
    assert!(client.wait().unwrap().success());
}

#[test]
fn whatever_the_openapi_document_allows_makes_no_error_of_the_server() {
    let server = server();
    let output = Command::new(python().with_file_name("schemathesis"))
        .args(["run", &format!("http://{}/openapi.json", server.rest), "--no-color", "--seed", "1"])
        .current_dir(std::env!("CARGO_TARGET_TMPDIR"))
        .args(["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--generation-database", "none"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
