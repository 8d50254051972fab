//! Which device a local job gets: what this machine has, and what follows from it.

use std::fs;
use std::path::Path;

use crds::infrastructure::{Device, Infrastructure};
use crds::status::Placement;

use super::error::RunError;

/// What each member of a job gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What the status says of it.
    pub(crate) status: Placement,
    /// Processes of each member.
    pub(crate) processes: u32,
}

/// Number of GPUs that the driver shows to this machine or container: `/dev/nvidia0`, `/dev/nvidia1` and so on.
pub(crate) fn gpus(dev: &Path) -> u32 {
    let is_gpu = |name: &str| {
        name.strip_prefix("nvidia")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
    };
    let entries = fs::read_dir(dev).into_iter().flatten().flatten();
    u32::try_from(entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()).unwrap_or(u32::MAX)
}

/// The place of a job whose gangs have `members` members at a time, on a machine with that many GPUs.
///
/// # Errors
/// [`RunError::NoGpu`] if GPUs are asked for that are not there.
pub(crate) fn place(wish: &Infrastructure, members: u32, gpus: u32) -> Result<Place, RunError> {
    let needed = members.saturating_mul(wish.gpus_per_node);
    let enough = gpus >= needed;
    let asked = if needed == 1 { "1 GPU is asked for".to_owned() } else { format!("{needed} GPUs are asked for") };
    let (device, reason) = match wish.device {
        Device::Gpu if enough => (Device::Gpu, "asked for by spec.infrastructure.device".to_owned()),
        Device::Gpu => {
            let members = if members > 1 {
                format!(" ({members} members with {} each)", wish.gpus_per_node)
            } else {
                String::new()
            };
            return Err(RunError::NoGpu(format!("{asked}{members}; this machine has {gpus}")));
        }
        Device::Cpu => (Device::Cpu, "asked for by spec.infrastructure.device".to_owned()),
        Device::Auto if enough => {
            let there = if gpus == 1 { "a GPU".to_owned() } else { format!("{gpus} GPUs") };
            (Device::Gpu, format!("this machine has {there}"))
        }
        Device::Auto if gpus == 0 => (Device::Cpu, "this machine has no GPU".to_owned()),
        Device::Auto => (Device::Cpu, format!("{asked}; this machine has {gpus}")),
    };
    let (processes, gpus) = match device {
        Device::Gpu => (wish.gpus_per_node, needed),
        _ => (wish.processes_per_node, 0),
    };
    Ok(Place { status: Placement { device, gpus, runtime: None, node: None, reason }, processes })
}

/// What the member with this share sees of the machine's GPUs, as `CUDA_VISIBLE_DEVICES` says it.
///
/// The numbers are taken from `visible`, the variable as this process has it, where it is set.
pub(crate) fn visible_gpus(place: &Place, slot: u32, visible: Option<&str>) -> String {
    if place.status.gpus == 0 {
        return String::new();
    }
    let all: Vec<String> = match visible {
        Some(list) => list.split(',').map(|gpu| gpu.trim().to_owned()).collect(),
        None => (0..place.status.gpus).map(|gpu| gpu.to_string()).collect(),
    };
    let first = usize::try_from(slot * place.processes).unwrap_or(usize::MAX);
    let count = usize::try_from(place.processes).unwrap_or(usize::MAX);
    all.into_iter().skip(first).take(count).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(device: Device, gpus_per_node: u32) -> Infrastructure {
        Infrastructure { device, gpus_per_node, processes_per_node: 3, ..Infrastructure::default() }
    }

    #[test]
    fn auto_takes_gpus_if_there_are_enough_for_all_members() {
        for (device, each, members, there, expected) in [
            (Device::Auto, 1, 1, 0, Some((Device::Cpu, 3, 0))),
            (Device::Auto, 1, 1, 1, Some((Device::Gpu, 1, 1))),
            (Device::Auto, 2, 1, 1, Some((Device::Cpu, 3, 0))),
            (Device::Auto, 2, 2, 4, Some((Device::Gpu, 2, 4))),
            (Device::Cpu, 1, 1, 8, Some((Device::Cpu, 3, 0))),
            (Device::Gpu, 1, 1, 8, Some((Device::Gpu, 1, 1))),
            (Device::Gpu, 4, 2, 4, None),
            (Device::Gpu, 1, 1, 0, None),
        ] {
            let got = place(&wish(device, each), members, there).ok();
            let got = got.map(|place| (place.status.device, place.processes, place.status.gpus));
            assert_eq!(got, expected, "{device:?}, {each} each, {members} members, {there} there");
        }
    }

    #[test]
    fn what_is_asked_for_in_vain_is_counted() {
        for (each, members, message) in [
            (1, 1, "1 GPU is asked for; this machine has 0"),
            (2, 1, "2 GPUs are asked for; this machine has 0"),
            (1, 3, "3 GPUs are asked for (3 members with 1 each); this machine has 0"),
        ] {
            let error = place(&wish(Device::Gpu, each), members, 0).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn members_share_the_gpus_out_among_them() {
        let place = place(&wish(Device::Gpu, 2), 2, 4).unwrap();
        assert_eq!(visible_gpus(&place, 0, None), "0,1");
        assert_eq!(visible_gpus(&place, 1, None), "2,3");
        assert_eq!(visible_gpus(&place, 1, Some("4,5,6,7")), "6,7");
    }
}
