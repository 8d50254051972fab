//! Manifests with faults, and where the faults are said to be.
