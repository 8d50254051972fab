//! How ranks find out at the store that they belong together and that all have come, and by which address others reach them.

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use super::error::{DdpError, During};
use super::group::{Rendezvous, StoreHost};
use super::roll::{FAREWELL, wait_for};
use crate::torch::{ProcessGroup, TorchError};

/// The one key without the run's prefix: the run that the store serves.
const RUN: &str = "trainyard/run";
/// Number of ranks as rank 0 was told.
const WORLD_SIZE: &str = "world_size";

/// Makes sure that every process at the store belongs to this run, and that all of its ranks have come.
pub(super) fn check_in(
    store: &ProcessGroup,
    rendezvous: &Rendezvous,
    address: &str,
    start: Instant,
) -> Result<(), DdpError> {
    const DURING: &str = "meeting the other ranks";
    let Rendezvous { rank, world_size, run_id, host, join_timeout, .. } = rendezvous;
    let is_first = *rank == 0;
    let left = || join_timeout.saturating_sub(start.elapsed());
    let text = |key| store.get(key, left()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).during(DURING);
    // A launcher's store has what older attempts left there, and lets nobody in who is not of its run.
    if *host == StoreHost::FirstRank {
        if is_first {
            store.set(RUN, run_id.as_bytes()).during(DURING)?;
        }
        let theirs = text(RUN)?;
        if theirs != *run_id {
            return Err(DdpError::OtherRun { address: address.to_string(), ours: run_id.clone(), theirs });
        }
    }
    store.prefix_keys(&format!("{run_id}/")).during(DURING)?;
    if is_first {
        store.set(WORLD_SIZE, world_size.to_string().as_bytes()).during(DURING)?;
    }
    let theirs = text(WORLD_SIZE)?;
    if theirs != world_size.to_string() {
        return Err(DdpError::WorldSize { rank: *rank, ours: *world_size, theirs });
    }
    if store.add(&format!("rank/{rank}"), 1).during(DURING)? > 1 {
        return Err(DdpError::Twice { rank: *rank });
    }
    // One counter wakes all ranks: rank keys are looked at one by one only to say who is missing.
    if store.add("joined", 1).during(DURING)? == i64::from(*world_size) {
        store.set("complete", b"1").during(DURING)?;
    }
    match store.get("complete", left()) {
        Ok(_) => Ok(()),
        Err(TorchError::Timeout(_)) => {
            let mut missing = Vec::new();
            for other in 0..*world_size {
                if !store.has(&format!("rank/{other}")).during(DURING)? {
                    missing.push(other);
                }
            }
            let told = store.add("told", 1).during(DURING)?;
            if rendezvous.is_host() {
                // The store ends with this process: the others get the time to see who is missing.
                let here = i64::from(*world_size) - i64::try_from(missing.len()).unwrap_or(0);
                wait_for(FAREWELL, || store.add("told", 0).is_ok_and(|now| now.max(told) >= here));
            }
            Err(DdpError::Missing { missing, world_size: *world_size, waited: *join_timeout })
        }
        Err(source) => Err(DdpError::Torch { during: DURING, source }),
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The address of this machine from which the host is reached, and on which the other ranks reach this one. Empty where
/// that can't be told or where `GLOO_SOCKET_IFNAME` decides.
pub(super) fn own_address(host: &str, port: u16, world_size: u32) -> String {
    if world_size == 1 || is_loopback(host) {
        return "127.0.0.1".to_string();
    }
    if std::env::var_os("GLOO_SOCKET_IFNAME").is_some() {
        return String::new();
    }
    // Connecting a datagram socket sends nothing; it makes the kernel choose a route.
    let route = |bind: &str| {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((host, port.max(1))).ok()?;
        socket.local_addr().ok().map(|address| address.ip().to_string())
    };
    route("0.0.0.0").or_else(|| route("::")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_use_loopback() {
        assert_eq!(own_address("127.0.0.1", 1, 2), "127.0.0.1");
        assert_eq!(own_address("localhost", 1, 2), "127.0.0.1");
        assert!(!is_loopback("10.0.0.1") && is_loopback("::1"));
    }
}
