//! The pod's part of the contract: what torchrun reads for each pod (`PET_*`), and what each process gets from it.

use std::net::TcpListener;

use crds::contract::{Cause, RENDEZVOUS_PORT, env};

use crate::fault::Fault;

/// Most processes of one pod. No machine has more GPUs; a typing error must not start a million processes.
const MAX_PROCESSES: u32 = 1024;
/// Where a single pod meets itself.
const LOOPBACK: &str = "127.0.0.1";

/// What a pod is told about the gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Number of pods, from 1.
    pub nodes: u32,
    /// Number of processes of each pod, from 1.
    pub processes: u32,
    /// Rank of this pod, from 0.
    pub node_rank: u32,
    /// Host of the rendezvous store.
    pub master_addr: String,
    /// Port of the rendezvous store; 0 asks [`Pod::with_free_port`] for one.
    pub master_port: u16,
    /// Restarts of the gang before this attempt.
    pub restart_count: u32,
    /// Rendezvous key.
    pub run_id: String,
}

/// What is wrong with a pod's environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// A variable that several pods need is not there.
    #[error("{0} is not set, and {pods} is more than 1", pods = env::PET_NNODES)]
    Missing(&'static str),
    /// A variable is not a number in its range.
    #[error("{name} is {value:?}, not a whole number from {min} to {max}")]
    Number {
        /// Name of the variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// Least number allowed.
        min: u32,
        /// Greatest number allowed.
        max: u32,
    },
}

impl From<PodError> for Fault {
    fn from(error: PodError) -> Fault {
        Fault::new(Cause::BadSpec, format!("the pod's environment is wrong: {error}")).hint(
            "the operator and `trainyard run` set these; by hand, set PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK and \
             PET_MASTER_ADDR as for torchrun",
        )
    }
}

impl Pod {
    /// One pod with so many processes, which meet on this machine.
    pub fn alone(processes: u32) -> Pod {
        Pod {
            nodes: 1,
            processes,
            node_rank: 0,
            master_addr: LOOPBACK.to_owned(),
            master_port: 0,
            restart_count: 0,
            run_id: "none".to_owned(),
        }
    }

