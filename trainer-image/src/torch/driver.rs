//! What CUDA's driver library says about this machine. Opens that library and nothing else of CUDA.

use std::ffi::{CStr, CString, c_char};

use crds::cuda::{Architecture, CudaVersion};

/// The name by which the dynamic linker finds the driver library.
pub const LIBCUDA: &str = "libcuda.so.1";
/// More devices than any machine has.
pub(super) const MOST_DEVICES: usize = 64;

/// What the driver library knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverReport {
    /// The newest CUDA version it runs, if it says.
    pub cuda: Option<CudaVersion>,
    /// The GPUs (or slices of GPUs) that this process may see, in the order of CUDA's indices.
    pub devices: Vec<GpuInfo>,
}

/// One GPU, or one slice of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Product name.
    pub name: String,
    /// UUID without its prefix, in lower-case hexadecimal with dashes.
    pub uuid: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Compute capability.
    pub architecture: Architecture,
}

/// Why the driver library says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It can't be opened; the dynamic linker's words.
    #[error("the driver library can't be opened: {0}")]
    Library(String),
    /// It is no driver library, or one that is too old.
    #[error("the driver library has no function {0}")]
    Function(String),
    /// A call failed.
    #[error("{call} failed with the result {code}")]
    Call {
        /// Name of the function.
        call: String,
        /// The library's result.
        code: i32,
        /// The newest CUDA version it runs, if it says.
        cuda: Option<CudaVersion>,
    },
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawDevice {
    name: [c_char; 256],
    uuid: [u8; 16],
    memory: u64,
    major: i32,
    minor: i32,
}

/// `ty_probe_report` of shim/probe.h.
#[repr(C)]
pub(super) struct RawReport {
    pub(super) code: i32,
    cuda: i32,
    pub(super) count: i32,
    text: [c_char; 512],
}

impl RawReport {
    pub(super) fn new() -> RawReport {
        RawReport { code: 0, cuda: 0, count: 0, text: [0; 512] }
    }

    /// Why a question came to nothing; `None` if it did not.
    pub(super) fn failure(&self, outcome: i32) -> Option<DriverError> {
        let said = text(&self.text);
        match outcome {
            0 => None,
            1 => Some(DriverError::Library(said)),
            2 => Some(DriverError::Function(said)),
            _ => Some(DriverError::Call { call: said, code: self.code, cuda: self.cuda() }),
        }
    }

    fn cuda(&self) -> Option<CudaVersion> {
        (self.cuda > 0).then(|| CudaVersion::from_number(self.cuda))
    }
}

unsafe extern "C" {
    fn ty_driver_probe(library: *const c_char, report: *mut RawReport, devices: *mut RawDevice, capacity: i32) -> i32;
    fn ty_driver_pci(library: *const c_char, index: i32, address: *mut i32) -> i32;
}

/// The address of the GPU with this CUDA index on the PCI bus, as `/sys/bus/pci/devices` writes it: `0000:3b:00.0`. `None`
/// where the driver does not say.
pub fn pci_address(library: &str, index: usize) -> Option<String> {
    let name = CString::new(library).ok()?;
    let mut address = [0; 3];
    // SAFETY: the string ends with a zero and lives through the call, as does the room for three numbers.
    let outcome = unsafe { ty_driver_pci(name.as_ptr(), i32::try_from(index).ok()?, address.as_mut_ptr()) };
    let [domain, bus, device] = address;
    (outcome == 0).then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
}

