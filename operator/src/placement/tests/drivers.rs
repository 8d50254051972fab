//! R7: which driver runs which CUDA, as a job meets it. CUDA 10.2 or a later 10.x, 11.3 or a later 11.x, 12.x, 13.x.

use super::builders::{gpus, h100, node};
use super::scheduler::lets;
use crate::observe::NodeFacts;
use crate::placement::Catalogue;

/// Drivers from 418 to 590, oldest first.
const DRIVERS: [&str; 20] = [
    "418.39",
    "440.32.99",
    "440.33",
    "440.33.01",
    "440.118.02",
    "450.80.01",
    "450.80.02",
    "450.119.03",
    "470.57.02",
    "525.60.12",
    "525.60.13",
    "525.105.17",
    "535.104.05",
    "550.54.14",
    "580.9.99",
    "580.65.05",
    "580.65.06",
    "580.95",
    "580.95.05",
    "590.1",
];

/// The oldest of [`DRIVERS`] that the runtime is placed on; every later one must do as well, and none before, whichever
/// labels say so, and the scheduler must see it alike.
fn oldest(runtime: &str, capability: &str) -> &'static str {
    let job = gpus(1).runtime(runtime);
    let mut first = None;
    for driver in DRIVERS {
        let described = || node("a", 1, "P", 16_384, capability);
        let both = described().with_driver(driver);
        let old = described().with_old_driver(driver);
        let padded =
            described().with_driver(driver).labelled("nvidia.com/cuda.driver-version.minor", padded_minor(driver));
        let answers = [both, old, padded].map(|node: NodeFacts| {
            let placed = job.placed(std::slice::from_ref(&node));
            if let Ok(placed) = &placed {
                assert!(lets(&job, placed, &node), "{runtime} on {driver}: the scheduler disagrees");
            }
            placed.is_ok()
        });
        assert_eq!(answers, [answers[0]; 3], "{runtime} on {driver}: new, old and padded labels");
        match (answers[0], first) {
            (true, None) => first = Some(driver),
            (true, Some(_)) | (false, None) => {}
            (false, Some(older)) => panic!("{runtime} runs on {older} and not on {driver}"),
        }
    }
    first.expect("some driver")
}

/// The minor version with a zero before it, as some drivers have it: an integer all the same.
fn padded_minor(driver: &str) -> String {
    format!("0{}", driver.split('.').nth(1).unwrap_or_default())
}

#[test]
fn cuda_10_2_runs_from_driver_440_33_on() {
    assert_eq!(oldest("cuda-10.2", "7.0"), "440.33");
}

#[test]
fn cuda_11_3_runs_from_driver_450_80_02_on() {
    assert_eq!(oldest("cuda-11.3", "8.0"), "450.80.02");
}

#[test]
fn cuda_12_4_runs_from_driver_525_60_13_on() {
    assert_eq!(oldest("cuda-12.4", "9.0"), "525.60.13");
}

#[test]
fn cuda_13_0_runs_from_driver_580_65_06_on() {
    assert_eq!(oldest("cuda-13.0", "10.0"), "580.65.06");
}

#[test]
fn every_11_12_and_13_runs_on_the_driver_of_its_first() {
    for (cuda, too_old, driver) in [
        ("11.0", "450.80.01", "450.80.02"),
        ("11.8", "450.80.01", "450.80.02"),
        ("12.0", "525.60.12", "525.60.13"),
        ("12.9", "525.60.12", "525.60.13"),
        ("13.4", "580.65.05", "580.65.06"),
    ] {
        let yaml = format!("runtimes: [{{name: r, image: i, cuda: '{cuda}', computeCapabilities: ['9.0']}}]");
        let catalogue = Catalogue::parse(&yaml).expect("a catalogue");
        let job = gpus(1);
        let fits = |driver: &str| {
            let pool = [h100("a", 1).with_driver(driver)];
            crate::placement::place(&job.request(), Some(&pool), &catalogue).is_ok()
        };
        assert_eq!((fits(too_old), fits(driver)), (false, true), "CUDA {cuda}");
    }
}

#[test]
fn a_forward_compatibility_package_is_an_override_of_the_catalogue() {
    let yaml =
        "runtimes: [{name: r, image: i, cuda: '13.0', computeCapabilities: ['9.0'], minimumDriver: '535.54.03'}]";
    let catalogue = Catalogue::parse(yaml).expect("a catalogue");
    let job = gpus(1);
    for (driver, fits) in [("535.54.02", false), ("535.54.03", true)] {
        let pool = [h100("a", 1).with_driver(driver)];
        assert_eq!(crate::placement::place(&job.request(), Some(&pool), &catalogue).is_ok(), fits, "{driver}");
    }
}
