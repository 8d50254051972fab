//! A table of machines, each with its files and its driver library, and what is decided on each.

use std::fs;
use std::time::{Duration, Instant};

use crds::contract::Cause;
use crds::cuda::CudaVersion;
use crds::infrastructure::Device;

use super::super::{BUILT_ARCHITECTURES, BUILT_FOR, report};
use super::*;
use crate::torch::nvml::{GpuState, Rows, throttle};

/// A machine under construction.
struct Machine {
    root: tempfile::TempDir,
    driver: Result<DriverReport, DriverError>,
    states: Result<Vec<GpuState>, DriverError>,
    needs: Requirements,
}

/// A machine without a GPU; the build has its CUDA plug-in.
fn machine() -> Machine {
    let root = tempfile::tempdir().unwrap();
    let plugin = root.path().join("plugin.so");
    fs::write(&plugin, "").unwrap();
    let needs = Requirements {
        device: Device::Auto,
        processes: 1,
        products: Vec::new(),
        min_memory: None,
        cuda: BUILT_FOR,
        architectures: BUILT_ARCHITECTURES.to_vec(),
        plugin,
    };
    let lacks = |library: &str| DriverError::Library(format!("{library}: cannot open"));
    Machine { root, driver: Err(lacks("libcuda.so.1")), states: Err(lacks("libnvidia-ml.so.1")), needs }
}

fn gpu(name: &str, architecture: &str, gib: u64) -> GpuInfo {
    GpuInfo {
        name: name.to_owned(),
        uuid: String::new(),
        memory: gib << 30,
        architecture: architecture.parse().unwrap(),
    }
}

