//! Decisions: tables that read as sentences, and properties of whole histories.

mod absence;
pub(crate) mod builders;
mod failures;
mod histories;
mod interleavings;
mod policies;
mod room;
mod shards;
mod starts;
mod tables;
mod words;
