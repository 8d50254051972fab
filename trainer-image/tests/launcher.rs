//! The launcher with real processes: this test binary starts itself as launcher, which starts it as ranks, each of which
//! becomes a shell with the script of the test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Cause, TerminationMessage, env};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use trainer::launcher::{Launch, die_with_parent, launch};
use trainer::preflight;

const SCRIPT: &str = "LAUNCHER_TEST_SCRIPT";
const PATIENCE: Duration = Duration::from_secs(30);

/// Not a test: what the launcher process of the tests runs.
#[test]
fn as_launcher() {
    if std::env::var_os(SCRIPT).is_some() {
        let args = ["--exact", "as_rank", "--nocapture", "--quiet"];
        let code = match Launch::this_program(args) {
            Ok(mut it) => {
                if let Some(program) = std::env::var_os("LAUNCHER_TEST_PROGRAM") {
                    it.program = program.into();
                }
                launch(&it)
            }
            Err(fault) => fault.end(),
        };
        std::process::exit(code);
    }
}

/// Not a test: what each rank of the tests runs.
#[test]
fn as_rank() {
    if let Some(script) = std::env::var_os(SCRIPT) {
        die_with_parent().unwrap();
        panic!("{}", Command::new("/bin/sh").arg("-c").arg(script).exec());
    }
}

struct Run {
    child: Child,
    folder: TempDir,
    started: Instant,
}

struct Outcome {
    code: Option<i32>,
    stderr: Vec<u8>,
    message: Option<TerminationMessage>,
    took: Duration,
    folder: TempDir,
}

/// Starts a launcher of `processes` ranks that run `script`, in which `$DIR` is a folder of this run.
fn start(processes: u32, script: &str, more: &[(&str, &str)]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let stderr = fs::File::create(folder.path().join("stderr")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "as_launcher", "--nocapture", "--quiet"])
        .env(SCRIPT, script)
        .env("DIR", folder.path())
        .env("TMPDIR", folder.path())
        .env(env::PET_NPROC_PER_NODE, processes.to_string())
        .env(env::STOP_SECONDS, "20")
        .env(env::TERMINATION_LOG, folder.path().join("termination"))
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    Run { child: command.spawn().unwrap(), folder, started: Instant::now() }
}

