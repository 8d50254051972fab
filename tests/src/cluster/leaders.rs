//! Leaders of gangs, played: pods that KWOK plays have no process, so that a test answers in its place when the operator asks
//! how far it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Pods;

/// Answers `GET /progress` on an address until it is dropped.
pub struct Leader {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Instant>>>,
    answers: JoinHandle<()>,
}

impl Leader {
    /// Answers on an address of the loopback network: `answer` gets how often it was asked before.
    ///
    /// # Panics
    /// Where the address is taken.
    pub async fn start(address: (Ipv4Addr, u16), answer: impl Fn(usize) -> Value + Send + 'static) -> Leader {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|fault| panic!("{address:?}: {fault}"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let answers = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let before = {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push(Instant::now());
                    log.len() - 1
                };
                tokio::spawn(say(connection, answer(before).to_string()));
            }
        });
        Leader { address: address.into(), asked, answers }
    }

    /// When it was asked.
    pub fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that a pod has this address.
    pub async fn lead(&self, pods: &Pods<'_>, pod: &str) {
        let address = self.address.ip();
        pods.patch_status(pod, json!({"podIP": address, "podIPs": [{"$patch": "replace"}, {"ip": address}]})).await;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// Reads a request to its end and answers it. One that breaks off has no answer.
async fn say(mut connection: TcpStream, body: String) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length";
    // Who no longer listens needs no answer.
    let _ = connection.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
}
