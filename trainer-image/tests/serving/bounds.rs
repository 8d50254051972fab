//! What a server bounds: bytes, pixels, images that wait, time, and what it does for clients who have left.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use image::ImageFormat;
use nix::sys::signal::Signal;

use crate::client::{get, post, post_image, request_of, send};
use crate::model::{encoded, png, trained};
use crate::server::{Server, wait_until};

const INFER: &str = "/v2/models/first/infer";

fn server(arguments: &[&str]) -> Server {
    Server::start(&[&[trained("first").to_str().unwrap(), "--device", "Cpu"], arguments].concat())
}

/// Images enough to keep the network busy for seconds, one by one.
fn many(count: u32) -> serde_json::Value {
    request_of(&(0..count).map(|index| png(index % 2 == 0, index)).collect::<Vec<_>>())
}

const ONE_BY_ONE: [&str; 4] = ["--max-batch-size", "1", "--max-queue", "1500"];

#[test]
fn more_bytes_pixels_or_images_than_allowed_are_refused() {
    let server = server(&["--max-request-bytes", "2048", "--max-pixels", "2000", "--max-queue", "3"]);
    let body = vec![b'x'; 3000];
    let refused = post_image(server.rest, INFER, "image/png", &body).refusal();
    assert_eq!(refused, (413, "the body has more than the 2048 bytes allowed".to_owned()));
    // Also when its length is not announced, or a lie.
    let chunked = [("Content-Type", "image/png"), ("Transfer-Encoding", "chunked"), ("Content-Length", "0")];
    let mut stream = TcpStream::connect(server.rest).unwrap();
    write!(
        stream,
        "POST {INFER} HTTP/1.1\r\nHost: x\r\n{}: {}\r\n{}: {}\r\n\r\n",
        chunked[0].0, chunked[0].1, chunked[1].0, chunked[1].1
    )
    .unwrap();
    // The server reads twice what is allowed, answers, and hangs up.
    while stream.write_all(format!("3e8\r\n{}\r\n", "x".repeat(1000)).as_bytes()).is_ok() {
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 413");
            break;
        }
    }
    let large = encoded(&image::RgbImage::new(50, 41), ImageFormat::Png);
    let refused = post_image(server.rest, INFER, "image/png", &large).refusal();
    assert_eq!(refused, (413, "50 x 41 pixels are more than the 2000 allowed".to_owned()));
    let small = encoded(&image::RgbImage::new(1, 1), ImageFormat::Png);
    let refused = post(server.rest, INFER, &request_of(&vec![small; 4])).refusal();
    let nobody = post(server.rest, "/v2/models/nobody/infer", &request_of(&[])).status;
    let unknown = r#"trainyard_serving_requests_total{protocol="rest",method="infer",model="",code="404"}"#;
    assert_eq!((nobody, server.metric(unknown)), (404, 1.0));
    let sentence = "there are more images in the request than the 3 that may wait: send them in parts";
    assert_eq!(refused, (413, sentence.to_owned()));
}

#[test]
fn what_comes_beyond_the_queue_is_refused_and_what_those_who_left_asked_is_not_computed() {
    let server = server(&ONE_BY_ONE);
    let all = serde_json::to_vec(&many(1500)).unwrap();
    let line = format!("POST {INFER}");
    let long = send(server.rest, &line, &[("Content-Type", "application/json")], &all);
    wait_until("image that is computed", || server.metric("trainyard_serving_images_total") >= 1.0);
    let refused = send(server.rest, &line, &[("Content-Type", "application/json")], &all).answer();
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (429, "1"));
    assert!(refused.refusal().1.ends_with(" images wait already, and no more than 1500 may: try again later"));
    let few = post(server.rest, INFER, &request_of(&[b"not an image".to_vec()])).status;
    assert!(few == 400 || few == 429, "{few}");

    long.leave();
    wait_until("empty queue", || server.metric("trainyard_serving_waiting_images") == 0.0);
    let computed = server.metric("trainyard_serving_images_total");
    assert!(computed < 1500.0, "{computed} images were computed for nobody");
    let left = r#"trainyard_serving_requests_total{protocol="rest",method="infer",model="first",code="499"}"#;
    assert_eq!(server.metric(left), 1.0);
    let stats = get(server.rest, "/v2/models/first/stats").json();
    // Who left, and those who were refused.
    let failed = stats["model_stats"][0]["inference_stats"]["fail"]["count"].as_u64().unwrap();
    assert_eq!(failed, 3, "{stats}");
    assert_eq!(post_image(server.rest, INFER, "image/png", &png(true, 1)).status, 200);
}

