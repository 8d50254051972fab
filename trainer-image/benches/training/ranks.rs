//! The ranks of a side as processes that wait for their turns.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

/// Who trains.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// The trainer's code, channels-last.
    Ours,
    /// A variant of `bench_training.py`.
    Python(&'static str),
}

/// What is trained, on ranks of one thread each.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) architecture: &'static str,
    pub(crate) ranks: u32,
    /// Images of a step on each rank, and their height and width in pixels.
    pub(crate) batch: u32,
    pub(crate) image: u32,
    pub(crate) precision: &'static str,
}

impl Job {
    /// ResNet-18, 128 pixels, 16 images on each of two ranks.
    pub(crate) const RESNET: Job =
        Job { architecture: "resnet18", ranks: 2, batch: 16, image: 128, precision: "float32" };
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

/// All ranks of a side, after their first step.
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

/// What a rank answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    wall: f64,
    cpu: f64,
    peak_kib: f64,
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

    pub(crate) fn start(&self, side: Side, job: Job) -> Result<Ranks, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let command = |rank: u32| -> Result<Command, Box<dyn Error>> {
            let mut order = json!({
                "architecture": job.architecture, "batch": job.batch, "image": job.image, "classes": 1000,
                "precision": job.precision, "device": "cpu", "backend": if job.ranks > 1 { "gloo" } else { "none" },
                "rank": rank, "worldSize": job.ranks, "port": port, "threads": 1,
            });
            let mut command = match side {
                Side::Ours => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg("rank");
                    command
                }
                Side::Python(variant) => {
                    order["variant"] = json!(variant);
                    let mut command = Command::new(&self.python);
                    command.arg(&self.script);
                    command
                }
            };
            command.arg(order.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).env("OMP_NUM_THREADS", "1");
            Ok(command)
        };
        let start = Instant::now();
        let mut ranks = (0..job.ranks).map(|rank| Rank::start(command(rank)?)).collect::<Result<Vec<_>, _>>()?;
        for rank in &mut ranks {
            rank.answer()?;
        }
        Ok(Ranks { ranks, seconds_to_first_step: start.elapsed().as_secs_f64() })
    }
}

impl Ranks {
    /// These and others, which know nothing of one another: they step at the same time.
    pub(crate) fn beside(mut self, mut others: Ranks) -> Ranks {
        self.ranks.append(&mut others.ranks);
        self
    }

    /// Makes so many steps.
    pub(crate) fn steps(&mut self, steps: usize) -> Result<Turn, Box<dyn Error>> {
        for rank in &mut self.ranks {
            writeln!(rank.ask, "{steps}")?;
        }
        let mut turn = Turn { wall: 0.0, cpu: 0.0, peak_gb: 0.0 };
        let count = self.ranks.len() as f64;
        for rank in &mut self.ranks {
            let cost: Cost = serde_json::from_str(&rank.answer()?)?;
            turn.wall = turn.wall.max(cost.wall);
            turn.cpu += cost.cpu / count;
            turn.peak_gb = turn.peak_gb.max(cost.peak_kib * 1024.0 / 1e9);
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
