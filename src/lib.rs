//! hyperlift.
pub mod error;
pub mod format;
pub mod lsn;
pub mod name;
pub mod pg;
