//! Keeps each process on the CPUs of one memory node of the machine: that of its GPU, or, on CPUs, one of its own. A process
//! that wanders between nodes reads half of its memory through the slower link. Where there is one node, or nothing is known,
//! nothing is done. Needs Linux' `/sys` and no library.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A memory node, and those of its CPUs that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    id: u32,
    cpus: BTreeSet<usize>,
}

/// Where a process computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// On CPUs: one of so many processes of this pod.
    Cpu {
        /// Rank among the processes of the pod.
        local_rank: u32,
        /// Number of processes of the pod.
        local_world_size: u32,
    },
    /// On a GPU.
    Gpu {
        /// Its address on the PCI bus, such as `0000:3b:00.0`, if it is known.
        pci: Option<String>,
    },
}

/// Binds this process, and every thread that it starts from now on, to the CPUs of its memory node. A failure is logged and
/// costs speed alone.
pub(crate) fn bind(seat: &Seat) {
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return };
    let allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let Some(node) = choose(Path::new("/sys"), &allowed, seat) else { return };
    let mut set = CpuSet::new();
    let bound = node.cpus.iter().try_for_each(|cpu| set.set(*cpu)).and_then(|()| sched_setaffinity(this, &set));
    match bound {
        Ok(()) => tracing::info!(node = node.id, cpus = node.cpus.len(), "bound to the CPUs of one memory node"),
        Err(error) => tracing::warn!(node = node.id, %error, "can't bind to the CPUs of one memory node"),
    }
}

/// The node of a seat by what `/sys` says; `None` where there is no choice, or nothing to choose by.
fn choose(sys: &Path, allowed: &BTreeSet<usize>, seat: &Seat) -> Option<Node> {
    let nodes = nodes(sys, allowed);
    if nodes.len() < 2 {
        return None;
    }
    match seat {
        Seat::Gpu { pci } => {
            let path = sys.join("bus/pci/devices").join(pci.as_ref()?).join("numa_node");
            // -1 where the firmware does not say.
            let id: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
            nodes.into_iter().find(|node| node.id == id)
        }
        Seat::Cpu { local_rank, local_world_size } => {
            let (rank, processes) = (*local_rank as usize, *local_world_size as usize);
            // Fewer processes than nodes would leave CPUs idle.
            if processes < nodes.len() || rank >= processes {
                return None;
            }
            let index = rank * nodes.len() / processes;
            nodes.into_iter().nth(index)
        }
    }
}

/// The nodes that have CPUs which this process may use, by number.
fn nodes(sys: &Path, allowed: &BTreeSet<usize>) -> Vec<Node> {
    let Ok(entries) = std::fs::read_dir(sys.join("devices/system/node")) else { return Vec::new() };
    let node = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let cpus = cpus(&std::fs::read_to_string(entry.path().join("cpulist")).ok()?)?;
        Some(Node { id, cpus: cpus.intersection(allowed).copied().collect() })
    };
    let mut nodes: Vec<Node> =
        entries.filter_map(|entry| node(entry.ok()?)).filter(|node| !node.cpus.is_empty()).collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// A list of CPUs as the kernel writes it: `0-3,8,10-11`. `None` where it is something else.
fn cpus(list: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's `/sys`: memory nodes with their lists of CPUs, GPUs with their nodes.
    fn sys(nodes: &[(u32, &str)], gpus: &[(&str, i32)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (id, cpus) in nodes {
            write(format!("devices/system/node/node{id}/cpulist"), format!("{cpus}\n"));
        }
        write("devices/system/node/online".to_owned(), "0-1\n".to_owned());
        for (pci, node) in gpus {
            write(format!("bus/pci/devices/{pci}/numa_node"), format!("{node}\n"));
        }
        sys
    }

    fn cpu(local_rank: u32, local_world_size: u32) -> Seat {
        Seat::Cpu { local_rank, local_world_size }
    }

    fn gpu(pci: &str) -> Seat {
        Seat::Gpu { pci: Some(pci.to_owned()) }
    }

    const TWO: [(u32, &str); 2] = [(0, "0-3,8-11"), (1, "4-7,12-15")];

    #[test]
    fn processes_on_cpus_are_spread_over_the_nodes() {
        let sys = sys(&TWO, &[]);
        let all = (0..16).collect();
        let of = |rank, processes| choose(sys.path(), &all, &cpu(rank, processes)).map(|node| node.id);
        assert_eq!([0, 1, 2, 3].map(|rank| of(rank, 4)), [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!([0, 1, 2].map(|rank| of(rank, 3)), [Some(0), Some(0), Some(1)]);
        assert_eq!(of(0, 1), None, "one process uses all nodes");
        let second = choose(sys.path(), &all, &cpu(1, 2)).unwrap();
        assert_eq!(second.cpus, BTreeSet::from([4, 5, 6, 7, 12, 13, 14, 15]));
    }

    #[test]
    fn a_process_stays_at_its_gpu() {
        let sys = sys(&TWO, &[("0000:3b:00.0", 1), ("0000:5e:00.0", -1)]);
        let all = (0..16).collect();
        let of = |pci| choose(sys.path(), &all, &gpu(pci)).map(|node| node.id);
        assert_eq!(of("0000:3b:00.0"), Some(1));
        assert_eq!(choose(sys.path(), &all, &Seat::Gpu { pci: None }), None);
        assert_eq!([of("0000:5e:00.0"), of("0000:ff:00.0")], [None, None], "the machine does not say");
    }

    #[test]
    fn what_the_pod_may_not_use_is_left_out() {
        let sys = sys(&TWO, &[("0000:3b:00.0", 1)]);
        let second = choose(sys.path(), &BTreeSet::from([2, 3, 4, 5]), &cpu(1, 2)).unwrap();
        assert_eq!(second, Node { id: 1, cpus: BTreeSet::from([4, 5]) });
        // All of the pod's CPUs are at the other node: away from its GPU is better than nowhere.
        assert_eq!(choose(sys.path(), &BTreeSet::from([0, 1]), &gpu("0000:3b:00.0")), None);
    }

    #[test]
    fn on_one_node_or_without_any_nothing_is_done() {
        let all = (0..16).collect();
        assert_eq!(choose(sys(&[(0, "0-15")], &[]).path(), &all, &cpu(0, 4)), None);
        // Memory without CPUs is a node, too.
        assert_eq!(choose(sys(&[(0, "0-15"), (1, "")], &[]).path(), &all, &cpu(0, 4)), None);
        assert_eq!(choose(Path::new("/nowhere"), &all, &cpu(0, 4)), None);
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpus("0-2,8,10-11\n"), Some(BTreeSet::from([0, 1, 2, 8, 10, 11])));
        assert_eq!(cpus("\n"), Some(BTreeSet::new()));
        assert_eq!(cpus("all"), None);
    }
}
