//! hyperlift.
pub mod bus;
pub mod error;
pub mod event;
pub mod format;
pub mod front;
pub mod lsn;
pub mod name;
pub mod pg;
pub mod plan;
pub mod report;
pub mod state;
pub mod ui;
