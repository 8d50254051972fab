//! What is decided about endpoints: tables, and lives with what lags, crashes and changes its mind.

mod builders;
mod lives;
mod tables;
