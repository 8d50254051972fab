//! Why ranks can't meet or can't go on together.

use std::time::Duration;

use crds::contract::Cause;
use thiserror::Error;

use super::flight::Flight;
use crate::torch::TorchError;

/// A failure of distributed training.
#[derive(Debug, Error)]
pub enum DdpError {
    /// A rank outside the world.
    #[error("rank {rank} does not exist in a world of {world_size}; RANK must be below WORLD_SIZE")]
    Rank {
        /// Rank of this process.
        rank: u32,
        /// Number of ranks.
        world_size: u32,
    },
    /// The host of the store can't be reached.
    #[error("rank {rank} could not reach the rendezvous at {address} within {}: {source}; rank 0 must run and be reachable there", Seconds(*.waited))]
    Unreachable {
        /// Rank of this process.
        rank: u32,
        /// Host and port of the store.
        address: String,
        /// How long it was tried.
        waited: Duration,
        /// What was thrown.
        source: TorchError,
    },
    /// This process can't serve the store.
    #[error("rank {rank} can't serve the rendezvous at {address}: {source}; is the port in use?")]
    Serve {
        /// Rank of this process.
        rank: u32,
        /// Host and port of the store.
        address: String,
        /// What was thrown.
        source: TorchError,
    },
    /// The store belongs to another run or attempt.
    #[error(
        "the rendezvous at {address} belongs to run {theirs}, this process to run {ours}; one of the two is left over from another attempt"
    )]
    OtherRun {
        /// Host and port of the store.
        address: String,
        /// Run of this process.
        ours: String,
        /// Run of the store.
        theirs: String,
    },
    /// Ranks don't agree on their number.
    #[error("rank {rank} was told of {ours} ranks and rank 0 of {theirs}; WORLD_SIZE must be the same for all")]
    WorldSize {
        /// Rank of this process.
        rank: u32,
        /// Number of ranks as this process was told.
        ours: u32,
        /// Number of ranks as rank 0 was told.
        theirs: String,
    },
    /// Two processes have one rank.
    #[error("rank {rank} has joined twice; each process needs a RANK of its own")]
    Twice {
        /// The rank.
        rank: u32,
    },
    /// Some ranks did not come.
    #[error("{} of {world_size} ranks did not join within {}: {}; see what ended them, or give them more time", .missing.len(), Seconds(*.waited), Ranks(.missing))]
    Missing {
        /// The ranks that did not come.
        missing: Vec<u32>,
        /// Number of ranks.
        world_size: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// Ranks have other models.
    #[error(
        "the model differs between ranks: {difference}{}; start all ranks with the same image, the same spec and the same data",
        if *.models > 2 { format!("; there are {models} different models") } else { String::new() }
    )]
    Differs {
        /// Which tensors, how, on which ranks.
        difference: String,
        /// Number of different models.
        models: usize,
    },
    /// Parameters got no gradient from a backward pass.
    #[error("the first step gave no gradient to {}; every parameter that is trained must take part in the loss: freeze those that don't", Names(.names))]
    Unused {
        /// The parameters.
        names: Vec<String>,
    },
    /// Others did not come to what this rank was doing.
    #[error("{during}{}: {} of {world_size} ranks did not come: {}; {source}", Collective(.collective), .absent.len(), Ranks(.absent))]
    Absent {
        /// What was under way.
        during: &'static str,
        /// The collective that did not end, where libtorch's flight recorder has it.
        collective: Option<Flight>,
        /// The ranks that are gone, stand still, or do something else.
        absent: Vec<u32>,
        /// Number of ranks.
        world_size: u32,
        /// What was thrown.
        source: TorchError,
    },
    /// libtorch failed.
    #[error("{during}: {source}")]
    Torch {
        /// What was under way.
        during: &'static str,
        /// What was thrown.
        source: TorchError,
    },
}

struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} s", self.0.as_secs_f64())
    }
}

pub(super) struct Ranks<'a>(pub(super) &'a [u32]);

impl std::fmt::Display for Ranks<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 16;
        let shown: Vec<String> = self.0.iter().take(SHOWN).map(u32::to_string).collect();
        let more = self.0.len().saturating_sub(SHOWN);
        write!(formatter, "{}{}", shown.join(", "), if more == 0 { String::new() } else { format!(" and {more} more") })
    }
}

struct Names<'a>(&'a [String]);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 8;
        let more = self.0.len().saturating_sub(SHOWN);
        write!(formatter, "{}", self.0[..self.0.len() - more].join(", "))?;
        if more == 0 { Ok(()) } else { write!(formatter, " and {more} more") }
    }
}

struct Collective<'a>(&'a Option<Flight>);

impl std::fmt::Display for Collective<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |flight| write!(formatter, " ({flight})"))
    }
}

impl DdpError {
    /// A stable name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            DdpError::Rank { .. } => "rank",
            DdpError::Unreachable { .. } => "unreachable",
            DdpError::Serve { .. } => "serve",
            DdpError::OtherRun { .. } => "other-run",
            DdpError::WorldSize { .. } => "world-size",
            DdpError::Twice { .. } => "joined-twice",
            DdpError::Missing { .. } => "missing-ranks",
            DdpError::Differs { .. } => "model-differs",
            DdpError::Unused { .. } => "unused-parameters",
            DdpError::Absent { source, .. } | DdpError::Torch { source, .. } => source.category(),
        }
    }

    /// The cause with which the process ends. A rendezvous that failed counts as a lost peer: another attempt may find
    /// everybody.
    pub fn cause(&self) -> Cause {
        match self {
            DdpError::Rank { .. } | DdpError::Unused { .. } => Cause::Bug,
            DdpError::Differs { .. } => Cause::BadSpec,
            DdpError::Absent { source, .. } | DdpError::Torch { source, .. } => source.cause(),
            _ => Cause::PeerLost,
        }
    }
}

/// Says during what something failed.
pub(super) trait During<T> {
    fn during(self, during: &'static str) -> Result<T, DdpError>;
}

impl<T> During<T> for Result<T, TorchError> {
    fn during(self, during: &'static str) -> Result<T, DdpError> {
        self.map_err(|source| DdpError::Torch { during, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ranks_are_named_up_to_a_bound() {
        let text = |missing: Vec<u32>| {
            DdpError::Missing { missing, world_size: 64, waited: Duration::from_millis(1500) }.to_string()
        };
        assert_eq!(
            text(vec![3, 5]),
            "2 of 64 ranks did not join within 1.5 s: 3, 5; see what ended them, or give them more time"
        );
        assert!(text((0..40).collect()).contains("14, 15 and 24 more; "));
    }

    #[test]
    fn parameters_without_a_gradient_are_named_up_to_a_bound() {
        let text =
            |count: usize| DdpError::Unused { names: (0..count).map(|at| format!("p{at}")).collect() }.to_string();
        assert!(text(2).starts_with("the first step gave no gradient to p0, p1; "), "{}", text(2));
        assert!(text(20).contains("p6, p7 and 12 more; "), "{}", text(20));
    }
}
