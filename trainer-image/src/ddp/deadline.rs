//! A bound on the time in which GPUs connect: NCCL waits without end for a rank that stopped after it had checked in.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::error::DdpError;
use super::roll::roll_call;
use crate::fault::Fault;
use crate::torch::{self, ProcessGroup, TorchError};

/// What is under way, in words.
const DURING: &str = "connecting GPUs";

/// Runs `connect`, the call that may never return, and ends the process if it takes longer than `limit`: with the ranks
/// that did not answer.
pub(super) fn connected<T>(
    own: ProcessGroup,
    limit: Duration,
    connect: impl FnOnce() -> Result<T, TorchError>,
) -> Result<T, TorchError> {
    within(limit, connect, move || {
        torch::end_process(Fault::from(late(&own, limit)).end());
    })
    .map_err(|error| TorchError::Other(error.to_string()))?
}

/// Runs `connect`; `expired` on another thread if it takes longer than `limit`.
fn within<T>(limit: Duration, connect: impl FnOnce() -> T, expired: impl FnOnce() + Send + 'static) -> io::Result<T> {
    let (running, over) = mpsc::channel::<()>();
    thread::Builder::new().name("connecting".to_owned()).spawn(move || {
        if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            expired();
        }
    })?;
    let connected = connect();
    drop(running);
    Ok(connected)
}

/// Who has not come.
fn late(processes: &ProcessGroup, limit: Duration) -> DdpError {
    let waited = format!("timeout after {} s", limit.as_secs_f64());
    let absent = roll_call(processes);
    if absent.is_empty() {
        let text = format!("{waited}, and all ranks are there: look at the links between the GPUs");
        return DdpError::Torch { during: DURING, source: TorchError::Timeout(text) };
    }
    let source = TorchError::Timeout(waited);
    DdpError::Absent { during: DURING, collective: None, absent, world_size: processes.world_size(), source }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use crds::contract::Cause;

    use super::*;
    use crate::torch::Endpoint;

    #[test]
    fn what_ends_in_time_never_expires() {
        let (tell, told) = mpsc::channel::<()>();
        let connected = within(Duration::from_secs(60), || 7, move || tell.send(()).unwrap()).unwrap();
        // The thread has ended without a word.
        assert_eq!((connected, told.recv().is_err()), (7, true));
    }

    #[test]
    fn a_rank_that_stands_still_is_named_while_the_connection_waits_for_it() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let open = move |rank| {
            let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port, is_host: rank == 0, rank, world_size: 2 };
            ProcessGroup::open(&endpoint, Duration::from_secs(60)).unwrap()
        };
        let still = thread::spawn(move || open(1));
        let (own, limit) = (open(0), Duration::from_millis(50));
        let _still = still.join().unwrap();
        let (tell, told) = mpsc::channel();
        let connect = || told.recv().unwrap();
        let error = within(limit, connect, move || tell.send(late(&own, limit)).unwrap()).unwrap();
        assert_eq!(error.cause(), Cause::PeerLost);
        let text =
            "connecting GPUs: 1 of 2 ranks did not come: 1; another rank did not answer in time: timeout after 0.05 s";
        assert_eq!(error.to_string(), text);
    }
}
