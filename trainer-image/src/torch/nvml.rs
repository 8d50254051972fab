//! What NVIDIA's management library (NVML) says about the health of the GPUs. Opens that library and nothing else.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use super::driver::{DriverError, GpuInfo, MOST_DEVICES, RawReport, text};

/// The name by which the dynamic linker finds the library.
pub const LIBNVML: &str = "libnvidia-ml.so.1";
/// Most slices of a GPU that are told: no GPU can be cut into more than seven.
const MOST_SLICES: usize = 8;

/// How a GPU is. What it does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuState {
    /// UUID without its prefix, as [`GpuInfo`](super::driver::GpuInfo) has it.
    pub uuid: String,
    /// Address on the PCI bus, as the kernel writes it: `0000:3b:00`.
    pub pci: String,
    /// UUIDs of its MIG slices that this process may see, without their prefix.
    pub slices: Vec<String>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Memory that nobody uses, in bytes.
    pub free: Option<u64>,
    /// Memory errors that were not corrected since the driver was loaded.
    pub uncorrected: Option<u64>,
    /// Rows of its memory.
    pub rows: Option<Rows>,
    /// Why its clocks are low: a sum of [`throttle`]'s numbers.
    pub throttle: Option<u64>,
    /// Processes that compute on it.
    pub processes: Option<u32>,
    /// Whether it is cut into slices.
    pub mig: Option<bool>,
    /// Its temperature in degrees Celsius.
    pub celsius: Option<u32>,
    /// Share of the last moments in which it computed, in percent.
    pub busy: Option<u32>,
}

impl GpuState {
    /// Whether this is the state of `gpu`. A slice is as its GPU is.
    pub(crate) fn is_of(&self, gpu: &GpuInfo) -> bool {
        self.uuid == gpu.uuid || self.slices.contains(&gpu.uuid)
    }
}

/// Rows of a GPU's memory that broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows that spare ones have replaced.
    pub remapped: u32,
    /// Whether one waits to be replaced by the next reset.
    pub pending: bool,
    /// Whether one could not be replaced.
    pub failed: bool,
}

/// Reasons of low clocks: `nvmlClocksThrottleReasons` of nvml.h.
pub mod throttle {
    /// The power limit is reached.
    pub const POWER_CAP: u64 = 0x4;
    /// The hardware slows itself down, for heat or power.
    pub const HARDWARE: u64 = 0x8;
    /// The driver slows it down for heat.
    pub const HEAT: u64 = 0x20;
    /// The hardware slows itself down for heat.
    pub const HARDWARE_HEAT: u64 = 0x40;
    /// The machine's power supply asks for less.
    pub const POWER_BRAKE: u64 = 0x80;
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawGpu {
    uuid: [c_char; 96],
    pci: [c_char; 32],
    slices: [[c_char; 96]; MOST_SLICES],
    memory: i64,
    free: i64,
    uncorrected: i64,
    throttle: i64,
    remapped: i32,
    pending: i32,
    failed: i32,
    processes: i32,
    mig: i32,
    celsius: i32,
    busy: i32,
}

impl RawGpu {
    const EMPTY: RawGpu = RawGpu {
        uuid: [0; 96],
        pci: [0; 32],
        slices: [[0; 96]; MOST_SLICES],
        memory: -1,
        free: -1,
        uncorrected: -1,
        throttle: -1,
        remapped: -1,
        pending: -1,
        failed: -1,
        processes: -1,
        mig: -1,
        celsius: -1,
        busy: -1,
    };
}

unsafe extern "C" {
    fn ty_nvml_ask(library: *const c_char, report: *mut RawReport, gpus: *mut RawGpu, capacity: i32) -> i32;
    fn ty_nvml_watch(library: *const c_char, report: *mut RawReport, events: *mut *mut c_void) -> i32;
    fn ty_nvml_next(
        library: *const c_char,
        events: *mut c_void,
        milliseconds: u32,
        number: *mut u64,
        uuid: *mut c_char,
    ) -> i32;
}

/// The Xids of all GPUs that this process may see, from its making on: containers can't read the kernel's log.
pub struct XidEvents {
    library: CString,
    events: *mut c_void,
}

// SAFETY: NVML takes calls of any thread; the pointer is a name of what it keeps, and never freed.
unsafe impl Send for XidEvents {}

/// An Xid that the driver told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XidEvent {
    /// Its number.
    pub number: u64,
    /// UUID of its GPU without its prefix, as [`GpuState`] has it; empty where nobody knows any more.
    pub uuid: String,
}

