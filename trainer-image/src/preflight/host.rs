//! The machine as the preflight sees it: a root folder for its files, its driver library, its management library.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crds::cuda::DriverVersion;

use crate::torch::driver::{self, DriverError, DriverReport, LIBCUDA};
use crate::torch::nvml::{self, GpuState, LIBNVML};

/// Most bytes of the kernel's log that are read: more than its ring has by default.
const LOG_BYTES: usize = 4 << 20;
/// Room for a record of the kernel's log, which is read record by record.
const RECORD: usize = 8192;

/// Where to look. In a test the root is a folder of its own.
pub struct Host {
    root: PathBuf,
    probe: Box<dyn Fn() -> Result<DriverReport, DriverError>>,
    states: Box<dyn Fn() -> Result<Vec<GpuState>, DriverError>>,
}

impl Host {
    /// This machine.
    pub fn this_machine() -> Host {
        Host::new("/", || driver::probe(LIBCUDA), || nvml::ask(LIBNVML))
    }

    /// A machine with these files, this driver library and this management library.
    pub fn new(
        root: impl Into<PathBuf>,
        probe: impl Fn() -> Result<DriverReport, DriverError> + 'static,
        states: impl Fn() -> Result<Vec<GpuState>, DriverError> + 'static,
    ) -> Host {
        Host { root: root.into(), probe: Box::new(probe), states: Box::new(states) }
    }

    /// Paths of the device files through which a GPU is reached, sorted. A driver's other files, such as nvidiactl, may be
    /// there without a GPU.
    pub(super) fn gpu_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join("dev")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                let number = name.strip_prefix("nvidia");
                let is_gpu = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()));
                // The way to the GPU under WSL.
                is_gpu || name == "dxg"
            })
            .map(|name| format!("/dev/{name}"))
            .collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Whether the kernel has the driver's module, with or without a GPU for this container.
    pub(super) fn has_kernel_driver(&self) -> bool {
        self.root.join("proc/driver/nvidia").exists()
    }

    /// The version of the kernel's driver, if it tells.
    pub(crate) fn kernel_driver(&self) -> Option<DriverVersion> {
        let text = fs::read_to_string(self.root.join("proc/driver/nvidia/version")).ok()?;
        // NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
        // NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (...)
        text.lines().find(|line| line.starts_with("NVRM"))?.split_whitespace().find_map(|word| word.parse().ok())
    }

    /// Whether a file of this build is there. Such paths are not under the root.
    pub(super) fn has(&self, file: &Path) -> bool {
        file.exists()
    }

    /// Asks the management library how the GPUs are.
    pub(super) fn states(&self) -> Result<Vec<GpuState>, DriverError> {
        (self.states)()
    }

    /// The kernel's log as far back as it is kept, each line with its time before it.
    pub(super) fn kernel_log(&self) -> io::Result<String> {
        let path = self.root.join("dev/kmsg");
        let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let (mut text, mut record) = (Vec::new(), vec![0; RECORD]);
        while text.len() < LOG_BYTES {
            match log.read(&mut record) {
                // A file, in a test, has an end; the device has nothing to read for now.
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&record[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The oldest record was overwritten just now: the next one is read.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// How long the machine has been up, in seconds.
    pub(super) fn uptime(&self) -> Option<f64> {
        let text = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// Asks the driver library.
    pub(super) fn driver(&self) -> Result<DriverReport, DriverError> {
        (self.probe)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let nothing = || DriverError::Library(String::new());
        let host = Host::new(root.path(), move || Err(nothing()), move || Err(nothing()));
        (root, host)
    }

    #[test]
    fn gpus_are_told_from_the_drivers_other_files() {
        let files = ["nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "null", "dxg"];
        let files: Vec<_> = files.iter().map(|name| format!("dev/{name}")).collect();
        let (_root, host) = host(&files.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
        assert_eq!(host.gpu_files(), ["/dev/dxg", "/dev/nvidia2", "/dev/nvidia10"]);
    }

    #[test]
    fn the_kernels_driver_is_read_in_its_three_forms() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n\
                      GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs@x)\n";
        let old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  440.33.01  Wed Nov 13 00:00:22 UTC 2019\n";
        let table = [(closed, Some("535.104.05")), (open, Some("580.65.06")), (old, Some("440.33.01")), ("?", None)];
        for (text, version) in table {
            let (_root, host) = host(&[("proc/driver/nvidia/version", text)]);
            assert_eq!(host.kernel_driver().map(|v| v.to_string()).as_deref(), version, "{text}");
        }
    }
}
