//! Where this process stands among the others: what torchrun's environment says.

use std::time::Duration;

use crds::contract::{Cause, env};
use tch::Device;

use crate::data::default_threads;
use crate::ddp::{Backend, Rendezvous, StoreHost};
use crate::fault::Fault;

/// How long a process waits for the others to come. Pods of a gang start within the time that images take to be pulled.
const JOIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Rank and rendezvous of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rank among all processes, from 0.
    pub rank: u32,
    /// Number of processes.
    pub world_size: u32,
    /// Rank among the processes of this pod, from 0.
    pub local_rank: u32,
    /// Number of processes of this pod.
    pub local_world_size: u32,
    /// Threads for its work beside the network: its part of the cores that the pod may use, counted before the process keeps
    /// to those of one memory node.
    pub threads: usize,
    master_addr: String,
    master_port: u16,
    run_id: String,
    store: StoreHost,
    /// Whether this process sees one slice of a GPU alone.
    has_slice: bool,
}

/// By which a process is told which GPUs it sees: CUDA's own variable.
pub(crate) const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";
/// Before the UUID of a slice, in that variable.
pub(crate) const SLICE: &str = "MIG-";

impl Place {
    /// Reads the environment; a process without one is alone.
    ///
    /// # Errors
    /// [`Cause::BadSpec`] if a variable is missing while others are there, or is not a number.
    pub fn from_env() -> Result<Place, Fault> {
        Place::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Place, Fault> {
        let has_slice = lookup(VISIBLE_GPUS).is_some_and(|gpus| gpus.starts_with(SLICE) && !gpus.contains(','));
        if lookup(env::WORLD_SIZE).is_none() && lookup(env::RANK).is_none() {
            return Ok(Place {
                rank: 0,
                world_size: 1,
                local_rank: 0,
                local_world_size: 1,
                threads: default_threads(1),
                master_addr: "127.0.0.1".into(),
                master_port: 0,
                run_id: "alone".into(),
                store: StoreHost::FirstRank,
                has_slice,
            });
        }
        let text = |name: &str| {
            lookup(name).ok_or_else(|| {
                Fault::new(Cause::BadSpec, format!("the environment variable {name} is missing"))
                    .hint("start processes by `trainer launch` or torchrun, which set it")
            })
        };
        let number = |name: &str| {
            let value = text(name)?;
            value.parse::<u32>().map_err(|_| {
                Fault::new(Cause::BadSpec, format!("the environment variable {name} is {value:?}, not a number"))
            })
        };
        let port = number(env::MASTER_PORT)?;
        let local_world_size = number(env::LOCAL_WORLD_SIZE)?;
        // torchrun sets it; a launcher that doesn't gives each run a port of its own.
        let mut run_id = lookup(env::TORCHELASTIC_RUN_ID).unwrap_or_else(|| "none".into());
        let mut store = StoreHost::FirstRank;
        if lookup(env::TORCHELASTIC_USE_AGENT_STORE).is_some_and(|value| value == "True") {
            // Its store is the same one in each of its attempts, so that the attempt has to be in the keys.
            run_id = format!("{run_id}/{}", lookup(env::TORCHELASTIC_RESTART_COUNT).unwrap_or_default());
            store = StoreHost::Launcher;
        }
        Ok(Place {
            rank: number(env::RANK)?,
            world_size: number(env::WORLD_SIZE)?,
            local_rank: number(env::LOCAL_RANK)?,
            local_world_size,
            threads: default_threads(local_world_size as usize),
            master_addr: text(env::MASTER_ADDR)?,
            master_port: u16::try_from(port)
                .map_err(|_| Fault::new(Cause::BadSpec, format!("{} is {port}, not a port", env::MASTER_PORT)))?,
            run_id,
            store,
            has_slice,
        })
    }

    /// Whether this is rank 0, which writes what the job leaves behind.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The index of this process's GPU among those that it sees: each process of a pod takes the one of its local rank, but of
    /// slices CUDA shows a process a single one.
    pub fn gpu(&self) -> usize {
        if self.has_slice { 0 } else { self.local_rank as usize }
    }

    /// GPUs that this process has to see: one for each process of the pod, or the slice that is its own.
    pub fn gpus_needed(&self) -> u32 {
        if self.has_slice { 1 } else { self.local_world_size }
    }

    /// How to meet the other processes. A collective may take `timeout` before the others count as lost.
    pub fn rendezvous(&self, device: Device, timeout: Duration) -> Rendezvous {
        let backend = match device {
            // NCCL takes the slices of a GPU for one GPU, and refuses to have two ranks on it.
            Device::Cuda(_) if self.has_slice && self.world_size > 1 => Backend::Gloo,
            Device::Cuda(index) => Backend::Nccl { device: index as u32 },
            _ => Backend::Gloo,
        };
        Rendezvous {
            addr: self.master_addr.clone(),
            port: self.master_port,
            rank: self.rank,
            world_size: self.world_size,
            run_id: self.run_id.clone(),
            host: self.store,
            join_timeout: JOIN_TIMEOUT,
            timeout,
            backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Place, Fault> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Place::from_lookup(|name| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
    }

    const COMPLETE: [(&str, &str); 7] = [
        (env::RANK, "3"),
        (env::WORLD_SIZE, "4"),
        (env::LOCAL_RANK, "1"),
        (env::LOCAL_WORLD_SIZE, "2"),
        (env::MASTER_ADDR, "digits-0"),
        (env::MASTER_PORT, "29500"),
        (env::TORCHELASTIC_RUN_ID, "uid/2"),
    ];

    #[test]
    fn the_environment_of_torchrun_is_enough() {
        let place = read(&COMPLETE).unwrap();
        assert_eq!((place.rank, place.world_size, place.local_rank, place.local_world_size), (3, 4, 1, 2));
        let timeout = Duration::from_secs(40);
        let meeting = place.rendezvous(Device::Cpu, timeout);
        assert_eq!((meeting.addr.as_str(), meeting.timeout), ("digits-0", timeout));
        assert_eq!(place.rendezvous(Device::Cuda(1), timeout).backend, Backend::Nccl { device: 1 });
        assert_eq!(place.threads, default_threads(2));
    }

    #[test]
    fn a_store_that_torchrun_serves_is_joined_by_all_and_each_attempt_has_keys_of_its_own() {
        let mut torchrun = COMPLETE.to_vec();
        torchrun.extend([(env::TORCHELASTIC_USE_AGENT_STORE, "True"), (env::TORCHELASTIC_RESTART_COUNT, "1")]);
        let meeting = read(&torchrun).unwrap().rendezvous(Device::Cpu, Duration::from_secs(1));
        assert_eq!((meeting.host, meeting.run_id.as_str()), (StoreHost::Launcher, "uid/2/1"));
        let own = read(&COMPLETE).unwrap().rendezvous(Device::Cpu, Duration::from_secs(1));
        assert_eq!((own.host, own.run_id.as_str()), (StoreHost::FirstRank, "uid/2"));
    }

    #[test]
    fn a_process_with_a_slice_of_its_own_needs_no_other_gpu_and_no_nccl() {
        let with = |gpus: &str| {
            let mut pairs = COMPLETE.to_vec();
            pairs.push((VISIBLE_GPUS, gpus));
            let place = read(&pairs).unwrap();
            (
                place.gpu(),
                place.gpus_needed(),
                place.rendezvous(Device::Cuda(place.gpu()), Duration::from_secs(1)).backend,
            )
        };
        assert_eq!(with("MIG-0a1b"), (0, 1, Backend::Gloo));
        for gpus in ["0,1", "GPU-0a1b,GPU-2c3d", "MIG-0a1b,MIG-2c3d"] {
            assert_eq!(with(gpus), (1, 2, Backend::Nccl { device: 1 }), "{gpus}");
        }
    }

    #[test]
    fn without_an_environment_a_process_is_alone() {
        let place = read(&[]).unwrap();
        assert_eq!((place.rank, place.world_size), (0, 1));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (missing, _) in &COMPLETE[2..6] {
            let rest: Vec<_> = COMPLETE.into_iter().filter(|(name, _)| name != missing).collect();
            let fault = read(&rest).unwrap_err().to_string();
            assert!(fault.contains(missing), "{fault}");
        }
        let mut wrong = COMPLETE;
        wrong[5].1 = "99999";
        assert_eq!(read(&wrong).unwrap_err().to_string(), "MASTER_PORT is 99999, not a port");
    }
}
