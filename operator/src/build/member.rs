//! The environment of one member: what torchrun reads for each pod, and what our trainer is told besides.

use std::collections::BTreeMap;

use crds::contract::{Assignment, CONTRACT_VERSION, env};
use serde_json::Value;

use crate::observe::{Job, MemberId};

/// Arguments of the trainer in a member of any kind.
pub const COMMAND: [&str; 1] = ["launch"];

/// Where a member's processes meet, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host of the rendezvous store: that of the gang's leader.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Processes of each member.
    pub processes: u32,
}

/// What a program reads that is started without torchrun: where its processes meet, and its own rank where it is the only one
/// of its pod. torchrun gives its processes values of their own.
pub fn alone(job: &Job, id: MemberId, rendezvous: &Rendezvous) -> BTreeMap<&'static str, String> {
    let mut variables = BTreeMap::from([
        (env::MASTER_ADDR, rendezvous.address.clone()),
        (env::MASTER_PORT, rendezvous.port.to_string()),
    ]);
    if rendezvous.processes == 1 {
        let rank = (id.index % job.gang_size).to_string();
        variables.extend([
            (env::RANK, rank.clone()),
            (env::GROUP_RANK, rank),
            (env::WORLD_SIZE, job.gang_size.to_string()),
            (env::LOCAL_RANK, "0".to_owned()),
            (env::LOCAL_WORLD_SIZE, "1".to_owned()),
        ]);
    }
    variables
}

/// The environment of a member, by the contract. `spec` is that of the [`assignment`](super::assignment).
pub fn environment(job: &Job, id: MemberId, spec: &Value, rendezvous: &Rendezvous) -> BTreeMap<&'static str, String> {
    let assignment = Assignment {
        contract_version: CONTRACT_VERSION,
        kind: job.kind.clone(),
        name: job.name.clone(),
        namespace: job.namespace.clone(),
        uid: job.uid.clone(),
        created: job.created,
        attempt: id.attempt,
        member: id.index,
        members: job.members(),
        spec,
    };
    let rank = id.index % job.gang_size;
    BTreeMap::from([
        // Writing plain data as JSON can't fail; an empty assignment would be refused by the trainer with cause 64.
        (env::ASSIGNMENT, serde_json::to_string(&assignment).unwrap_or_default()),
        (env::PET_NNODES, job.gang_size.to_string()),
        (env::PET_NPROC_PER_NODE, rendezvous.processes.to_string()),
        (env::PET_NODE_RANK, rank.to_string()),
        (env::PET_MASTER_ADDR, rendezvous.address.clone()),
        (env::PET_MASTER_PORT, rendezvous.port.to_string()),
        (env::TORCHELASTIC_RUN_ID, format!("{}-{}-{}", job.uid, job.gang_of(id.index), id.attempt)),
        (env::TORCHELASTIC_RESTART_COUNT, (id.attempt - 1).to_string()),
    ])
}
