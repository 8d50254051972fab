//! What ranks say when the others are gone, late, or not theirs.

use std::path::Path;
use std::time::Duration;

use crds::contract::{Cause, TerminationMessage, env};
use libtest_mimic::{Failed, Trial};

use crate::job::Job;
use crate::process::{Ranks, Running, build_cuda_plugin, build_lost_peer, free_port, ours, python_libraries, script};
use crate::rank;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("a rank whose peer is killed ends within seconds as peer lost", peer_killed),
        Trial::test(
            "ranks whose peer stands still name it and the collective, soon after its time is over",
            peer_stopped,
        ),
        Trial::test("ranks with different models name the tensors, their shapes and the ranks", other_model),
        Trial::test("a rank whose peer stops before it joins says which", peer_missing),
        Trial::test("a rank without a host says where it looked", host_missing),
        Trial::test("ranks that were told of different worlds say so", other_world),
        Trial::test("a rank of an older attempt is turned away", other_run),
        Trial::test("a second process with the same rank is turned away", same_rank_twice),
        Trial::test(
            "what NCCL's watchdog throws has the cause and the words of a lost peer, not those of a crash",
            watchdog,
        ),
        Trial::test("the CUDA plug-in loads without a GPU, and NCCL then says that there is none", plug_in_without_gpu),
    ]
}

/// Far less than the ten minutes that a collective may take here, and enough for a busy machine to start a process.
const SOON: Duration = Duration::from_secs(60);

/// The end of a rank: its exit code, and the category and text that it said.
fn end(rank: &mut Running) -> Result<(Option<i32>, String), Failed> {
    let (status, last) = rank.end_within(SOON)?;
    Ok((status.code(), last))
}

fn expect(rank: &mut Running, category: &str, phrase: &str) -> Result<(), Failed> {
    let (code, said) = end(rank)?;
    if code == Some(Cause::PeerLost.exit_code())
        && said.starts_with(&format!("error {category} "))
        && said.contains(phrase)
    {
        return Ok(());
    }
    Err(format!("ended with {code:?} and said {said:?} instead of {category}: {phrase}").into())
}

fn folder(job: &Job) -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    job.write(folder.path());
    Ok(folder)
}

fn start(folder: &Path, rank: u32, port: u16, run: &str) -> Running {
    Running::start(ours(folder, rank, port, run))
}

fn peer_killed() -> Result<(), Failed> {
    let folder = folder(&Job::new(100))?;
    script("ddp.py", folder.path(), &["init"])?;
    for victim in [0, 1] {
        let mut ranks = Ranks::ours(folder.path(), 2);
        ranks.rank(1 - victim).wait_for_line("step 3");
        ranks.rank(victim).kill();
        let absent = format!("1 of 2 ranks did not come: {victim}; the connection to another rank was lost");
        expect(ranks.rank(1 - victim), "peer-lost", &absent)?;
    }
    Ok(())
}

fn peer_stopped() -> Result<(), Failed> {
    let job = Job { world_size: 3, collective_seconds: 6.0, ..Job::new(300) };
    let folder = folder(&job)?;
    script("ddp.py", folder.path(), &["init"])?;
    // Rank 0 has the store as well.
    for victim in [0, 2] {
        let mut ranks = Ranks::ours(folder.path(), 3);
        (0..3).for_each(|rank| ranks.rank(rank).wait_for_line("step 1"));
        ranks.rank(victim).stop();
        for rank in (0..3).filter(|rank| *rank != victim) {
            let (code, said) = end(ranks.rank(rank))?;
            let names_it = said.contains(&format!("1 of 3 ranks did not come: {victim};"));
            // In words, and as libtorch's flight recorder has it, with its number.
            let collective = said.contains("averaging gradients in the backward pass (gloo:all_reduce number ")
                || said.contains("sharing rank 0's buffers (gloo:broadcast number ");
            if !(names_it && collective) || code != Some(Cause::PeerLost.exit_code()) {
                return Err(format!("rank {rank} ended with {code:?} and said {said:?} of rank {victim}").into());
            }
        }
    }
    Ok(())
}

fn other_model() -> Result<(), Failed> {
    let folder = folder(&Job { world_size: 3, misfit: Some(1), ..Job::new(1) })?;
    let mut ranks = Ranks::ours(folder.path(), 3);
    for rank in 0..3 {
        let (code, said) = end(ranks.rank(rank))?;
        let names = "fc.weight is a parameter [10, 512] of Float on ranks 0, 2 and a parameter [11, 512] of Float on rank 1; \
            fc.bias is a parameter [10] of Float on ranks 0, 2 and a parameter [11] of Float on rank 1";
        if code != Some(Cause::BadSpec.exit_code())
            || !(said.starts_with("error model-differs ") && said.contains(names))
        {
            return Err(format!("rank {rank} ended with {code:?} and said {said:?}").into());
        }
    }
    Ok(())
}

