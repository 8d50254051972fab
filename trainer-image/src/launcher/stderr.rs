//! Passes the stderr of several processes through: whole lines, each with its rank, and keeps each one's last words.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A line without an end is passed on in pieces of this many bytes, so that it can't fill the memory.
const LONGEST_LINE: u64 = 64 * 1024;
/// Lines, and bytes of each, that are kept for the termination message.
const LAST_LINES: usize = 6;
const LAST_LINE_BYTES: usize = 300;

type LastLines = Arc<Mutex<VecDeque<String>>>;

/// The threads that read, one for each process.
pub(super) struct Streams {
    /// One reader's last lines for each process, by local rank.
    last: Vec<LastLines>,
    open: usize,
    done: Receiver<()>,
    on_done: Sender<()>,
}

impl Streams {
    /// No process yet.
    pub(super) fn new() -> Streams {
        let (on_done, done) = mpsc::channel();
        Streams { last: Vec::new(), open: 0, done, on_done }
    }

    /// Reads the stderr of the next process until all who hold it have closed it.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(super) fn pass_on(&mut self, rank: u32, from: impl Read + Send + 'static) -> io::Result<()> {
        let last = LastLines::default();
        let (kept, done) = (Arc::clone(&last), self.on_done.clone());
        thread::Builder::new().name(format!("stderr-{rank}")).spawn(move || {
            copy_lines(rank, from, io::stderr, &kept);
            // The receiver lives as long as anybody waits.
            let _ = done.send(());
        })?;
        self.last.push(last);
        self.open += 1;
        Ok(())
    }

    /// Waits until everything written was passed on, but not for long: a process that detached itself may hold on to a
    /// stream for ever.
    pub(super) fn drain(&mut self, at_most: Duration) {
        let until = Instant::now() + at_most;
        while self.open > 0 {
            match self.done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => self.open -= 1,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The last lines that a process wrote; empty if its stderr was not read here.
    pub(super) fn last_words(&self, local_rank: usize) -> String {
        let Some(last) = self.last.get(local_rank) else { return String::new() };
        let last = last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

/// Copies line by line. A line is one write under the lock of the sink, so lines of several processes don't mix.
fn copy_lines<W: Write>(rank: u32, from: impl Read, sink: impl Fn() -> W, last: &Mutex<VecDeque<String>>) {
    let mut from = BufReader::with_capacity(32 * 1024, from);
    let prefix = format!("[rank {rank}] ");
    let mut line = Vec::with_capacity(512);
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        // Bytes, not text: what is no UTF-8 passes unchanged.
        match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        keep(&line[prefix.len()..], last);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // A closed sink must not stop the reading: the process would block on a full pipe.
        let _ = sink().write_all(&line);
    }
}

fn keep(line: &[u8], last: &Mutex<VecDeque<String>>) {
    let line = String::from_utf8_lossy(&line[..line.len().min(LAST_LINE_BYTES)]);
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(input: &[u8]) -> (Vec<u8>, Vec<String>) {
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (output, last) = (Arc::new(Mutex::new(Vec::new())), Mutex::default());
        copy_lines(3, input, || Sink(Arc::clone(&output)), &last);
        (Arc::into_inner(output).unwrap().into_inner().unwrap(), last.into_inner().unwrap().into())
    }

    #[test]
    fn each_line_gets_its_rank_and_bytes_stay_as_they_are() {
        let table: [(&[u8], &[u8]); 4] = [
            (b"", b""),
            (b"one\ntwo", b"[rank 3] one\n[rank 3] two\n"),
            (b"\n\n", b"[rank 3] \n[rank 3] \n"),
            (b"\xff\xfe\x00\n", b"[rank 3] \xff\xfe\x00\n"),
        ];
        for (input, output) in table {
            assert_eq!(passed(input).0, output);
        }
    }

    #[test]
    fn a_line_without_an_end_is_passed_in_pieces() {
        let (output, _) = passed(&vec![b'x'; 3 * LONGEST_LINE as usize + 5]);
        assert_eq!(output.split(|byte| *byte == b'\n').filter(|piece| !piece.is_empty()).count(), 4);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let text: String = (0..20).map(|i| format!("line {i}\n\n")).collect();
        assert_eq!(passed(text.as_bytes()).1, (14..20).map(|i| format!("line {i}")).collect::<Vec<_>>());
    }
}