impl Machine {
    fn file(self, path: &str, text: &str) -> Machine {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn nodes(self) -> Machine {
        self.file("dev/nvidia0", "").file("dev/nvidiactl", "")
    }

    fn kernel(self, version: &str) -> Machine {
        self.file(
            "proc/driver/nvidia/version",
            &format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Sat\n"),
        )
    }

    fn library(mut self, cuda: i32, devices: &[GpuInfo]) -> Machine {
        self.driver = Ok(DriverReport { cuda: Some(CudaVersion::from_number(cuda)), devices: devices.to_vec() });
        self
    }

    /// What the management library says of the one GPU, which has no UUID here.
    fn states(mut self, state: &GpuState) -> Machine {
        self.states = Ok(vec![state.clone()]);
        self
    }

    fn fails(mut self, code: i32) -> Machine {
        self.driver = Err(DriverError::Call { call: "cuInit".to_owned(), code, cuda: Some(BUILT_FOR) });
        self
    }

    fn needs(mut self, change: impl FnOnce(&mut Requirements)) -> Machine {
        change(&mut self.needs);
        self
    }

    fn verdict(&self, device: Device) -> Verdict {
        let (driver, states) = (self.driver.clone(), self.states.clone());
        let host = Host::new(self.root.path(), move || driver.clone(), move || states.clone());
        run(&host, &Requirements { device, ..self.needs.clone() })
    }
}

/// A good machine: one H200 with driver 580.
fn good() -> Machine {
    machine().nodes().kernel("580.65.06").library(13_000, &[gpu("NVIDIA H200", "9.0", 141)])
}

#[test]
fn each_machine_gets_the_device_it_can_use_and_a_cause_that_helps() {
    let h200 = [gpu("NVIDIA H200", "9.0", 141)];
    let with_driver = |version: &str, cuda: i32| machine().nodes().kernel(version).library(cuda, &h200);
    let old = |version: &str| format!("the driver is {version}, and this build's CUDA 13.0 needs 580.65.06 or newer");
    /// The machine, the check that fails, and how; nothing for a GPU that can be used.
    type Row = (&'static str, Machine, Option<(&'static str, Cause, String)>);
    let table: Vec<Row> = vec![
        (
            "no GPU",
            machine(),
            Some((
                "device files",
                Cause::GpuUnsupported,
                "this machine has no NVIDIA GPU (no /dev/nvidia0, no /dev/dxg)".into(),
            )),
        ),
        (
            "a node's GPUs kept from the container",
            machine().kernel("580.65.06").file("dev/nvidiactl", ""),
            Some((
                "device files",
                Cause::GpuUnsupported,
                "the machine has NVIDIA's driver, and no GPU is given to this container".into(),
            )),
        ),
        (
            "nodes without libcuda",
            machine().nodes().kernel("580.65.06"),
            Some((
                "driver library",
                Cause::GpuUnsupported,
                "the driver library can't be opened: libcuda.so.1: cannot open".into(),
            )),
        ),
        (
            "driver 418",
            with_driver("418.87.00", 10_010),
            Some(("driver version", Cause::GpuUnsupported, old("418.87"))),
        ),
        (
            "driver 450",
            with_driver("450.80.02", 11_000),
            Some(("driver version", Cause::GpuUnsupported, old("450.80.02"))),
        ),
        (
            "driver 525",
            with_driver("525.60.13", 12_000),
            Some(("driver version", Cause::GpuUnsupported, old("525.60.13"))),
        ),
        (
            "driver 580, one short",
            with_driver("580.65.05", 12_090),
            Some(("driver version", Cause::GpuUnsupported, old("580.65.05"))),
        ),
        ("driver 580", with_driver("580.65.06", 13_000), None),
        ("driver 590", with_driver("590.10", 13_020), None),
        ("an old driver with the forward-compatibility package", with_driver("535.104.05", 13_000), None),
        (
            "an old driver whose package does not fit",
            machine().nodes().kernel("535.104.05").fails(804),
            Some(("driver version", Cause::GpuUnsupported, old("535.104.05"))),
        ),
        ("WSL", machine().file("dev/dxg", "").library(13_000, &h200), None),
        (
            "WSL with an old driver",
            machine().file("dev/dxg", "").library(12_090, &h200),
            Some((
                "driver version",
                Cause::GpuUnsupported,
                "the driver is for CUDA 12.9, and this build's CUDA 13.0 needs driver 580.65.06 or newer".into(),
            )),
        ),
        (
            "a Volta",
            good().library(13_000, &[gpu("Tesla V100", "7.0", 32)]),
            Some((
                "architecture",
                Cause::GpuUnsupported,
                "Tesla V100 has compute capability 7.0, and this build has code for 7.5, 8.0, 8.6, 9.0, 10.0, 12.0"
                    .into(),
            )),
        ),
        ("an L4, by code for its elder sister", good().library(13_000, &[gpu("NVIDIA L4", "8.9", 24)]), None),
        (
            "a GPU hidden by the environment",
            good().fails(100),
            Some((
                "driver library",
                Cause::GpuUnsupported,
                "cuInit failed with the result 100: no GPU is visible to this process".into(),
            )),
        ),
        (
            "a broken GPU",
            good().fails(999),
            Some(("driver library", Cause::NodeFault, "cuInit failed with the result 999".into())),
        ),
        (
            "fewer GPUs than processes",
            good().needs(|needs| needs.processes = 2),
            Some(("number of GPUs", Cause::GpuUnsupported, "2 processes need a GPU each, and 1 are visible".into())),
        ),
        (
            "a small GPU",
            good().library(13_000, &[gpu("NVIDIA T4", "7.5", 16)]).needs(|needs| needs.min_memory = Some(40 << 30)),
            Some((
                "memory",
                Cause::GpuUnsupported,
                "NVIDIA T4 has 16.0 GiB of memory, and 40.0 GiB are asked for".into(),
            )),
        ),
        (
            "40Gi of a GPU's 40 GiB, of which its driver keeps some",
            good()
                .library(13_000, &[GpuInfo { memory: 42_297_786_368, ..gpu("NVIDIA A100-SXM4-40GB", "8.0", 0) }])
                .needs(|needs| needs.min_memory = Some(40 << 30)),
            None,
        ),
        (
            "another product",
            good()
                .library(13_000, &[gpu("Tesla T4", "7.5", 16)])
                .needs(|needs| needs.products = ["NVIDIA-H200", "NVIDIA-L4"].map(str::to_owned).to_vec()),
            Some((
                "product",
                Cause::GpuUnsupported,
                "the GPU is Tesla T4, and NVIDIA-H200 or NVIDIA-L4 will do".into(),
            )),
        ),
        (
            "a GPU beyond those of the processes is of another product",
            good()
                .library(13_000, &[gpu("NVIDIA H200", "9.0", 141), gpu("Tesla T4", "7.5", 16)])
                .needs(|needs| (needs.products, needs.min_memory) = (vec!["NVIDIA-H200".to_owned()], Some(80 << 30))),
            None,
        ),
        (
            "a build for CPUs",
            good().needs(|needs| needs.plugin = "/nowhere/plugin.so".into()),
            Some((
                "build",
                Cause::GpuUnsupported,
                "this build of the trainer is for CPUs: /nowhere/plugin.so is not there".into(),
            )),
        ),
    ];
    for (case, machine, failure) in table {
        let verdict = machine.verdict(Device::Gpu);
        let failed = verdict.failed().map(|check| (check.name, check.outcome.clone()));
        let seen = failed.map(|(name, outcome)| match outcome {
            Outcome::Failed { cause, message, hint } => {
                assert!(!hint.is_empty(), "{case}");
                (name, cause, message)
            }
            other => panic!("{case}: {other:?}"),
        });
        assert_eq!(seen, failure, "{case}");
        match failure {
            None => assert_eq!(verdict.device().unwrap(), Device::Gpu, "{case}"),
            Some((_, cause, message)) => {
                let fault = verdict.device().unwrap_err();
                assert_eq!(
                    (fault.cause(), fault.to_string()),
                    (cause, format!("no GPU can be used here: {message}")),
                    "{case}"
                );
                // Auto goes on without a GPU, unless one is there and broken.
                let auto = machine.verdict(Device::Auto);
                match cause {
                    Cause::NodeFault => assert_eq!(auto.device().unwrap_err().exit_code(), 160, "{case}"),
                    _ => assert_eq!((auto.device().unwrap(), auto.reason), (Device::Cpu, message), "{case}"),
                }
            }
        }
        assert_eq!(machine.verdict(Device::Cpu).device().unwrap(), Device::Cpu, "{case}");
    }
}

