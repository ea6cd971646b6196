//! Everything that speaks to PostgreSQL. Returns values; knows no events, stages or screens.

pub mod ledger;
pub mod publication;
pub mod slot;

pub mod dump;

pub mod catalog;
pub mod level_columns;
pub mod local_rows;
pub mod target_table;
pub mod timescale;

pub mod event_triggers;
pub mod pooler;
pub mod snapshot;

pub mod client;

pub mod wire;

pub mod connect;

pub mod object;
pub mod own;
