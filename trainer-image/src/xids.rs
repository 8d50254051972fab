//! Which Xid came before a GPU failed: what CUDA says of a broken GPU is seldom more than that a call failed, and the kernel's log,
//! which has the number, is not for containers. The management library tells it as it comes.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crds::contract::Cause;
use crds::xid::Xid;

use crate::fault::Fault;
use crate::torch::driver::GpuInfo;
use crate::torch::nvml::{GpuState, LIBNVML, XidEvent, XidEvents, ask};

/// How long a look takes that finds nothing, and the least time between two: a library that can't wait says so at once.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// What an Xid may take to come after the failure that it explains.
const LATER: Duration = Duration::from_secs(2);

/// The Xid of a GPU that fell off the bus.
const FELL_OFF: u64 = 79;

/// The thread that listens for the Xids of one GPU; it ends after this.
pub(crate) struct Xids {
    heard: Receiver<u64>,
    _alive: Sender<()>,
}

/// The GPU of this process.
struct Own {
    uuid: String,
    /// Whether this process sees no other.
    is_alone: bool,
}

impl Own {
    /// Whether an Xid is this GPU's. Of one that comes without a UUID nobody can ask any more; if this GPU fails as well, a GPU that
    /// fell off the bus is most likely this one.
    fn is_told_of(&self, event: &XidEvent) -> bool {
        match event.uuid.as_str() {
            "" => self.is_alone || event.number == FELL_OFF,
            uuid => uuid == self.uuid,
        }
    }
}

impl Xids {
    /// Listens for those of a GPU. Where the management library does not tell them, faults stay unexplained.
    pub(crate) fn of(gpu: &GpuInfo) -> Option<Xids> {
        let events =
            XidEvents::watch(LIBNVML).inspect_err(|error| tracing::debug!(%error, "Xids are not told")).ok()?;
        // A slice's Xids are its GPU's.
        let states = ask(LIBNVML).unwrap_or_default();
        let is_alone = states.len() == 1;
        let of = states.into_iter().find(|state| state.is_of(gpu));
        let uuid = of.map_or_else(|| gpu.uuid.clone(), |GpuState { uuid, .. }| uuid);
        Xids::listen(Own { uuid, is_alone }, move || events.next(LOOK))
    }

    fn listen(own: Own, next: impl Fn() -> Option<XidEvent> + Send + 'static) -> Option<Xids> {
        let (tell, heard) = mpsc::channel();
        let (alive, over) = mpsc::channel::<()>();
        let listen = move || {
            while over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let Some(XidEvent { number, .. }) = next().filter(|event| own.is_told_of(event)) else { continue };
                tracing::warn!(xid = number, "the driver tells of this process's GPU");
                let _ = tell.send(number);
            }
        };
        thread::Builder::new().name("xids".to_owned()).spawn(listen).ok()?;
        Some(Xids { heard, _alive: alive })
    }

    /// Adds the gravest Xid to what failed, if it is the GPU that did.
    pub(crate) fn explain(&self, fault: Fault) -> Fault {
        self.explain_within(LATER, fault)
    }

    fn explain_within(&self, limit: Duration, fault: Fault) -> Fault {
        if fault.cause() != Cause::NodeFault {
            return fault;
        }
        let first = self.heard.recv_timeout(limit).ok();
        let known = |number: u64| u16::try_from(number).ok().and_then(Xid::known);
        match first.into_iter().chain(self.heard.try_iter()).filter_map(known).max_by_key(|xid| xid.remedy) {
            Some(Xid { number, remedy }) => {
                let explained = fault.and(&format!("the driver tells Xid {number} of this GPU"));
                if remedy.advice().is_empty() { explained } else { explained.hint(remedy.advice()) }
            }
            None => fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tch::TchError;

    use super::*;
    use crate::fault::guard;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A listener to which these Xids of its own GPU and of another one have come.
    fn listening(own: &[u64]) -> Xids {
        let event = |number, uuid: &str| XidEvent { number, uuid: uuid.to_owned() };
        let mut left: Vec<XidEvent> = own.iter().map(|&number| event(number, "own")).collect();
        left.push(event(79, "another"));
        let left = Mutex::new(left.into_iter());
        Xids::listen(Own { uuid: "own".to_owned(), is_alone: false }, move || left.lock().unwrap().next()).unwrap()
    }

    #[test]
    fn a_failed_gpu_is_explained_by_its_xid() {
        let fault = || Fault::new(Cause::NodeFault, "CUDA error: unspecified launch failure").hint("look at the log");
        let explained = listening(&[31]).explain_within(MINUTE, fault());
        assert!(explained.to_string().contains("Xid 31 of this GPU"), "{explained}");
        assert_eq!(explained.advice(), Xid::known(31).unwrap().remedy.advice());
        let unknown = listening(&[9999]).explain_within(MINUTE, fault());
        assert_eq!((unknown.to_string(), unknown.advice()), (fault().to_string(), "look at the log"));
        let other = Fault::new(Cause::BadData, "no images");
        assert_eq!(
            listening(&[79]).explain_within(MINUTE, other).to_string(),
            "no images",
            "it has nothing to do with the GPU"
        );
    }

    #[test]
    fn a_failure_that_a_function_of_tch_panics_with_is_explained_as_well() {
        let thrown: fn() -> Result<u8, TchError> =
            || Err(TchError::Torch("CUDA error: unspecified launch failure".into()));
        let fault = guard(|| Ok(thrown().unwrap())).unwrap_err();
        let explained = listening(&[79]).explain_within(MINUTE, fault);
        assert!(explained.to_string().ends_with("the driver tells Xid 79 of this GPU"), "{explained}");
    }

    #[test]
    fn an_xid_without_a_name_is_taken_where_it_can_hardly_be_anothers() {
        let is_taken = |is_alone, number, uuid: &str| {
            Own { uuid: "own".to_owned(), is_alone }.is_told_of(&XidEvent { number, uuid: uuid.to_owned() })
        };
        for (is_alone, number, uuid, expected) in [
            (false, 31, "own", true),
            (false, 79, "another", false),
            (true, 79, "another", false),
            (true, 31, "", true),
            (false, 31, "", false),
            (false, 79, "", true),
        ] {
            assert_eq!(is_taken(is_alone, number, uuid), expected, "{number} of {uuid:?}");
        }
    }
}
