//! Decisions: tables that read as sentences, and properties of whole histories.

mod builders;
mod histories;
mod interleavings;
mod tables;
