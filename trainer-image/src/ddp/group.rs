//! How ranks meet: a store on rank 0, a check that all belong together, then connections among all of them.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::deadline::connected;
use super::error::{DdpError, During};
use super::flight::Flight;
use super::meeting::{check_in, is_loopback, own_address};
use super::roll::{FAREWELL, roll_call, wait_for};
use super::watch::Watch;
use crate::torch::{Endpoint, NormRanks, ProcessGroup, TorchError};

/// Where and how the ranks of a run meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host that serves the store: `MASTER_ADDR`.
    pub addr: String,
    /// Port of the store: `MASTER_PORT`.
    pub port: u16,
    /// Rank of this process, from 0.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// Key of the run and attempt: `TORCHELASTIC_RUN_ID`. Processes of another run are turned away.
    pub run_id: String,
    /// Who serves the store.
    pub host: StoreHost,
    /// How long to wait for the other ranks.
    pub join_timeout: Duration,
    /// How long a collective may take before the others count as lost, and the connections between GPUs once all ranks have
    /// come. Less than the slowest step is too little.
    pub timeout: Duration,
    /// How gradients travel.
    pub backend: Backend,
}

/// Who serves the store in which the ranks of a run meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreHost {
    /// Rank 0.
    #[default]
    FirstRank,
    /// Whoever started the ranks, as torchrun does. Such a store outlives an attempt, and with it the attempt's keys.
    Launcher,
}

impl Rendezvous {
    /// Whether this process serves the store.
    pub(super) fn is_host(&self) -> bool {
        self.rank == 0 && self.host == StoreHost::FirstRank
    }
}

/// How gradients travel between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Over TCP by way of host memory: CPUs, or several ranks on one GPU.
    #[default]
    Gloo,
    /// From GPU to GPU; each rank has one of its own. Needs [`torch::load_cuda`](crate::torch::load_cuda).
    Nccl {
        /// Index of this rank's GPU in its process.
        device: u32,
    },
}

/// The ranks of a run, connected. Collectives must be called by all ranks in the same order, from one thread. After a
/// failed one the group is of no use: end the process.
pub struct Group {
    processes: ProcessGroup,
    backend: Backend,
    /// By NCCL, with others.
    watch: Option<Watch>,
}

/// What NCCL's own watchdog, which aborts the process, waits longer than [`Watch`], which says who is late.
const NCCL_MARGIN: Duration = Duration::from_secs(60);
/// What GPUs may take to connect in any case: a machine full of them takes seconds, however short its steps are.
const CONNECTING: Duration = Duration::from_secs(60);
/// What the end of connections between GPUs may take, when there is nothing left to do.
const PARTING: Duration = Duration::from_secs(10);
/// Counts the ranks whose last collective has ended.
const PARTED: &str = "parted";

impl Group {
    /// Meets the other ranks and connects to each. A world of one needs no network.
    ///
    /// # Errors
    /// Within `join_timeout` the host could not be reached or some ranks did not come, which are named; or what came
    /// does not belong together.
    pub fn join(rendezvous: &Rendezvous) -> Result<Group, DdpError> {
        let Rendezvous { addr, port, rank, world_size, join_timeout, timeout, backend, .. } = rendezvous;
        let (rank, world_size, is_host) = (*rank, *world_size, rendezvous.is_host());
        if rank >= world_size {
            return Err(DdpError::Rank { rank, world_size });
        }
        let start = Instant::now();
        let address = format!("{addr}:{port}");
        // The host need not be able to resolve or reach its own name.
        let host = if is_host && !is_loopback(addr) { "localhost" } else { addr };
        let endpoint = Endpoint { host: host.to_string(), port: *port, is_host, rank, world_size };
        let processes = ProcessGroup::open(&endpoint, *join_timeout).map_err(|source| match is_host {
            true => DdpError::Serve { rank, address: address.clone(), source },
            false => DdpError::Unreachable { rank, address: address.clone(), waited: *join_timeout, source },
        })?;
        check_in(&processes, rendezvous, &address, start)?;
        match backend {
            Backend::Gloo => processes.connect_gloo(&own_address(addr, *port, world_size), *timeout),
            Backend::Nccl { device } => processes.share().and_then(|own| {
                let limit = connecting(*timeout);
                connected(own, limit, || processes.connect_nccl(*device, *timeout + NCCL_MARGIN))
            }),
        }
        .during("connecting to the other ranks")?;
        let watch = match backend {
            Backend::Nccl { .. } if world_size > 1 => Some(watch(&processes, *timeout)?),
            _ => None,
        };
        Ok(Group { processes, backend: *backend, watch })
    }

