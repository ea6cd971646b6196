//! Everything that speaks to PostgreSQL. Returns values; knows no events, stages or screens.

pub mod apart;
mod attempt;
pub mod catalog;
pub mod client;
pub mod conninfo;
pub mod dump;
pub mod extent;
pub mod key;
pub mod ledger;
pub mod pooler;
pub mod slot;
pub mod snapshot;
pub mod target;
pub mod timescale;
pub mod tls;
pub mod wire;
