use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// More than all buffers of a connection take.
const LARGE: usize = 64 << 20;
/// What takes longer hangs.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// A server of one page that is small, one that is large, one that waits, and one that reads.
struct Yard {
    address: SocketAddr,
    go_on: Arc<Notify>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

async fn yard(most: usize, protocol: Protocol, silence: Duration, end: Duration) -> Yard {
    let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let large = Bytes::from(vec![b'x'; LARGE]);
    let router = Router::new()
        .route("/", get("hello"))
        .route("/large", get(move || std::future::ready(large.clone())))
        .route("/slow", get(move || Arc::clone(&wait).notified_owned()))
        .route("/read", post(async |body: Bytes| body));
    let (stop, stopped) = watch::channel(false);
    let incoming = Incoming::new(listener, most, stopped);
    let served = tokio::spawn(serve(incoming, router, protocol, Patience { silence, end }));
    Yard { address, go_on, stop, served }
}

/// Sends something over a connection of its own.
async fn send(yard: &Yard, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(yard.address).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket
}

/// A connection over which a request was answered, and that stays.
async fn idle(yard: &Yard) -> TcpStream {
    let mut socket = send(yard, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
    }
    socket
}

async fn is_answered(yard: &Yard) -> bool {
    let asked = async {
        let mut socket = send(yard, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.ends_with("hello")
    };
    timeout(LONG, asked).await.is_ok_and(|answered| answered)
}

/// Waits for the end of a connection from which nothing more comes.
async fn is_cut(socket: &mut TcpStream) -> bool {
    let ended = timeout(LONG, socket.read(&mut [0; 1])).await;
    ended.is_ok_and(|read| read.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |count| count == 0))
}

fn is_open(socket: &TcpStream) -> bool {
    socket.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

async fn connect(
    address: SocketAddr,
) -> (SendRequest<Empty<Bytes>>, Connection<TokioIo<TcpStream>, Empty<Bytes>, TokioExecutor>) {
    let socket = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 30).initial_connection_window_size(1 << 30);
    builder.handshake(socket).await.unwrap()
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://x{path}")).body(Empty::new()).unwrap()
}

async fn is_answered_by_http2(yard: &Yard) -> bool {
    let asked = async {
        let (mut sender, connection) = connect(yard.address).await;
        tokio::spawn(connection);
        let answer = sender.send_request(request("/")).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes() == "hello"
    };
    timeout(LONG, asked).await.is_ok_and(|answered| answered)
}

#[tokio::test]
async fn who_has_dawdled_longest_makes_room_and_only_he() {
    let yard = yard(4, Protocol::Http1, LONG * 100, LONG).await;
    let mut dawdlers = Vec::new();
    for _ in 0..4 {
        dawdlers.push(send(&yard, "GET /v2/heal").await);
    }
    for _ in 0..3 {
        assert!(is_answered(&yard).await);
    }
    assert!(is_cut(&mut dawdlers[0]).await);
    assert!(dawdlers[1..].iter().all(is_open));
}

#[tokio::test]
async fn who_waits_for_an_answer_never_makes_room_and_who_sends_a_request_is_the_last_to() {
    let yard = yard(3, Protocol::Http1, LONG * 100, LONG).await;
    let slow = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut sending = send(&yard, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx").await;
    let mut waiting = vec![send(&yard, slow).await];
    let mut idle = idle(&yard).await;
    assert!(is_answered(&yard).await);
    assert!(is_cut(&mut idle).await && is_open(&sending));
    waiting.push(send(&yard, slow).await);
    assert!(is_answered(&yard).await);
    assert!(is_cut(&mut sending).await);
    waiting.push(send(&yard, slow).await);
    let asked = is_answered(&yard);
    let mut asked = pin!(asked);
    assert!(timeout(SHORT, asked.as_mut()).await.is_err());
    assert!(waiting.iter().all(is_open));
    yard.go_on.notify_one();
    assert!(asked.await);
    yard.go_on.notify_waiters();
    for socket in &mut waiting {
        let mut answer = [0; 15];
        timeout(LONG, socket.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn an_idle_channel_makes_room_for_the_next_one() {
    let yard = yard(1, Protocol::Http2 { ages: AGES }, LONG * 100, LONG).await;
    let (mut sender, connection) = connect(yard.address).await;
    let connection = tokio::spawn(connection);
    assert_eq!(sender.send_request(request("/")).await.unwrap().status(), 200);
    assert!(is_answered_by_http2(&yard).await);
    // It was cut: what the protocol says of it does not matter.
    let _ = timeout(LONG, connection).await.unwrap();
    assert!(sender.is_closed());
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut_off() {
    let yard = yard(1, Protocol::Http1, SHORT, LONG).await;
    let mut reader = send(&yard, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(is_answered(&yard).await);
    let mut taken = Vec::new();
    let _ = reader.read_to_end(&mut taken).await;
    assert!(taken.starts_with(b"HTTP/1.1 200 OK") && taken.len() < LARGE, "{}", taken.len());
}

#[tokio::test]
async fn who_takes_an_answer_little_by_little_gets_all_of_it() {
    let yard = yard(1, Protocol::Http1, SHORT, LONG).await;
    let mut reader = send(&yard, "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut piece = vec![0; 4 << 20];
    let mut taken = 0;
    for _ in 0..8 {
        sleep(SHORT / 3).await;
        taken += reader.read_exact(&mut piece).await.unwrap();
    }
    piece.clear();
    taken += reader.read_to_end(&mut piece).await.unwrap();
    assert!(taken > LARGE, "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_over_http2_is_cut_off() {
    let yard = yard(1, Protocol::Http2 { ages: AGES }, SHORT, LONG).await;
    let address = yard.address;
    let (begin, begun) = oneshot::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_sender, answer) = runtime.block_on(async {
            let (mut sender, connection) = connect(address).await;
            tokio::spawn(connection);
            let answer = sender.send_request(request("/large")).await.unwrap();
            (sender, answer)
        });
        begin.send(()).unwrap();
        // Nobody reads until the runtime goes on.
        wait.recv().unwrap();
        runtime.block_on(answer.into_body().collect()).map_or(0, |body| body.to_bytes().len())
    });
    begun.await.unwrap();
    assert!(is_answered_by_http2(&yard).await);
    go_on.send(()).unwrap();
    assert!(client.join().unwrap() < LARGE);
}

#[tokio::test]
async fn an_old_connection_ends_when_what_is_under_way_is_answered() {
    let ages = Duration::from_millis(100)..Duration::from_millis(200);
    let yard = yard(2, Protocol::Http2 { ages }, LONG, LONG).await;
    let (mut sender, connection) = connect(yard.address).await;
    let connection = tokio::spawn(connection);
    let slow = tokio::spawn(sender.send_request(request("/slow")));
    // The client is told to ask elsewhere.
    timeout(LONG, async {
        while sender.send_request(request("/")).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(!slow.is_finished());
    yard.go_on.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    timeout(LONG, connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_old_connection_is_not_waited_for_for_ever() {
    let ages = Duration::from_millis(100)..Duration::from_millis(200);
    let yard = yard(2, Protocol::Http2 { ages }, LONG, SHORT).await;
    let (mut sender, connection) = connect(yard.address).await;
    tokio::spawn(connection);
    let slow = sender.send_request(request("/slow"));
    assert!(timeout(LONG, slow).await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_answered() {
    for protocol in [Protocol::Http1, Protocol::Http2 { ages: AGES }] {
        let yard = yard(3, protocol.clone(), LONG * 100, LONG).await;
        let _silent = send(&yard, "").await;
        let asked = match protocol {
            Protocol::Http1 => {
                let mut socket = send(&yard, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
                tokio::spawn(async move {
                    let mut answer = String::new();
                    socket.read_to_string(&mut answer).await.unwrap();
                    answer.starts_with("HTTP/1.1 200 OK")
                })
            }
            Protocol::Http2 { .. } => {
                let (mut sender, connection) = connect(yard.address).await;
                tokio::spawn(connection);
                let asked = sender.send_request(request("/slow"));
                tokio::spawn(async move { asked.await.unwrap().status() == 200 })
            }
        };
        sleep(SHORT).await;
        yard.stop.send_replace(true);
        sleep(SHORT).await;
        assert!(!asked.is_finished() && !yard.served.is_finished());
        yard.go_on.notify_one();
        assert!(asked.await.unwrap());
        timeout(LONG, yard.served).await.unwrap().unwrap();
    }
}

#[test]
fn ages_lie_between_their_bounds_and_differ() {
    let ages: Vec<Duration> = (0..100).map(|_| within(&AGES)).collect();
    assert!(ages.iter().all(|age| AGES.contains(age)));
    assert!(ages.iter().any(|age| *age != ages[0]));
}
