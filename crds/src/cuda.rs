//! Which driver runs which CUDA, and which GPU runs which code: the table that the operator places by and that a trainer
//! checks itself against.

use std::fmt;
use std::str::FromStr;

/// A version of NVIDIA's driver, such as 535.104.05.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverVersion {
    /// The branch.
    pub major: u32,
    /// The release in the branch.
    pub minor: u32,
    /// The revision, or 0.
    pub revision: u32,
}

/// A version of CUDA, such as 13.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion {
    /// The major version.
    pub major: u32,
    /// The minor version.
    pub minor: u32,
}

/// A GPU's compute capability, or the one that code was compiled for, such as 9.0 (`sm_90`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// The generation.
    pub major: u32,
    /// The member of the generation.
    pub minor: u32,
}

/// What is no version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version: expected two or three numbers with dots between them")]
pub struct VersionError(String);

const fn driver(major: u32, minor: u32, revision: u32) -> DriverVersion {
    DriverVersion { major, minor, revision }
}

/// The oldest driver for each CUDA: its major version, its minor version where each has its own, the driver. From 11 on a
/// driver runs every minor version of its major one. Source: NVIDIA's CUDA release notes, "CUDA Toolkit and Minimum
/// Required Driver Version for CUDA Minor Version Compatibility" (Linux), and for 10.x its table of toolkit drivers.
pub const MINIMUM_DRIVERS: [(u32, Option<u32>, DriverVersion); 6] = [
    (10, Some(0), driver(410, 48, 0)),
    (10, Some(1), driver(418, 39, 0)),
    (10, Some(2), driver(440, 33, 0)),
    (11, None, driver(450, 80, 2)),
    (12, None, driver(525, 60, 13)),
    (13, None, driver(580, 65, 6)),
];

/// The oldest driver that runs a CUDA version; `None` for one that the table does not know.
pub fn minimum_driver(cuda: CudaVersion) -> Option<DriverVersion> {
    let row =
        MINIMUM_DRIVERS.iter().find(|(major, minor, _)| *major == cuda.major && minor.is_none_or(|m| m == cuda.minor));
    row.map(|(_, _, driver)| *driver)
}

impl CudaVersion {
    /// Reads the number that CUDA's own functions give: 1000 times the major version and 10 times the minor one.
    pub fn from_number(number: i32) -> CudaVersion {
        let number = u32::try_from(number).unwrap_or(0);
        CudaVersion { major: number / 1000, minor: number % 1000 / 10 }
    }

    /// Whether a driver whose own CUDA version is `self` runs a program of version `program`.
    pub fn runs(self, program: CudaVersion) -> bool {
        self >= program || (self.major == program.major && self.major >= 11)
    }
}

impl Architecture {
    /// Whether a GPU of this capability runs code compiled for one of `built`: compiled code runs on its own generation,
    /// from its own member on.
    pub fn runs_any(self, built: &[Architecture]) -> bool {
        built.iter().any(|built| built.major == self.major && built.minor <= self.minor)
    }
}

/// The numbers between dots; the last may be missing.
fn numbers(text: &str) -> Result<(u32, u32, u32), VersionError> {
    let wrong = || VersionError(text.to_owned());
    let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => part.parse().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let mut parts = text.trim().split('.').map(number);
    let (Some(major), Some(minor), revision, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    Ok((major?, minor?, revision.unwrap_or(Ok(0))?))
}

impl FromStr for DriverVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<DriverVersion, VersionError> {
        let (major, minor, revision) = numbers(text)?;
        Ok(DriverVersion { major, minor, revision })
    }
}

impl FromStr for CudaVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<CudaVersion, VersionError> {
        let (major, minor, _) = numbers(text)?;
        Ok(CudaVersion { major, minor })
    }
}

impl FromStr for Architecture {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Architecture, VersionError> {
        match numbers(text)? {
            (major, minor, 0) => Ok(Architecture { major, minor }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl fmt::Display for DriverVersion {
    /// As NVIDIA writes it: two digits at least, and no revision where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.major, self.minor)?;
        if self.revision > 0 { write!(f, ".{:02}", self.revision) } else { Ok(()) }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cuda_has_the_driver_that_nvidia_names() {
        let table = [
            ("9.2", None),
            ("10.0", Some("410.48")),
            ("10.1", Some("418.39")),
            ("10.2", Some("440.33")),
            ("10.3", None),
            ("11.0", Some("450.80.02")),
            ("11.3", Some("450.80.02")),
            ("11.8", Some("450.80.02")),
            ("12.0", Some("525.60.13")),
            ("12.9", Some("525.60.13")),
            ("13.0", Some("580.65.06")),
            ("14.0", None),
        ];
        for (cuda, driver) in table {
            let found = minimum_driver(cuda.parse().unwrap()).map(|driver| driver.to_string());
            assert_eq!(found.as_deref(), driver, "CUDA {cuda}");
        }
    }

    #[test]
    fn drivers_are_ordered_by_numbers_not_by_letters() {
        let ordered = [
            "418.39",
            "440.33",
            "440.33.01",
            "450.80.02",
            "450.119.03",
            "525.60.13",
            "525.105.17",
            "580.65.06",
            "1000.1",
        ];
        let versions: Vec<DriverVersion> = ordered.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "450", "450.", ".80", "450.80.02.1", "a.b", "450.-1", "450.+1", "99999999999.1", "450 .80"] {
            assert_eq!(text.parse::<DriverVersion>(), Err(VersionError(text.to_owned())), "{text:?}");
        }
        assert_eq!(" 535.104.05\n".parse(), Ok(driver(535, 104, 5)));
        assert!("9.0.1".parse::<Architecture>().is_err());
    }

    #[test]
    fn a_driver_runs_programs_of_its_major_version_from_11_on() {
        let table = [
            (12_020, "12.9", true),
            (12_020, "13.0", false),
            (13_000, "12.4", true),
            (10_010, "10.2", false),
            (10_020, "10.1", true),
            (-1, "11.0", false),
        ];
        for (driver, program, runs) in table {
            assert_eq!(CudaVersion::from_number(driver).runs(program.parse().unwrap()), runs, "{driver} {program}");
        }
    }

    #[test]
    fn code_runs_on_its_own_generation_from_its_own_member_on() {
        let built = ["7.5", "8.0", "8.6", "9.0"].map(|text| text.parse().unwrap());
        let table = [
            ("7.0", false),
            ("7.5", true),
            ("8.0", true),
            ("8.9", true),
            ("9.0", true),
            ("10.0", false),
            ("6.1", false),
        ];
        for (gpu, runs) in table {
            assert_eq!(gpu.parse::<Architecture>().unwrap().runs_any(&built), runs, "{gpu}");
        }
    }
}