impl XidEvents {
    /// Begins to listen, by a management library.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn watch(library: &str) -> Result<XidEvents, DriverError> {
        let name = CString::new(library).map_err(|_| DriverError::Library(format!("{library:?} is no file name")))?;
        let (mut report, mut events) = (RawReport::new(), std::ptr::null_mut());
        // SAFETY: the string ends with a zero; it, the report, laid out as in shim/probe.h, and the out pointer live through the
        // call.
        let outcome = unsafe { ty_nvml_watch(name.as_ptr(), &mut report, &raw mut events) };
        report.failure(outcome).map_or(Ok(XidEvents { library: name, events }), Err)
    }

    /// The next one, if one comes within `limit`.
    pub fn next(&self, limit: Duration) -> Option<XidEvent> {
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let (mut number, mut uuid): (u64, [c_char; 96]) = (0, [0; 96]);
        // SAFETY: the string and the out values live through the call, and there is room for 96 bytes.
        let outcome = unsafe {
            ty_nvml_next(self.library.as_ptr(), self.events, milliseconds, &raw mut number, uuid.as_mut_ptr())
        };
        (outcome == 0).then(|| XidEvent { number, uuid: bare(&text(&uuid)) })
    }
}

/// Opens a management library, [`LIBNVML`] mostly, and asks it for every GPU that this process may see. Where there is no
/// GPU, don't call it: it maps the library.
///
/// # Errors
/// [`DriverError`].
pub fn ask(library: &str) -> Result<Vec<GpuState>, DriverError> {
    let name = CString::new(library).map_err(|_| DriverError::Library(format!("{library:?} is no file name")))?;
    let mut report = RawReport::new();
    let mut gpus = vec![RawGpu::EMPTY; MOST_DEVICES];
    // SAFETY: the string ends with a zero and lives through the call; report and gpus are laid out as in shim/nvml.cpp, are
    // writable, and gpus holds as many entries as it says.
    let outcome = unsafe { ty_nvml_ask(name.as_ptr(), &mut report, gpus.as_mut_ptr(), MOST_DEVICES as i32) };
    match report.failure(outcome) {
        Some(failure) => Err(failure),
        None => {
            let known = usize::try_from(report.count).unwrap_or(0).min(MOST_DEVICES);
            Ok(gpus[..known].iter().map(GpuState::from).collect())
        }
    }
}

impl From<&RawGpu> for GpuState {
    fn from(raw: &RawGpu) -> GpuState {
        let bytes = |value: i64| u64::try_from(value).ok();
        let small = |value: i32| u32::try_from(value).ok();
        let rows =
            small(raw.remapped).map(|remapped| Rows { remapped, pending: raw.pending > 0, failed: raw.failed > 0 });
        GpuState {
            uuid: bare(&text(&raw.uuid)),
            pci: kernel_address(&text(&raw.pci)),
            slices: raw.slices.iter().map(|slice| bare(&text(slice))).filter(|slice| !slice.is_empty()).collect(),
            memory: bytes(raw.memory),
            free: bytes(raw.free),
            uncorrected: bytes(raw.uncorrected),
            rows,
            throttle: bytes(raw.throttle),
            processes: small(raw.processes),
            mig: small(raw.mig).map(|mode| mode > 0),
            celsius: small(raw.celsius),
            busy: small(raw.busy),
        }
    }
}

/// A UUID without `GPU-` or `MIG-`.
fn bare(uuid: &str) -> String {
    uuid.trim_start_matches("GPU-").trim_start_matches("MIG-").to_ascii_lowercase()
}

