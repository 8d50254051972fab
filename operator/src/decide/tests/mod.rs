//! Decisions: tables that read as sentences, and properties of whole histories.

mod builders;
mod failures;
mod histories;
mod interleavings;
mod tables;
mod words;