#[test]
fn products_are_named_as_gpu_feature_discovery_names_them() {
    for (name, product, fits) in [
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3", true),
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3-SHARED", true),
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100", false),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", true),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA-H100-80GB-HBM3", true),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA-H100-80GB-HBM3-MIG-2g.20gb", false),
        ("GRID  T4-8Q (vGPU)", "GRID-T4-8Q-vGPU", true),
    ] {
        let machine = good().library(13_000, &[gpu(name, "9.0", 80)]);
        let machine = machine.needs(|needs| needs.products = vec![product.to_owned()]);
        let device = machine.verdict(Device::Auto).device().unwrap();
        assert_eq!(device == Device::Gpu, fits, "{name} for {product}");
    }
}

#[test]
fn a_job_s_wishes_are_requirements() {
    let gpu = serde_json::json!({"gpu": {"products": ["NVIDIA-L4"], "minMemory": "20Gi"}, "device": "Gpu"});
    let needs = Requirements::of_job(&serde_json::from_value(gpu).unwrap(), 2);
    let given = (needs.device, needs.processes, needs.products.as_slice(), needs.min_memory);
    assert_eq!(given, (Device::Gpu, 2, ["NVIDIA-L4".to_owned()].as_slice(), Some(20 << 30)));
}

#[test]
fn another_cuda_asks_for_another_driver() {
    let table = [
        ("440.33", 10_020, "10.2", true),
        ("418.39", 10_010, "10.2", false),
        ("450.80.02", 11_000, "11.3", true),
        ("440.33.01", 10_020, "11.3", false),
        ("525.60.13", 12_000, "12.9", true),
        ("470.256.02", 11_040, "12.0", false),
        ("580.65.06", 13_000, "12.4", true),
    ];
    for (driver, library, cuda, fits) in table {
        let machine = machine().nodes().kernel(driver).library(library, &[gpu("NVIDIA T4", "7.5", 16)]);
        let machine = machine.needs(|needs| needs.cuda = cuda.parse().unwrap());
        let device = machine.verdict(Device::Auto).device().unwrap();
        assert_eq!(device == Device::Gpu, fits, "driver {driver}, CUDA {cuda}");
    }
}

#[test]
fn without_a_gpu_the_driver_library_is_never_asked() {
    let machine = machine();
    let opened = |library: &str| -> DriverError { panic!("the {library} library was opened") };
    let host = Host::new(machine.root.path(), move || Err(opened("driver")), move || Err(opened("management")));
    for device in [Device::Auto, Device::Gpu, Device::Cpu] {
        run(&host, &Requirements { device, ..machine.needs.clone() });
    }
    let good = good();
    let host = Host::new(good.root.path(), move || Err(opened("driver")), move || Err(opened("management")));
    run(&host, &Requirements { device: Device::Cpu, ..good.needs });
}

#[test]
fn a_later_check_joins_the_list_and_is_skipped_after_a_failure() {
    let mut verdict = good().verdict(Device::Gpu);
    verdict.check("matrix product", |gpus| Outcome::Failed {
        cause: Cause::NodeFault,
        message: format!("{} multiplies wrongly", gpus[0].name),
        hint: "replace it".to_owned(),
    });
    verdict.check("collective", |_| panic!("not to be made"));
    let last = &verdict.checks.last().unwrap().outcome;
    assert_eq!(*last, Outcome::Skipped("matrix product failed".to_owned()));
    assert_eq!(verdict.device().unwrap_err().to_string(), "no GPU can be used here: NVIDIA H200 multiplies wrongly");
}

