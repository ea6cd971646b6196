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
pub mod router;
pub mod schema_change;
pub mod sets;
pub mod spool;
mod start;
pub mod statements;

pub use self::start::{ReplayHandle, ReplaySpec, start};