    /// A group of this process alone, for CPU work outside a gang.
    ///
    /// # Errors
    /// Memory or descriptors ran out.
    pub fn alone() -> Result<Group, DdpError> {
        let day = Duration::from_secs(86_400);
        Self::join(&Rendezvous {
            addr: "127.0.0.1".to_string(),
            port: 0,
            rank: 0,
            world_size: 1,
            run_id: "alone".to_string(),
            host: StoreHost::FirstRank,
            join_timeout: day,
            timeout: day,
            backend: Backend::Gloo,
        })
    }

    /// Rank of this process, from 0.
    pub fn rank(&self) -> u32 {
        self.processes.rank()
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.processes.world_size()
    }

    /// Where tensors must be that travel between ranks, if they are small and could be anywhere.
    pub fn device(&self) -> Device {
        match self.backend {
            Backend::Gloo => Device::Cpu,
            Backend::Nccl { device } => Device::Cuda(device as usize),
        }
    }

    /// Replaces `tensor` on every rank by the sum over all ranks.
    ///
    /// # Errors
    /// A rank is gone or did not come in time. So for all collectives.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), DdpError> {
        self.during("summing over all ranks", self.processes.all_reduce_sum(tensor))
    }

    /// Replaces `tensor` on every rank by that of rank `root`.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<(), DdpError> {
        self.during("broadcasting to all ranks", self.processes.broadcast(tensor, root))
    }

    /// The tensors of all ranks, stacked: shape `[world_size, ..tensor's]`. All ranks give the same shape and kind.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor, DdpError> {
        self.during("gathering from all ranks", self.processes.all_gather(tensor))
    }

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn barrier(&self) -> Result<(), DdpError> {
        self.during("waiting for all ranks", self.processes.barrier())
    }

    /// Waits until every rank is here for the last time. By NCCL a rank that ends takes its connections with it: it stays until
    /// the others have done with them, or for a moment.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn part(&self) -> Result<(), DdpError> {
        self.barrier()?;
        if self.is_by_nccl() && self.world_size() > 1 {
            self.during("ending together", self.processes.settle())?;
            self.wait_for_parting();
        }
        Ok(())
    }

    /// Tells that this rank has done, and waits for the others, for a moment. A store that is gone is one that has parted.
    fn wait_for_parting(&self) {
        let ranks = i64::from(self.world_size());
        self.processes.ask_within(FAREWELL, move |store| {
            if store.add(PARTED, 1).is_ok() {
                wait_for(FAREWELL, || store.add(PARTED, 0).map_or(true, |parted| parted >= ranks));
            }
        });
    }

    fn is_by_nccl(&self) -> bool {
        matches!(self.backend, Backend::Nccl { .. })
    }

    /// Sets a key that all ranks of this run see.
    ///
    /// # Errors
    /// Rank 0 is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), DdpError> {
        self.processes.set(key, value).during("writing to the store")
    }

    /// Waits until a key of this run is there and returns its value.
    ///
    /// # Errors
    /// Nobody set it within `timeout`, or rank 0 is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, DdpError> {
        self.processes.get(key, timeout).during("reading from the store")
    }

    /// Whether a key of this run is there.
    ///
    /// # Errors
    /// Rank 0 is gone.
    pub fn has(&self, key: &str) -> Result<bool, DdpError> {
        self.processes.has(key).during("reading from the store")
    }

    /// These ranks, for batch norms that take their statistics over all of them.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn norm_ranks(&self) -> Result<NormRanks, DdpError> {
        NormRanks::new(&self.processes).during("sharing the group with batch norms")
    }

    pub(super) fn processes(&self) -> &ProcessGroup {
        &self.processes
    }

    /// Says during what something failed; where ranks have lost each other, also which did not come.
    pub(super) fn during<T>(&self, during: &'static str, result: Result<T, TorchError>) -> Result<T, DdpError> {
        result.map_err(|source| failure(&self.processes, during, source))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_by_nccl() {
            self.watch = None;
            self.processes.abort_within(PARTING);
        }
    }
}