#[test]
fn a_gpu_that_can_t_be_relied_on_is_the_node_s_fault_and_one_that_is_slow_is_told() {
    let state = GpuState {
        pci: "0000:3b:00".to_owned(),
        rows: Some(Rows { remapped: 9, pending: true, failed: true }),
        throttle: Some(throttle::HARDWARE_HEAT),
        ..GpuState::default()
    };
    let broken = good().states(&state);
    assert_eq!(broken.verdict(Device::Auto).device().unwrap_err().exit_code(), 160);
    assert_eq!(broken.verdict(Device::Cpu).device().unwrap(), Device::Cpu);
    let slow = GpuState { rows: None, ..state };
    let log = "4,1,9000000,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n";
    let verdict = good().states(&slow).file("dev/kmsg", log).file("proc/uptime", "60.1 99.2\n").verdict(Device::Auto);
    assert_eq!(verdict.device().unwrap(), Device::Gpu);
    let table = report::table(&verdict);
    for line in [
        "note: NVIDIA H200 at 0000:3b:00: its hardware slows it down for heat: look at the node's cooling and power",
        "note: Xid 79 within the last hour: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.: restart this node",
    ] {
        assert!(table.contains(line), "{table}");
    }
}

#[test]
fn the_table_for_people_says_what_and_why_and_what_to_do() {
    let mut verdict = good().kernel("525.60.13").library(12_000, &[]).verdict(Device::Auto);
    verdict.checks.iter_mut().for_each(|check| check.took = Duration::from_micros(1_234));
    let expected = "\
check           result     took  what was seen
device files    passed   1.2 ms  /dev/nvidia0
build           passed   1.2 ms  CUDA 13.0
driver version  failed   1.2 ms  the driver is 525.60.13, and this build's CUDA 13.0 needs 580.65.06 or newer
driver library  skipped  1.2 ms  driver version failed
number of GPUs  skipped  1.2 ms  driver version failed
architecture    skipped  1.2 ms  driver version failed
product         skipped  1.2 ms  driver version failed
memory          skipped  1.2 ms  driver version failed
memory errors   skipped  1.2 ms  driver version failed
clocks          skipped  1.2 ms  driver version failed
sharing         skipped  1.2 ms  driver version failed
Xids            skipped  1.2 ms  driver version failed

device: Cpu, because the driver is 525.60.13, and this build's CUDA 13.0 needs 580.65.06 or newer
to use a GPU: update the node's driver to 580.65.06 or newer, or use a runtime for an older CUDA";
    assert_eq!(report::table(&verdict), expected);
}

#[test]
fn the_json_for_programs_has_the_gpus_and_every_check() {
    let told: serde_json::Value = serde_json::from_str(&report::to_json(&good().verdict(Device::Auto))).unwrap();
    assert_eq!(told["device"], "Gpu");
    assert_eq!(told["gpus"][0]["computeCapability"], "9.0");
    assert_eq!(told["gpus"][0]["memoryBytes"], 141_u64 << 30);
    let results: Vec<_> =
        told["checks"].as_array().unwrap().iter().map(|check| check["result"].as_str().unwrap()).collect();
    // Nobody has asked its management library, and the kernel's log is not there.
    assert_eq!(results, [["Passed"; 8].as_slice(), &["Skipped"; 4]].concat());
    let broken: serde_json::Value =
        serde_json::from_str(&report::to_json(&good().fails(999).verdict(Device::Auto))).unwrap();
    assert_eq!((&broken["device"], &broken["checks"][3]["cause"]), (&serde_json::Value::Null, &"NodeFault".into()));
}

#[test]
fn this_machine_gets_its_verdict_at_once() {
    let start = Instant::now();
    let verdict = run(&Host::this_machine(), &Requirements::of_this_build(Device::Auto, 1));
    let gpu_is_here = !Host::this_machine().gpu_files().is_empty();
    let bound = Duration::from_secs(if gpu_is_here { 10 } else { 1 });
    assert!(start.elapsed() < bound, "{:?}\n{}", start.elapsed(), report::table(&verdict));
    if !gpu_is_here {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("libcuda.so"), "the driver library is mapped on a machine without a GPU");
    }
}
