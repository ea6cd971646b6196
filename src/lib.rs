//! hyperlift.
pub mod bus;
pub mod demo;
pub mod error;
pub mod event;
pub mod format;
pub mod lsn;
pub mod name;
pub mod pg;
pub mod plan;
pub mod state;