impl Run {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for a file of this run and gives its text.
    fn text(&self, name: &str) -> String {
        let path = self.path(name);
        wait_until(&format!("{name} is written"), || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn end(mut self) -> Outcome {
        let code = self.child.wait().unwrap().code();
        let took = self.started.elapsed();
        let stderr = fs::read(self.path("stderr")).unwrap();
        let message = fs::read(self.path("termination")).ok().map(|text| serde_json::from_slice(&text).unwrap());
        Outcome { code, stderr, message, took, folder: self.folder }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// State letter and parent of a process, or none if there is none.
fn state(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_gone(pid: &str) -> bool {
    // A dead process whose new parent is slow to reap it is gone for us.
    !matches!(state(pid.parse().unwrap()), Some((letter, _)) if letter != 'Z')
}

#[test]
fn the_pod_ends_as_the_most_telling_of_its_processes() {
    let done = r#"exit 0"#;
    let one_of_two = r#"[ $RANK = 1 ] && exit 72; sleep 60"#;
    let echo_first = r#"if [ $RANK = 0 ]; then until [ -e $DIR/up ]; do sleep 0.02; done; exit 161; fi
                         trap 'exit 72' TERM; echo > $DIR/up; while :; do sleep 0.02; done"#;
    let crash = r#"[ $RANK = 2 ] && kill -SEGV $$; sleep 60"#;
    let real_time = r#"[ $RANK = 0 ] && kill -40 $$; sleep 60"#;
    let mixed = r#"[ $RANK = 0 ] && exit 0; sleep 0.1; exit 66"#;
    let killed = r#"[ $RANK = 1 ] && kill -KILL $$; sleep 60"#;
    let table = [
        ("all done", 3, done, 0, Cause::Completed, None),
        ("one fails", 2, one_of_two, 72, Cause::GpuMemory, Some(1)),
        ("the echo comes first", 2, echo_first, 72, Cause::GpuMemory, Some(1)),
        ("a crash", 3, crash, 139, Cause::OtherRetryable, Some(2)),
        ("a signal without a name", 2, real_time, 255, Cause::OtherRetryable, Some(0)),
        ("one done, one failed", 2, mixed, 66, Cause::DataMissing, Some(1)),
        ("one killed by somebody", 2, killed, 137, Cause::OtherRetryable, Some(1)),
    ];
    for (case, processes, script, code, cause, rank) in table {
        let outcome = start(processes, script, &[]).end();
        let message = outcome.message.unwrap();
        assert_eq!((outcome.code, message.cause), (Some(code), cause), "{case}: {}", message.message);
        assert!(rank.is_none() || message.rank == rank, "{case}: {message:?}");
        assert!(outcome.took < Duration::from_secs(10), "{case} took {:?}", outcome.took);
    }
}

#[test]
fn the_message_of_the_failed_rank_becomes_the_pods() {
    let said = r#"{"contractVersion":1,"cause":"BadData","message":"a.jpg is no image","hint":"look","step":4}"#;
    let script = format!("[ $RANK = 1 ] && echo '{said}' > ${} && exit 65; sleep 60", env::TERMINATION_LOG);
    let outcome = start(2, &script, &[(env::NODE_NAME, "node-a")]).end();
    let mut expected: TerminationMessage = serde_json::from_str(said).unwrap();
    expected.rank = Some(1);
    expected.node = Some("node-a".to_owned());
    assert_eq!((outcome.code, outcome.message), (Some(65), Some(expected)));
}

#[test]
fn a_rank_that_says_nothing_is_quoted_from_its_stderr() {
    let outcome = start(2, "[ $RANK = 0 ] && echo 'terminate called' >&2 && kill -ABRT $$; sleep 60", &[]).end();
    assert_eq!(
        outcome.message.unwrap().message,
        "rank 0 was killed by signal 6 (SIGABRT); its last lines: terminate called"
    );
}

#[test]
fn each_rank_gets_torchruns_environment_and_its_share_of_the_cores() {
    let names = "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR $MASTER_PORT";
    let script = format!("echo {names} $OMP_NUM_THREADS > $DIR/$RANK");
    let pod = [
        (env::PET_NNODES, "3"),
        (env::PET_NODE_RANK, "2"),
        (env::PET_MASTER_ADDR, "host"),
        (env::PET_MASTER_PORT, "1234"),
    ];
    let outcome = start(2, &script, &pod).end();
    let threads = (std::thread::available_parallelism().unwrap().get() / 2).max(1);
    for (rank, local) in [(4, 0), (5, 1)] {
        let text = fs::read_to_string(outcome.folder.path().join(rank.to_string())).unwrap();
        assert_eq!(text.trim(), format!("{rank} 6 {local} 2 2 host 1234 {threads}"));
    }
    let outcome = start(1, "echo $OMP_NUM_THREADS > $DIR/0", &[("OMP_NUM_THREADS", "7")]).end();
    assert_eq!(fs::read_to_string(outcome.folder.path().join("0")).unwrap(), "7\n");
}

#[test]
fn sigterm_reaches_every_rank_once() {
    let script = "trap 'echo TERM >> $DIR/got.$RANK; sleep 0.3; exit 143' TERM; echo > $DIR/up.$RANK
                  while :; do sleep 0.02; done";
    let run = start(3, script, &[]);
    (0..3).for_each(|rank| drop(run.text(&format!("up.{rank}"))));
    run.signal(Signal::SIGTERM);
    (0..3).for_each(|rank| drop(run.text(&format!("got.{rank}"))));
    run.signal(Signal::SIGTERM);
    run.signal(Signal::SIGINT);
    let outcome = run.end();
    assert_eq!((outcome.code, outcome.message.unwrap().cause), (Some(143), Cause::Preempted));
    for rank in 0..3 {
        assert_eq!(fs::read_to_string(outcome.folder.path().join(format!("got.{rank}"))).unwrap(), "TERM\n");
    }
}

#[test]
fn the_second_interrupt_kills_what_ignores_the_first() {
    let script = "trap 'echo INT > $DIR/got.$RANK' INT; trap '' TERM; echo > $DIR/up.$RANK
                  while :; do sleep 0.02; done";
    let run = start(2, script, &[]);
    (0..2).for_each(|rank| drop(run.text(&format!("up.{rank}"))));
    run.signal(Signal::SIGINT);
    (0..2).for_each(|rank| drop(run.text(&format!("got.{rank}"))));
    run.signal(Signal::SIGINT);
    let outcome = run.end();
    assert_eq!(outcome.code, Some(137));
    assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
}

#[test]
fn a_peer_that_does_not_stop_is_killed_at_the_bound_and_the_first_failure_counts() {
    let script = "if [ $RANK = 0 ]; then until [ -e $DIR/pid.1 ]; do sleep 0.02; done; exit 65; fi
                  trap '' TERM; echo $$ > $DIR/pid.1; while :; do sleep 0.02; done";
    let run = start(2, script, &[(env::STOP_SECONDS, "1")]);
    let slow = run.text("pid.1");
    let outcome = run.end();
    assert_eq!((outcome.code, outcome.message.unwrap().rank), (Some(65), Some(0)));
    assert!(outcome.took >= Duration::from_secs(1) && outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
    assert!(is_gone(&slow));
}

#[test]
fn ranks_die_with_a_launcher_that_is_killed() {
    let run = start(3, "trap '' TERM INT HUP; echo $$ > $DIR/pid.$RANK; while :; do sleep 0.02; done", &[]);
    let pids: Vec<_> = (0..3).map(|rank| run.text(&format!("pid.{rank}"))).collect();
    run.signal(Signal::SIGKILL);
    run.end();
    wait_until("the ranks are gone", || pids.iter().all(|pid| is_gone(pid)));
}

#[test]
fn a_process_that_lost_its_parent_comes_to_the_launcher_and_is_reaped() {
    // The inner shell loses its parent at once, tells who the new one is, and ends.
    let script = r#"(sh -c 'sleep 0.3; cut -d" " -f4 /proc/$$/stat > $DIR/parent; echo $$ > $DIR/orphan' &)
                    until [ -e $DIR/go ]; do sleep 0.02; done"#;
    let run = start(1, script, &[]);
    assert_eq!(run.text("parent"), run.pid().to_string());
    let orphan: i32 = run.text("orphan").parse().unwrap();
    wait_until("the orphan is reaped", || state(orphan).is_none());
    let zombies = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| state(*pid) == Some(('Z', run.pid().as_raw())))
        .count();
    assert_eq!(zombies, 0);
    fs::write(run.path("go"), "").unwrap();
    assert_eq!(run.end().code, Some(0));
}

#[test]
fn what_a_rank_leaves_running_ends_with_it() {
    let run = start(2, "sleep 1000 & echo $! > $DIR/left.$RANK", &[]);
    let left: Vec<_> = (0..2).map(|rank| run.text(&format!("left.{rank}"))).collect();
    let outcome = run.end();
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
    wait_until("they are gone", || left.iter().all(|pid| is_gone(pid)));
}

#[test]
fn much_output_of_several_ranks_passes_line_by_line() {
    let script = r#"i=$RANK$RANK$RANK$RANK; yes "$i$i$i$i$i$i$i$i$i$i" | head -n 100000 >&2; printf '\377\376\n' >&2"#;
    let outcome = start(3, script, &[]).end();
    assert_eq!(outcome.code, Some(0));
    let mut lines = [0; 3];
    for line in outcome.stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let rank = usize::from(line[6] - b'0');
        let whole = format!("[rank {rank}] {}", rank.to_string().repeat(40));
        let odd = [format!("[rank {rank}] ").as_bytes(), b"\xff\xfe"].concat();
        assert!(line == whole.as_bytes() || line == odd, "torn: {:?}", String::from_utf8_lossy(line));
        lines[rank] += 1;
    }
    assert_eq!(lines, [100_001; 3]);
}

#[test]
fn a_single_rank_keeps_its_stderr_as_it_is() {
    let outcome = start(1, "echo hello >&2", &[]).end();
    assert_eq!(outcome.stderr, b"hello\n");
}

#[test]
fn processes_that_reach_each_other_pass_the_preflight_s_collective() {
    let trainer = std::path::Path::new(env!("CARGO_BIN_EXE_trainer"));
    let outcome = preflight::collective(trainer, 3, tch::Device::Cpu);
    assert!(matches!(&outcome, preflight::Outcome::Passed(seen) if seen.starts_with("3 added up in ")), "{outcome:?}");
    // One that can't, here for want of the CUDA plug-in, is named with what it says.
    let preflight::Outcome::Failed { cause, message, hint } = preflight::collective(trainer, 2, tch::Device::Cuda(0))
    else {
        panic!("there is no GPU");
    };
    assert_eq!((cause, hint.is_empty()), (Cause::GpuUnsupported, false));
    assert!(
        message.starts_with("process 0 of 2 ended with exit status: 69: ") && message.contains("CUDA"),
        "{message}"
    );
}

#[test]
fn what_cannot_start_is_said() {
    let table = [
        ("LAUNCHER_TEST_PROGRAM", "/no/such/program", "can't start process 0 of 2: /no/such/program"),
        (env::PET_NNODES, "two", "the pod's environment is wrong: PET_NNODES is \"two\""),
        (env::STOP_SECONDS, "soon", "TRAINYARD_STOP_SECONDS is \"soon\""),
    ];
    for (name, value, text) in table {
        let outcome = start(2, "exit 0", &[(name, value)]).end();
        assert_eq!(outcome.code, Some(64), "{name}");
        assert!(outcome.message.unwrap().message.starts_with(text), "{name}");
    }
}

/// Makes a control group of 64 MiB and moves its argument into it, by cgroup version 1 or 2.
const LIMITED: &str = r#"
    if [ -d /sys/fs/cgroup/memory ]; then G=/sys/fs/cgroup/memory/launcher-test-$$; L=memory.limit_in_bytes
    else G=/sys/fs/cgroup/launcher-test-$$; L=memory.max; fi
    mkdir $G && echo 67108864 > $G/$L && echo $$ > $G/cgroup.procs || exit 99
    "$@"; code=$?
    echo $$ > ${G%/*}/cgroup.procs; rmdir $G; exit $code"#;

#[test]
#[ignore = "needs root and a writable memory control group"]
fn a_rank_killed_for_memory_is_told_from_one_killed_by_somebody() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("termination");
    let eat = "[ $RANK = 1 ] && exec tail /dev/zero; sleep 60";
    let args: [OsString; 6] = [
        "-c".into(),
        LIMITED.into(),
        "sh".into(),
        std::env::current_exe().unwrap().into(),
        "--exact".into(),
        "as_launcher".into(),
    ];
    let status = Command::new("/bin/sh")
        .args(args)
        .env(SCRIPT, eat)
        .env(env::PET_NPROC_PER_NODE, "2")
        .env(env::TERMINATION_LOG, &log)
        .status()
        .unwrap();
    let message: TerminationMessage = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    assert_eq!((status.code(), message.cause, message.rank), (Some(71), Cause::HostMemory, Some(1)));
}
