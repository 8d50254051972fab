//! Clients that post photos.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Photos as they are posted.
pub(crate) struct Photos(Vec<Vec<u8>>);

/// How long each answer took, and how long all of it.
pub(crate) struct Answers {
    waits: Vec<f64>,
    seconds: f64,
}

/// What came of clients some of whom left.
pub(crate) struct End {
    pub(crate) asked: u64,
    pub(crate) left: u64,
    pub(crate) lost: u64,
}

impl Photos {
    /// The photos of class folders.
    pub(crate) fn read(folder: &Path) -> Result<Photos, Box<dyn Error>> {
        let mut photos = Vec::new();
        for class in fs::read_dir(folder)? {
            for photo in fs::read_dir(class?.path())? {
                photos.push(fs::read(photo?.path())?);
            }
        }
        Ok(Photos(photos))
    }

    fn photo(&self, number: usize) -> &[u8] {
        &self.0[number % self.0.len()]
    }
}

impl Answers {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.seconds
    }

    /// Seconds within which this part of the answers came.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let mut waits = self.waits.clone();
        waits.sort_by(f64::total_cmp);
        waits[((waits.len() - 1) as f64 * part).round() as usize]
    }
}

/// Announces a photo.
fn head(stream: &mut TcpStream, photo: &[u8]) -> io::Result<()> {
    let head = format!(
        "POST /v2/models/model/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        photo.len()
    );
    stream.write_all(head.as_bytes())
}

/// Reads an answer to its end and gives its status.
fn answer(stream: &mut TcpStream) -> io::Result<u16> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad())?.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.ok_or_else(bad)? {
            return head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(bad);
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, photo: &[u8]) -> io::Result<()> {
    head(stream, photo)?;
    stream.write_all(photo)?;
    match answer(stream)? {
        200 => Ok(()),
        status => Err(io::Error::other(format!("status {status}"))),
    }
}

/// Clients of whom each asks again as soon as it is answered.
pub(crate) fn closed(address: SocketAddr, photos: &Photos, clients: usize, time: Duration) -> io::Result<Answers> {
    let began = Instant::now();
    let client = |number: usize| {
        let mut stream = connect(address)?;
        let (mut waits, mut next) = (Vec::new(), number);
        while began.elapsed() < time {
            let asked = Instant::now();
            ask(&mut stream, photos.photo(next))?;
            waits.push(asked.elapsed().as_secs_f64());
            next += clients;
        }
        Ok(waits)
    };
    let waits = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || client(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect::<io::Result<Vec<Vec<f64>>>>()
    })?;
    Ok(Answers { waits: waits.concat(), seconds: began.elapsed().as_secs_f64() })
}

/// Requests at a rate, whether the ones before are answered or not. A wait counts from when the request was due.
pub(crate) fn at_rate(
    address: SocketAddr,
    photos: &Photos,
    rate: f64,
    time: Duration,
    seed: usize,
) -> io::Result<Answers> {
    let mut random = Random(seed as u64 + 1);
    let mut due = Vec::new();
    let mut at = 0.0;
    while at < time.as_secs_f64() {
        due.push(at);
        at += -(1.0 - random.next()).ln() / rate;
    }
    let (began, next, waits) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let client = || -> io::Result<()> {
            let mut stream = connect(address)?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(at) = due.get(number) else { return Ok(()) };
                let at = Duration::from_secs_f64(*at);
                std::thread::sleep(at.saturating_sub(began.elapsed()));
                ask(&mut stream, photos.photo(number))?;
                waits.lock().expect("whole").push((began.elapsed().saturating_sub(at)).as_secs_f64());
            }
        };
        // More than ever wait at a time.
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(client)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client"))
    })?;
    Ok(Answers { waits: waits.into_inner().expect("whole"), seconds: began.elapsed().as_secs_f64() })
}

/// Clients that are in a hurry: one request in eight is left before its answer.
pub(crate) fn leaving(address: SocketAddr, photos: &Photos, clients: usize, time: Duration) -> io::Result<End> {
    let (asked, left, lost) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (asked, left, lost) = (&asked, &left, &lost);
            scope.spawn(move || {
                let mut random = Random(number as u64 + 1);
                let mut stream = connect(address).ok();
                while began.elapsed() < time {
                    let Some(open) = &mut stream else {
                        stream = connect(address).ok();
                        continue;
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    let photo = photos.photo((random.next() * 1e6) as usize);
                    if random.next() < 0.125 {
                        left.fetch_add(1, Ordering::Relaxed);
                        // Half of them in the middle of what they say. Whether it was heard matters to nobody.
                        let part = if random.next() < 0.5 { photo.len() / 2 } else { photo.len() };
                        let _ = head(open, photo).and_then(|()| open.write_all(&photo[..part]));
                        std::thread::sleep(Duration::from_secs_f64(random.next() * 0.05));
                        stream = None;
                    } else if ask(open, photo).is_err() {
                        lost.fetch_add(1, Ordering::Relaxed);
                        stream = None;
                    }
                }
            });
        }
    });
    let count = |counter: AtomicU64| counter.into_inner();
    Ok(End { asked: count(asked), left: count(left), lost: count(lost) })
}

/// A generator of numbers from 0 to below 1: xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
