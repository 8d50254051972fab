//! The Helm chart: that it renders as the golden files say, refuses wrong values, is accepted by a real API server under the
//! Pod Security level `restricted`, asks for no right too many, and is installed, upgraded and uninstalled without harm to jobs.

mod accepted;
mod alerts;
mod golden;
mod life;
mod network;
mod rights;
mod values;
mod workflows;
