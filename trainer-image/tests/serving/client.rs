//! A client of HTTP that does as it is told, also what a good client doesn't.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Status and sentence of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"].as_str().unwrap().to_owned())
    }
}

/// A request that was sent and not answered yet.
pub(crate) struct Pending(TcpStream);

/// Sends the head of a request, and what is given of its body.
pub(crate) fn send(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Pending {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) && line.starts_with("POST") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    Pending(stream)
}

impl Pending {
    /// Waits for the answer.
    pub(crate) fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no answer: {:?}", String::from_utf8_lossy(&bytes));
        });
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pairs = lines.map(|line| line.split_once(": ").unwrap());
        let headers: BTreeMap<_, _> = pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let body = bytes[end + 4..].to_vec();
        assert_eq!(headers.get("content-length").map(String::as_str), Some(body.len().to_string().as_str()), "{head}");
        Answer { status, headers, body }
    }

    /// Sends more of the body.
    pub(crate) fn more(mut self, body: &[u8]) -> Pending {
        self.0.write_all(body).unwrap();
        self
    }

    /// Goes without waiting.
    pub(crate) fn leave(self) {
        drop(self.0);
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path}"), &[], b"").answer()
}

/// Posts JSON.
pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    send(address, &format!("POST {path}"), &[("Content-Type", "application/json")], &body).answer()
}

/// Posts an image.
pub(crate) fn post_image(address: SocketAddr, path: &str, media_type: &str, image: &[u8]) -> Answer {
    send(address, &format!("POST {path}"), &[("Content-Type", media_type)], image).answer()
}

/// An inference request with these images as base64.
pub(crate) fn request_of(images: &[Vec<u8>]) -> Value {
    use base64::Engine as _;
    let data: Vec<String> =
        images.iter().map(|image| base64::engine::general_purpose::STANDARD.encode(image)).collect();
    serde_json::json!({"inputs": [{"name": "image", "shape": [data.len()], "datatype": "BYTES", "data": data}]})
}