/// What GPUs may take to connect where a collective may take `timeout`.
fn connecting(timeout: Duration) -> Duration {
    timeout.max(CONNECTING)
}

/// What failed during what; where ranks have lost each other, also which did not come.
pub(super) fn failure(processes: &ProcessGroup, during: &'static str, source: TorchError) -> DdpError {
    let lost = matches!(source, TorchError::Timeout(_) | TorchError::PeerLost(_));
    match lost.then(|| roll_call(processes)) {
        Some(absent) if !absent.is_empty() => {
            let collective = processes.flights().ok().and_then(|dump| Flight::open(&dump));
            DdpError::Absent { during, collective, absent, world_size: processes.world_size(), source }
        }
        _ => DdpError::Torch { during, source },
    }
}

fn watch(processes: &ProcessGroup, timeout: Duration) -> Result<Watch, DdpError> {
    const DURING: &str = "watching over collectives";
    let own = processes.share().during(DURING)?;
    Watch::start(own, timeout).map_err(|error| TorchError::Other(error.to_string())).during(DURING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_of_one_has_collectives() {
        let group = Group::alone().unwrap();
        let tensor = Tensor::from_slice(&[1f32, 2.0]);
        group.all_reduce_sum(&tensor).unwrap();
        group.barrier().unwrap();
        group.set("key", b"value").unwrap();
        assert_eq!(group.get("key", Duration::from_secs(1)).unwrap(), b"value");
        assert_eq!(Vec::<f32>::try_from(&tensor).unwrap(), [1.0, 2.0]);
        assert_eq!(group.all_gather(&tensor).unwrap().size(), [1, 2]);
        assert_eq!(group.processes.flights().unwrap(), br#"{"entries":[]}"#, "all collectives have ended");
        assert_eq!(group.get("none", Duration::from_millis(20)).unwrap_err().category(), "timeout");
    }

    #[test]
    fn gpus_connect_in_the_time_of_a_collective_or_a_minute() {
        let seconds = Duration::from_secs;
        assert_eq!([10, 60, 300].map(|timeout| connecting(seconds(timeout))), [60, 60, 300].map(seconds));
    }

    #[test]
    fn ranks_that_part_tell_each_other() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let minute = Duration::from_secs(60);
        let part = |rank| {
            let group = Group::join(&Rendezvous {
                addr: "127.0.0.1".to_string(),
                port,
                rank,
                world_size: 2,
                run_id: "part".to_string(),
                host: StoreHost::FirstRank,
                join_timeout: minute,
                timeout: minute,
                backend: Backend::Gloo,
            })
            .unwrap();
            group.part().unwrap();
            group.wait_for_parting();
            group.barrier().unwrap();
            let parted = group.processes.add(PARTED, 0).unwrap();
            // The store ends with rank 0.
            group.barrier().unwrap();
            parted
        };
        let part = &part;
        let parted = std::thread::scope(|scope| {
            [0, 1].map(|rank| scope.spawn(move || part(rank))).map(|end| end.join().unwrap())
        });
        assert_eq!(parted, [2, 2]);
    }
}
