//! Trains and scores with the real program in real processes: to the end, through kills, through requests to stop.

mod bench;
mod evaluations;
mod faults;
mod kills;
mod weights;
mod whole;
