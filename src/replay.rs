//! Logical replication: received from the source, spooled to disk, replayed on the target.
//!
//! ```text
//! walsender ── pgoutput ──▶ receiver ──▶ spool ──▶ router ──▶ lane 1..n ──▶ target
//! ```

pub mod apply;
pub mod change;
pub mod compact;
pub mod key;
pub mod lane;
pub mod pgoutput;
pub mod receiver;
pub mod relation;
pub mod reshape;
pub mod router;
pub mod sets;
pub mod spool;
pub mod spooler;