    /// Reads the environment of this process. Without any of its variables, it is one pod with one process.
    ///
    /// # Errors
    /// Those of [`Pod::from_lookup`].
    pub fn from_env() -> Result<Pod, PodError> {
        Pod::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads an environment.
    ///
    /// # Errors
    /// [`PodError`] if a number is none or out of range, or if one of several pods lacks its rank or the master.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Pod, PodError> {
        let number = |name: &'static str, min: u32, max: u32| match lookup(name) {
            None => Ok(None),
            Some(value) => match value.trim().parse::<u32>() {
                Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
                _ => Err(PodError::Number { name, value, min, max }),
            },
        };
        // An u32 rank must be left for the last process.
        let nodes = number(env::PET_NNODES, 1, u32::MAX / MAX_PROCESSES)?.unwrap_or(1);
        let processes = number(env::PET_NPROC_PER_NODE, 1, MAX_PROCESSES)?.unwrap_or(1);
        let node_rank = number(env::PET_NODE_RANK, 0, nodes - 1)?;
        let port = number(env::PET_MASTER_PORT, 1, u32::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok());
        let addr = lookup(env::PET_MASTER_ADDR).filter(|addr| !addr.is_empty());
        let (node_rank, master_addr, master_port) = if nodes == 1 {
            (0, addr.unwrap_or_else(|| LOOPBACK.to_owned()), port.unwrap_or(0))
        } else {
            (
                node_rank.ok_or(PodError::Missing(env::PET_NODE_RANK))?,
                addr.ok_or(PodError::Missing(env::PET_MASTER_ADDR))?,
                port.unwrap_or(RENDEZVOUS_PORT),
            )
        };
        Ok(Pod {
            nodes,
            processes,
            node_rank,
            master_addr,
            master_port,
            restart_count: number(env::TORCHELASTIC_RESTART_COUNT, 0, u32::MAX)?.unwrap_or(0),
            run_id: lookup(env::TORCHELASTIC_RUN_ID).unwrap_or_else(|| "none".to_owned()),
        })
    }

    /// Chooses a free port of the loopback interface for a single pod that was given none, so that two runs on one
    /// machine don't meet each other.
    ///
    /// # Errors
    /// A fault if the machine has no loopback interface or no free port.
    pub fn with_free_port(mut self) -> Result<Pod, Fault> {
        if self.master_port == 0 {
            let port = TcpListener::bind((LOOPBACK, 0)).and_then(|listener| listener.local_addr());
            self.master_port = port.map_err(|error| Fault::io("find a free port for the rendezvous", error))?.port();
        }
        Ok(self)
    }

    /// Rank of a process of this pod among all processes.
    pub fn rank(&self, local_rank: u32) -> u32 {
        self.node_rank * self.processes + local_rank
    }

    /// What torchrun sets for each process.
    pub fn process_env(&self, local_rank: u32) -> Vec<(&'static str, String)> {
        vec![
            (env::RANK, self.rank(local_rank).to_string()),
            (env::WORLD_SIZE, (self.nodes * self.processes).to_string()),
            // The process takes the GPU of this index. CUDA_VISIBLE_DEVICES stays as it is: with one GPU visible to each
            // process, NCCL could not use the links between them.
            (env::LOCAL_RANK, local_rank.to_string()),
            (env::LOCAL_WORLD_SIZE, self.processes.to_string()),
            (env::GROUP_RANK, self.node_rank.to_string()),
            (env::MASTER_ADDR, self.master_addr.clone()),
            (env::MASTER_PORT, self.master_port.to_string()),
            (env::TORCHELASTIC_RESTART_COUNT, self.restart_count.to_string()),
            (env::TORCHELASTIC_RUN_ID, self.run_id.clone()),
        ]
    }

    /// Threads of each process if `cores` are shared fairly. More threads than cores slow all of them down.
    pub fn threads(&self, cores: usize) -> usize {
        (cores / self.processes as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pairs: &[(&str, &str)]) -> Result<Pod, PodError> {
        Pod::from_lookup(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_second_of_two_pods_with_four_processes_gets_what_torchrun_would_give() {
        let pod = pod(&[
            (env::PET_NNODES, "2"),
            (env::PET_NPROC_PER_NODE, "4"),
            (env::PET_NODE_RANK, "1"),
            (env::PET_MASTER_ADDR, "digits-1-0.digits"),
            (env::TORCHELASTIC_RUN_ID, "uid-3"),
            (env::TORCHELASTIC_RESTART_COUNT, "2"),
        ])
        .unwrap();
        let expected = [
            ("RANK", "6"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("GROUP_RANK", "1"),
            ("MASTER_ADDR", "digits-1-0.digits"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_RUN_ID", "uid-3"),
        ];
        assert_eq!(pod.process_env(2), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn an_empty_environment_is_one_process_on_this_machine() {
        let pod = pod(&[]).unwrap();
        assert_eq!((pod.nodes, pod.processes, pod.rank(0), pod.master_addr.as_str()), (1, 1, 0, "127.0.0.1"));
        assert_eq!(pod.master_port, 0);
        assert_ne!(pod.with_free_port().unwrap().master_port, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table: [(&[(&str, &str)], &str); 6] = [
            (&[(env::PET_NNODES, "0")], "PET_NNODES is \"0\", not a whole number from 1 to 4194303"),
            (&[(env::PET_NNODES, "1:4")], "PET_NNODES is \"1:4\", not a whole number from 1 to 4194303"),
            (&[(env::PET_NPROC_PER_NODE, "gpu")], "PET_NPROC_PER_NODE is \"gpu\", not a whole number from 1 to 1024"),
            (
                &[(env::PET_NNODES, "2"), (env::PET_NODE_RANK, "2")],
                "PET_NODE_RANK is \"2\", not a whole number from 0 to 1",
            ),
            (&[(env::PET_NNODES, "2")], "PET_NODE_RANK is not set, and PET_NNODES is more than 1"),
            (
                &[(env::PET_NNODES, "2"), (env::PET_NODE_RANK, "1")],
                "PET_MASTER_ADDR is not set, and PET_NNODES is more than 1",
            ),
        ];
        for (pairs, text) in table {
            assert_eq!(pod(pairs).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn cores_are_shared_and_each_process_has_one_thread_at_least() {
        let pod = pod(&[(env::PET_NPROC_PER_NODE, "4")]).unwrap();
        assert_eq!([1, 4, 7, 16].map(|cores| pod.threads(cores)), [1, 1, 1, 4]);
    }
}