fn peer_missing() -> Result<(), Failed> {
    let folder = folder(&Job { world_size: 3, join_seconds: 2.0, ..Job::new(1) })?;
    let port = free_port();
    let (mut host, mut other) = (start(folder.path(), 0, port, "run"), start(folder.path(), 2, port, "run"));
    expect(&mut other, "missing-ranks", "1 of 3 ranks did not join within 2 s: 1;")?;
    expect(&mut host, "missing-ranks", "1 of 3 ranks did not join within 2 s: 1;")
}

fn host_missing() -> Result<(), Failed> {
    let folder = folder(&Job { join_seconds: 2.0, ..Job::new(1) })?;
    let port = free_port();
    expect(&mut start(folder.path(), 1, port, "run"), "unreachable", &format!("127.0.0.1:{port} within 2 s"))
}

fn other_world() -> Result<(), Failed> {
    let job = Job { join_seconds: 10.0, ..Job::new(1) };
    let (two, three) = (folder(&job)?, folder(&Job { world_size: 3, ..job })?);
    let port = free_port();
    let _host = start(two.path(), 0, port, "run");
    expect(&mut start(three.path(), 1, port, "run"), "world-size", "rank 1 was told of 3 ranks and rank 0 of 2")
}

fn other_run() -> Result<(), Failed> {
    let folder = folder(&Job { join_seconds: 10.0, ..Job::new(1) })?;
    let port = free_port();
    let _host = start(folder.path(), 0, port, "job-2");
    expect(&mut start(folder.path(), 1, port, "job-1"), "other-run", "belongs to run job-2, this process to run job-1")
}

fn same_rank_twice() -> Result<(), Failed> {
    let folder = folder(&Job { world_size: 3, join_seconds: 10.0, ..Job::new(1) })?;
    let port = free_port();
    let _host = start(folder.path(), 0, port, "run");
    let (mut one, mut two) = (start(folder.path(), 1, port, "run"), start(folder.path(), 1, port, "run"));
    let ends = [end(&mut one)?.1, end(&mut two)?.1];
    match ends.iter().filter(|said| said.starts_with("error joined-twice rank 1 has joined twice")).count() {
        1 => Ok(()),
        _ => Err(format!("said {ends:?}").into()),
    }
}

fn watchdog() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    build_lost_peer(&folder.path().join("plugin.so")).run()?;
    let thrown = |text: &str| format!("[Rank 0] Process group watchdog thread terminated with exception: {text}");
    let table = [
        (
            thrown("NCCL error: remote process exited or there was a network error\nncclRemoteError: A call failed."),
            Cause::PeerLost,
            "exchanging tensors between GPUs (nccl:all_reduce number 7 of [4, 2]): 1 of 2 ranks did not come: 1; \
             the connection to another rank was lost: [Rank 0] Process group watchdog",
        ),
        (
            thrown("CUDA error: uncorrectable ECC error encountered"),
            Cause::NodeFault,
            "exchanging tensors between GPUs: the GPU failed: [Rank 0] Process group watchdog",
        ),
    ];
    for (text, cause, words) in table {
        let log = folder.path().join("termination");
        let port = free_port();
        let start = |number: u32| {
            let mut program = ours(folder.path(), number, port, rank::LOST);
            program.environment("LOST_PEER", &text);
            program.environment(env::RANK, &number.to_string());
            program.environment(env::TERMINATION_LOG, &log.display().to_string());
            Running::start(program)
        };
        let (mut first, _other) = (start(0), start(1));
        let (code, said) = end(&mut first)?;
        let message: TerminationMessage = serde_json::from_slice(&std::fs::read(&log)?)?;
        let is_told = (message.cause, message.rank) == (cause, Some(0)) && message.message.starts_with(words);
        if code != Some(cause.exit_code()) || !is_told {
            return Err(format!("ended with {code:?}, said {said:?} and left {message:?}").into());
        }
    }
    Ok(())
}

fn plug_in_without_gpu() -> Result<(), Failed> {
    if Path::new("/dev/nvidiactl").exists() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let plugin = folder.path().join("plugin.so");
    build_cuda_plugin(&plugin).run()?;
    let mut cuda = ours(folder.path(), 0, 0, "cuda");
    // Where torch's CUDA half and the libraries of NVIDIA that it needs lie; an image has them beside the trainer.
    cuda.environment("LD_LIBRARY_PATH", &python_libraries()?);
    let (code, said) = end(&mut Running::start(cuda))?;
    match said.starts_with("error gpu-unsupported ") && code == Some(Cause::GpuUnsupported.exit_code()) {
        true => Ok(()),
        false => Err(format!("ended with {code:?} and said {said:?}").into()),
    }
}