/// Opens a driver library, [`LIBCUDA`] mostly, and asks it. Takes up to a second where there are GPUs; creates no context
/// on them. Where there is no GPU, don't call it: it may map the library.
///
/// # Errors
/// [`DriverError`].
pub fn probe(library: &str) -> Result<DriverReport, DriverError> {
    let name = CString::new(library).map_err(|_| DriverError::Library(format!("{library:?} is no file name")))?;
    let mut report = RawReport::new();
    let mut devices = [RawDevice { name: [0; 256], uuid: [0; 16], memory: 0, major: 0, minor: 0 }; MOST_DEVICES];
    // SAFETY: the string ends with a zero and lives through the call; report and devices are laid out as in
    // shim/driver.cpp, are writable, and devices holds as many entries as it says.
    let outcome = unsafe { ty_driver_probe(name.as_ptr(), &mut report, devices.as_mut_ptr(), MOST_DEVICES as i32) };
    match report.failure(outcome) {
        Some(failure) => Err(failure),
        None => {
            let known = usize::try_from(report.count).unwrap_or(0).min(MOST_DEVICES);
            Ok(DriverReport { cuda: report.cuda(), devices: devices[..known].iter().map(GpuInfo::from).collect() })
        }
    }
}

impl From<&RawDevice> for GpuInfo {
    fn from(raw: &RawDevice) -> GpuInfo {
        let hex: Vec<String> = raw.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        GpuInfo {
            name: text(&raw.name),
            uuid: [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|part| part.concat()).join("-"),
            memory: raw.memory,
            architecture: Architecture { major: number(raw.major), minor: number(raw.minor) },
        }
    }
}

pub(super) fn text(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().map(|&byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// A driver library of a machine with two GPUs, one of them a slice. `INIT` is what cuInit says.
    const LIBRARY: &str = r#"
        #include <string.h>
        int cuInit(unsigned flags) { return INIT; }
        int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
        int cuDeviceGetCount(int *count) { *count = 2; return 0; }
        int cuDeviceGet(int *device, int index) { *device = 10 + index; return 0; }
        int cuDeviceGetName(char *name, int size, int device) {
          strncpy(name, device == 10 ? "NVIDIA H200" : "NVIDIA A100 MIG 1g.5gb", size); return 0; }
        int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
          for (int i = 0; i < 16; i++) uuid[i] = 16 * (device - 10) + i; return 0; }
        int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 5UL << 30; return 0; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) {
          *value = attribute == 75 ? (device == 10 ? 9 : 8) : attribute == 33 ? 0x3b : attribute == 50 ? device : 0;
          return 0; }
    "#;

    fn library(folder: &tempfile::TempDir, source: &str, init: i32) -> String {
        let (c, so) = (folder.path().join("cuda.c"), folder.path().join(format!("libcuda-{init}.so")));
        fs::write(&c, source).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&so).arg(&c).arg(format!("-DINIT={init}"));
        assert!(cc.status().unwrap().success());
        so.display().to_string()
    }

    #[test]
    fn a_driver_with_two_devices_is_read_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = |name: &str, uuid: &str, major| GpuInfo {
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            memory: 5 << 30,
            architecture: Architecture { major, minor: 0 },
        };
        let expected = DriverReport {
            cuda: Some(CudaVersion { major: 13, minor: 0 }),
            devices: vec![
                gpu("NVIDIA H200", "00010203-0405-0607-0809-0a0b0c0d0e0f", 9),
                gpu("NVIDIA A100 MIG 1g.5gb", "10111213-1415-1617-1819-1a1b1c1d1e1f", 8),
            ],
        };
        let library = library(&folder, LIBRARY, 0);
        assert_eq!(probe(&library), Ok(expected));
        assert_eq!(pci_address(&library, 1).as_deref(), Some("000b:3b:00.0"));
    }

    #[test]
    fn what_fails_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let cuda = Some(CudaVersion { major: 13, minor: 0 });
        let failed = DriverError::Call { call: "cuInit".to_owned(), code: 999, cuda };
        assert_eq!(probe(&library(&folder, LIBRARY, 999)), Err(failed));
        let lacking = library(&folder, "int cuInit(unsigned flags) { return 0; }", 1);
        assert_eq!(probe(&lacking), Err(DriverError::Function("cuDriverGetVersion".to_owned())));
        assert_eq!([lacking.as_str(), "/nowhere/libcuda.so.1"].map(|library| pci_address(library, 0)), [None, None]);
        let Err(DriverError::Library(text)) = probe("/nowhere/libcuda.so.1") else { panic!("opened nothing") };
        assert!(text.contains("/nowhere/libcuda.so.1"), "{text}");
    }
}
