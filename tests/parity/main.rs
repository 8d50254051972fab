//! Proof of value: the trainer's DDP and Python's DistributedDataParallel, given the same weights and images, end with
//! the same bytes in every parameter, buffer, loss and optimizer state. Its optimizers and torch.optim likewise; what it
//! does to images and labels, and torchvision; the networks of the zoo, and torchvision's; its figures, and scikit-learn's;
//! its event files, and what TensorBoard reads of them. And: ranks that lose each other say so at once; torchrun starts the
//! trainer as well as our launcher does.
//!
//! Run with the arguments `rank FOLDER RANK PORT RUN` this program is one rank of its own tests, with `launch` or `worker` the
//! trainer.

mod bytes;
mod failure;
mod figures;
mod gpu;
mod job;
mod optim;
mod process;
mod rank;
mod recipe;
mod sync_norm;
mod torchrun;
mod zoo;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use job::Job;
use process::{Ranks, python_ranks, script};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, folder, rank, port, run] = arguments.as_slice()
        && mode == "rank"
    {
        let code = rank::main(Path::new(folder), rank.parse().unwrap(), port.parse().unwrap(), run);
        return ExitCode::from(code as u8);
    }
    if arguments.get(1).is_some_and(|mode| mode == "launch" || mode == "worker") {
        return trainer::cli::run();
    }
    let mut arguments = Arguments::from_args();
    // Each test has a process for each rank already.
    arguments.test_threads = Some(1);
    let mut trials: Vec<Trial> = jobs()
        .into_iter()
        .map(|(name, job)| Trial::test(format!("same bytes as Python: {name}"), move || same_bytes_as_python(&job)))
        .collect();
    trials.extend(failure::trials());
    trials.extend(sync_norm::trials());
    trials.extend(zoo::trials());
    trials.extend(optim::trials());
    trials.extend(recipe::trials());
    trials.extend(figures::trials());
    trials.extend(torchrun::trials());
    trials.extend(gpu::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What is compared; the first is the long one.
fn jobs() -> Vec<(&'static str, Job)> {
    let sgd = Job::new(10);
    let adamw = Job { optimizer: "adamw".to_string(), ..Job::new(10) };
    vec![
        ("100 steps of SGD, channels-last", Job { channels_last: true, ..Job::new(100) }),
        ("SGD, NCHW", sgd.clone()),
        ("AdamW", adamw.clone()),
        ("AdamW, channels-last, gradients clipped", Job { channels_last: true, clip: Some(0.3), ..adamw }),
        ("gradients accumulated over 3 passes", Job { passes: 3, steps: 6, ..sgd.clone() }),
        ("buckets of 200 KiB", Job { bucket_mib: Some(0.2), ..sgd.clone() }),
        ("search for unused parameters", Job { find_unused: true, ..sgd.clone() }),
        ("bfloat16, channels-last", Job { bfloat16: true, channels_last: true, steps: 4, ..sgd.clone() }),
        ("gradients that travel as float16", Job { compression: Some("float16".to_string()), ..sgd.clone() }),
        (
            "gradients that travel as bfloat16, accumulated over 2 passes, 3 ranks",
            Job { compression: Some("bfloat16".to_string()), passes: 2, world_size: 3, steps: 5, ..sgd.clone() },
        ),
        ("4 ranks", Job { world_size: 4, steps: 5, ..sgd.clone() }),
        ("1 rank", Job { world_size: 1, steps: 5, ..sgd }),
    ]
}

fn same_bytes_as_python(job: &Job) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    job.write(folder);
    script("ddp.py", folder, &["init"])?;
    python_ranks(folder, job.world_size)?;
    Ranks::ours(folder, job.world_size).finish()?;
    for rank in 0..job.world_size {
        let file = |side: &str| std::fs::read(folder.join(format!("{side}-{rank}.safetensors")));
        bytes::compare(&file("rust")?, &file("python")?).map_err(|text| format!("rank {rank}: {text}"))?;
    }
    Ok(())
}
