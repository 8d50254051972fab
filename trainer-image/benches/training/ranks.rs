//! The two ranks of a side as processes that wait for their turns.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// The job, as `tests/bench_training.py` has it.
pub(crate) const RANKS: u32 = 2;
pub(crate) const BATCH: i64 = 16;
pub(crate) const SIZE: i64 = 128;
pub(crate) const CLASSES: i64 = 1000;

/// Who trains.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// The trainer's code, channels-last.
    Ours { bfloat16: bool },
    /// A variant of `bench_training.py`.
    Python(&'static str),
}

/// What is needed to start a side.
pub(crate) struct Sides {
    python: PathBuf,
    script: PathBuf,
}

/// What some steps cost: the slower rank's wall seconds, CPU seconds of a rank, peak resident memory of a rank.
pub(crate) struct Turn {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_gb: f64,
}

/// Both ranks of a side, after their first step.
pub(crate) struct Ranks {
    ranks: Vec<Rank>,
    /// Seconds from the start of the processes to the end of the first step.
    pub(crate) seconds_to_first_step: f64,
}

struct Rank {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sides {
    pub(crate) fn new(root: &Path) -> Result<Sides, Box<dyn Error>> {
        let script = root.join("tests/bench_training.py");
        if let Some(python) = std::env::var_os("TRAINYARD_PYTHON") {
            return Ok(Sides { python: python.into(), script });
        }
        let output = Command::new(root.join("tests/python.sh")).stderr(Stdio::inherit()).output()?;
        Ok(Sides { python: String::from_utf8(output.stdout)?.trim().into(), script })
    }

    pub(crate) fn start(&self, side: Side) -> Result<Ranks, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let command = |rank: u32| -> Result<Command, Box<dyn Error>> {
            let mut command = match side {
                Side::Ours { bfloat16 } => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.args(["rank", &rank.to_string(), &port, if bfloat16 { "bfloat16" } else { "float32" }]);
                    command
                }
                Side::Python(variant) => {
                    let mut command = Command::new(&self.python);
                    command.arg(&self.script).args([&rank.to_string(), &port, variant]);
                    command
                }
            };
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("OMP_NUM_THREADS", "1");
            Ok(command)
        };
        let start = Instant::now();
        let mut ranks = (0..RANKS).map(|rank| Rank::start(command(rank)?)).collect::<Result<Vec<_>, _>>()?;
        for rank in &mut ranks {
            rank.answer()?;
        }
        Ok(Ranks { ranks, seconds_to_first_step: start.elapsed().as_secs_f64() })
    }
}

impl Ranks {
    /// Makes so many steps.
    pub(crate) fn steps(&mut self, steps: usize) -> Result<Turn, Box<dyn Error>> {
        for rank in &mut self.ranks {
            writeln!(rank.ask, "{steps}")?;
        }
        let mut turn = Turn { wall: 0.0, cpu: 0.0, peak_gb: 0.0 };
        for rank in &mut self.ranks {
            let answer = rank.answer()?;
            let numbers = answer.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            let [wall, cpu, peak_kib] = numbers[..] else { return Err(format!("a rank answered {answer:?}").into()) };
            turn.wall = turn.wall.max(wall);
            turn.cpu += cpu / f64::from(RANKS);
            turn.peak_gb = turn.peak_gb.max(peak_kib * 1024.0 / 1e9);
        }
        Ok(turn)
    }
}

impl Rank {
    fn start(mut command: Command) -> Result<Rank, Box<dyn Error>> {
        let mut process = command.spawn()?;
        let (Some(ask), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("no pipes".into());
        };
        Ok(Rank { process, ask, answers: BufReader::new(answers) })
    }

    fn answer(&mut self) -> Result<String, Box<dyn Error>> {
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err("a rank ended without an answer".into()),
            _ => Ok(answer),
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
