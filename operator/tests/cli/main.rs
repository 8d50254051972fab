//! The command line as it is typed: `trainyard run` against a trainer that ends as planned, and the other commands.

mod commands;
mod run;
mod yard;