/// `00000000:3B:00.0` as the kernel's messages have it: `0000:3b:00`.
fn kernel_address(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    let short = address.split_once(':').map(|(domain, rest)| {
        let domain = u32::from_str_radix(domain, 16).unwrap_or(0);
        format!("{domain:04x}:{}", rest.split('.').next().unwrap_or(rest))
    });
    short.unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// The library of a machine with two GPUs: one old that tells little, one that is cut into slices. A third fell off the bus, as
    /// the others do once they are `lost`.
    const LIBRARY: &str = r#"
        #include <stdio.h>
        #include <string.h>
        typedef unsigned long long u64;
        static int lost;
        int nvmlInit_v2(void) { return INIT; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
          *device = (void *)(u64)(index + 1); return index == 2 ? 15 : 0; }
        int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
          u64 number = (u64)device;
          if (lost) return 15;
          snprintf(uuid, size, number >= 100 ? "MIG-%08llX-0000" : "GPU-%08llX-0000", number); return 0; }
        int nvmlDeviceGetPciInfo_v3(void *device, char *pci) {
          snprintf(pci + 36, 32, "00000000:%02llX:00.0", 0x3a + (u64)device); return 0; }
        int nvmlDeviceGetMemoryInfo(void *device, u64 *memory) {
          memory[0] = 80ULL << 30; memory[1] = 70ULL << 30; memory[2] = 10ULL << 30; return 0; }
        int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, u64 *count) {
          if (device == (void *)1) return 3;
          *count = type == 1 && counter == 0 ? 2 : 99; return 0; }
        int nvmlDeviceGetRemappedRows(void *device, unsigned *c, unsigned *u, unsigned *p, unsigned *f) {
          if (device == (void *)1) return 3;
          *c = 1; *u = 3; *p = 1; *f = 0; return 0; }
        int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *reasons) { *reasons = 0x41; return 0; }
        int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *processes) {
          *count = device == (void *)1 ? 0 : 4; return *count ? 7 : 0; }
        int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { *celsius = 61; return 0; }
        int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
          if (device == (void *)1) return 3;
          *current = 1; *pending = 1; return 0; }
        int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = 7; return 0; }
        int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
          *slice = (void *)(u64)(100 + index); return index % 3 ? 6 : 0; }
    "#;

    /// Builds a library; the file's name.
    fn library(folder: &tempfile::TempDir, source: &str, init: i32) -> String {
        let (c, so) = (folder.path().join("nvml.c"), folder.path().join(format!("libnvidia-ml-{init}.so")));
        fs::write(&c, source).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&so).arg(&c).arg(format!("-DINIT={init}"));
        assert!(cc.status().unwrap().success());
        so.display().to_string()
    }

    #[test]
    fn gpus_are_described_as_far_as_they_tell() {
        let folder = tempfile::tempdir().unwrap();
        let plain = GpuState {
            uuid: "00000001-0000".into(),
            pci: "0000:3b:00".into(),
            memory: Some(80 << 30),
            free: Some(70 << 30),
            throttle: Some(0x41),
            processes: Some(0),
            celsius: Some(61),
            ..GpuState::default()
        };
        let cut = GpuState {
            uuid: "00000002-0000".into(),
            pci: "0000:3c:00".into(),
            slices: ["00000064-0000", "00000067-0000", "0000006a-0000"].map(str::to_owned).to_vec(),
            uncorrected: Some(2),
            rows: Some(Rows { remapped: 4, pending: true, failed: false }),
            processes: Some(4),
            mig: Some(true),
            ..plain
        };
        assert_eq!(ask(&library(&folder, LIBRARY, 0)), Ok(vec![plain, cut]));
    }

    #[test]
    fn xids_are_heard_of_one_by_one_and_from_a_gpu_that_has_fallen_off_the_bus() {
        const EVENTS: &str = r#"
            int nvmlEventSetCreate(void **set) { *set = (void *)7; return 0; }
            int nvmlDeviceRegisterEvents(void *device, u64 types, void *set) {
              return types == 8 && set == (void *)7 && device == (void *)2 ? 0 : 3; }
            struct event { void *device; u64 type, data; unsigned gpu, compute; };
            int nvmlEventSetWait_v2(void *set, struct event *event, unsigned milliseconds) {
              int told = lost++;
              event->device = (void *)(u64)(2 + told); event->type = 8; event->data = 79 + told;
              return told > 1 || set != (void *)7 || milliseconds != 1500 ? 10 : 0; }
        "#;
        let folder = tempfile::tempdir().unwrap();
        let file = library(&folder, &format!("{LIBRARY}{EVENTS}"), 0);
        let events = XidEvents::watch(&file).unwrap();
        let limit = Duration::from_millis(1500);
        assert_eq!(events.next(limit), Some(XidEvent { number: 79, uuid: "00000002-0000".to_owned() }));
        assert_eq!(
            events.next(limit),
            Some(XidEvent { number: 80, uuid: String::new() }),
            "of one that was never seen"
        );
        assert_eq!(events.next(limit), None);
        let lacking = XidEvents::watch(&library(&folder, "int nvmlInit_v2(void) { return 0; }", 1));
        assert_eq!(lacking.err(), Some(DriverError::Function("nvmlDeviceGetCount_v2".to_owned())));
    }

    #[test]
    fn what_fails_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let failed = DriverError::Call { call: "nvmlInit".to_owned(), code: 999, cuda: None };
        assert_eq!(ask(&library(&folder, LIBRARY, 999)), Err(failed));
        let lacking = library(&folder, "int nvmlInit_v2(void) { return 0; }", 1);
        assert_eq!(ask(&lacking), Err(DriverError::Function("nvmlDeviceGetCount_v2".to_owned())));
        assert!(matches!(ask("/nowhere/libnvidia-ml.so.1"), Err(DriverError::Library(_))));
    }
}
