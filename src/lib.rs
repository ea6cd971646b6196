//! hyperlift.
pub mod bus;
pub mod config;
pub mod error;
pub mod event;
pub mod format;
pub mod journal;
pub mod lsn;
pub mod migration;
pub mod name;
pub mod pg;
pub mod plan;
pub mod replay;
pub mod stages;
pub mod state;
