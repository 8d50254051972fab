//! Why a process ended: the exit codes of the contract.

use serde::{Deserialize, Serialize};

/// Why a process of a job ended, as its exit code says. 1 to 127 are permanent, but for 69, which is tried on other
/// nodes; 128 to 255 are worth a retry, which 143 costs none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// The job is done.
    Completed,
    /// 64: the manifest asks for what can't be done.
    BadSpec,
    /// 65: the data is there and can't be used.
    BadData,
    /// 66: the data, a model or a file is not there.
    DataMissing,
    /// 69: the node's CUDA driver or the GPU's architecture does not fit the runtime. Place elsewhere.
    GpuUnsupported,
    /// 70: a defect of the trainer.
    Bug,
    /// 71: host memory ran out.
    HostMemory,
    /// 72: GPU memory ran out. The same shape will never fit.
    GpuMemory,
    /// 73: the loss or a gradient is not finite.
    NotFinite,
    /// 77: a permission is missing.
    Permission,
    /// 143: stopped by SIGTERM with a checkpoint committed. Costs no retry.
    Preempted,
    /// 160: the GPU or the node is at fault. That node is left out of the next attempt.
    NodeFault,
    /// 161: a peer was lost or a collective timed out.
    PeerLost,
    /// 162: storage or the network failed.
    Storage,
    /// Any other code from 1 to 127: permanent.
    OtherPermanent,
    /// Any other code from 128 to 255 (a signal, say): worth a retry.
    OtherRetryable,
}

impl Cause {
    /// Every cause with an exit code of its own, in the order of the codes.
    pub const CODES: [(i32, Cause); 14] = [
        (0, Cause::Completed),
        (64, Cause::BadSpec),
        (65, Cause::BadData),
        (66, Cause::DataMissing),
        (69, Cause::GpuUnsupported),
        (70, Cause::Bug),
        (71, Cause::HostMemory),
        (72, Cause::GpuMemory),
        (73, Cause::NotFinite),
        (77, Cause::Permission),
        (143, Cause::Preempted),
        (160, Cause::NodeFault),
        (161, Cause::PeerLost),
        (162, Cause::Storage),
    ];

    /// The cause that an exit code stands for; codes of a later contract map by their range.
    pub fn from_exit_code(code: i32) -> Cause {
        match Self::CODES.iter().find(|(known, _)| *known == code) {
            Some((_, cause)) => *cause,
            None if (1..128).contains(&code) => Cause::OtherPermanent,
            None => Cause::OtherRetryable,
        }
    }

    /// The exit code of this cause; a cause without a code of its own has 1 or 255.
    pub fn exit_code(self) -> i32 {
        match Self::CODES.iter().find(|(_, cause)| *cause == self) {
            Some((code, _)) => *code,
            None if self == Cause::OtherPermanent => 1,
            None => 255,
        }
    }

    /// Whether another attempt can end differently.
    pub fn is_retryable(self) -> bool {
        self == Cause::GpuUnsupported || self.exit_code() >= 128
    }

    /// Whether a restart for this cause counts against `backoffLimit`.
    pub fn costs_budget(self) -> bool {
        !matches!(self, Cause::Completed | Cause::Preempted)
    }
}
