//! Commands that the README tells and that take a real node: the tests on real nodes type them, those of the README count them in.

/// Follows the logs of a job through all that befalls it.
pub const FOLLOW: &str = "trainyard logs flowers -f";
