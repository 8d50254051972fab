//! Proves the test control plane, and our definitions on it: what the API server makes of them, that nodes and pods behave,
//! that faults can be made, and that nothing stays behind.

#[path = "../../crds/tests/common/mod.rs"]
mod common;
mod definitions;
mod faults;
#[path = "../../crds/tests/common/pairs.rs"]
mod pairs;
mod placement;
mod rights;
