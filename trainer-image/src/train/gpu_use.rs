//! How busy and how warm the GPUs of this pod are while it trains, for the report: looked at now and then by a thread, through
//! NVIDIA's management library, which asks nothing of the GPUs themselves.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::torch::driver::{DriverError, GpuInfo};
use crate::torch::nvml::{GpuState, LIBNVML, ask};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// What was seen of the job's GPUs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    looks: f64,
    /// Shares of time, in percent, added up.
    busy: f64,
    /// The highest temperature, in degrees Celsius.
    pub(super) celsius: Option<u32>,
    /// The most memory in use on one GPU, and what it has, in bytes.
    pub(super) memory: Option<(u64, u64)>,
}

impl Figures {
    /// The share of the time in which a GPU computed, 0 to 1, on average.
    pub(super) fn busy(&self) -> Option<f64> {
        (self.looks > 0.0).then(|| self.busy / self.looks / 100.0)
    }

    fn add(&mut self, state: &GpuState) {
        if let Some(busy) = state.busy {
            self.looks += 1.0;
            self.busy += f64::from(busy);
        }
        self.celsius = self.celsius.max(state.celsius);
        let used = state.memory.zip(state.free).map(|(all, free)| (all.saturating_sub(free), all));
        self.memory = self.memory.max(used);
    }
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct GpuUse {
    figures: Arc<Mutex<Figures>>,
    _stop: Sender<()>,
}

impl GpuUse {
    /// Begins to look at these GPUs, if there are any; the machine may have others.
    pub(super) fn of(gpus: &[GpuInfo]) -> Option<GpuUse> {
        (!gpus.is_empty()).then(|| GpuUse::start(EVERY, gpus.to_vec(), || ask(LIBNVML)))
    }

    fn start(
        every: Duration,
        gpus: Vec<GpuInfo>,
        ask: impl Fn() -> Result<Vec<GpuState>, DriverError> + Send + 'static,
    ) -> GpuUse {
        let figures = Arc::<Mutex<Figures>>::default();
        let (stop, stopped) = channel();
        let shared = figures.clone();
        let look = move || watch(&stopped, every, &gpus, &ask, &shared);
        // Without the thread the report says less.
        let _ = std::thread::Builder::new().name("gpu-use".to_owned()).spawn(look);
        GpuUse { figures, _stop: stop }
    }

    /// What was seen so far.
    pub(super) fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(
    stopped: &Receiver<()>,
    every: Duration,
    gpus: &[GpuInfo],
    ask: &impl Fn() -> Result<Vec<GpuState>, DriverError>,
    figures: &Mutex<Figures>,
) {
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        // A library that is not there now will not come.
        let Ok(states) = ask() else { return };
        let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().filter(|state| gpus.iter().any(|gpu| state.is_of(gpu))).for_each(|state| figures.add(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_of_the_job_s_gpus_is_averaged_and_the_highest_is_kept() {
        let gpu = |uuid: &str| GpuInfo {
            name: "NVIDIA H200".to_owned(),
            uuid: uuid.to_owned(),
            memory: 100,
            architecture: "9.0".parse().unwrap(),
        };
        let state = |uuid: &str, busy, celsius, free| GpuState {
            uuid: uuid.to_owned(),
            busy: Some(busy),
            celsius: Some(celsius),
            memory: Some(100),
            free: Some(free),
            ..GpuState::default()
        };
        let slice = GpuState { slices: vec!["slice".to_owned()], ..state("cut", 70, 66, 20) };
        let states = vec![state("own", 90, 60, 40), slice, state("another job's", 0, 99, 0), GpuState::default()];
        let seen = GpuUse::start(Duration::from_millis(1), vec![gpu("own"), gpu("slice")], move || Ok(states.clone()));
        while seen.figures().busy().is_none() {
            std::thread::yield_now();
        }
        let figures = seen.figures();
        assert_eq!(figures.busy().map(|busy| (busy * 100.0).round()), Some(80.0));
        assert_eq!((figures.celsius, figures.memory), (Some(66), Some((80, 100))));
        assert!(GpuUse::of(&[]).is_none());
    }
}