#[test]
fn what_takes_too_long_is_ended() {
    let server = server(&[&ONE_BY_ONE[..], &["--timeout-seconds", "1"]].concat());
    let refused = post(server.rest, INFER, &many(1500)).refusal();
    assert_eq!(refused, (504, "there was no answer within 1 seconds".to_owned()));
    wait_until("empty queue", || server.metric("trainyard_serving_waiting_images") == 0.0);
    // A body that doesn't come.
    let slow =
        send(server.rest, &format!("POST {INFER}"), &[("Content-Type", "image/png"), ("Content-Length", "9")], b"x");
    assert_eq!(slow.answer().refusal(), (408, "the request did not arrive within 1 seconds".to_owned()));
}

#[test]
fn bodies_that_do_not_come_hold_no_room_and_are_ended() {
    let server = server(&["--header-timeout-seconds", "5", "--max-request-bytes", "1048576"]);
    let mut silent: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(server.rest).unwrap();
            write!(
                stream,
                "POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1048576\r\n\r\nx"
            )
            .unwrap();
            stream
        })
        .collect();
    assert_eq!(post_image(server.rest, INFER, "image/png", &png(true, 1)).status, 200);
    // It was answered beside them, and not after one of them.
    let (first, rest) = silent.split_first_mut().unwrap();
    for stream in rest {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
    let mut answer = String::new();
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The server hangs up on what it has not read.
    let _ = first.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("nothing of the request arrived for 5 seconds: send its body without a pause"), "{answer}");
}

/// Clients that have sent a part of their requests' heads.
fn dawdlers(server: &Server, count: usize) -> Vec<TcpStream> {
    let dawdle = |_| {
        let mut dawdler = TcpStream::connect(server.rest).unwrap();
        dawdler.write_all(b"GET /v2/heal").unwrap();
        dawdler
    };
    (0..count).map(dawdle).collect()
}

#[test]
fn clients_that_dawdle_hold_nobody_up() {
    let server = server(&["--max-connections", "4"]);
    let dawdlers = dawdlers(&server, 4);
    for _ in 0..3 {
        assert_eq!(get(server.rest, "/v2/health/live").status, 200);
    }
    // All places were taken: one made room, long before its time was over.
    let is_open = |mut dawdler: &TcpStream| {
        dawdler.set_nonblocking(true).unwrap();
        dawdler.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    assert_eq!(dawdlers.iter().filter(|dawdler| is_open(dawdler)).count(), 3);
}

#[test]
fn clients_that_dawdle_are_cut_off() {
    let server = server(&["--header-timeout-seconds", "1"]);
    for mut dawdler in dawdlers(&server, 4) {
        let mut rest = Vec::new();
        // Some are told why, with 408; none gets more.
        let _ = dawdler.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&rest));
    }
    // So it is with gRPC.
    let mut silent = TcpStream::connect(server.grpc).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    silent.write_all(b"PRI * HTTP").unwrap();
    let mut rest = Vec::new();
    let ended = silent.read_to_end(&mut rest).map_err(|error| error.kind());
    assert!(ended.is_ok() || ended == Err(ErrorKind::ConnectionReset), "{ended:?}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end(), Some(0));
}
