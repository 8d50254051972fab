//! PyTorch, in a process that waits for its turns.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// `tests/bench_scoring.py`.
pub(crate) struct Peer {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(root: &Path) -> Result<Peer, Box<dyn Error>> {
        let python = Command::new(root.join("tests/python.sh")).stderr(Stdio::inherit()).output()?;
        let python = String::from_utf8(python.stdout)?;
        let mut process = Command::new(python.trim())
            .arg(root.join("tests/bench_scoring.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("no pipes".into());
        };
        Ok(Peer { process, orders, answers: BufReader::new(answers) })
    }

    /// Images a second of what is asked for.
    pub(crate) fn ask(&mut self, order: &Value) -> Result<f64, Box<dyn Error>> {
        writeln!(self.orders, "{order}")?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(format!("the peer ended at {order}").into()),
            _ => Ok(answer.trim().parse()?),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
