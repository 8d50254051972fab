//! Tests of the data module as a whole, on files that they make.

mod checks;
mod datasets;
mod decoding;
mod loading;
mod made;
mod views;
