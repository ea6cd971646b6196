//! Everything that speaks to PostgreSQL. Returns values; knows no events, stages or screens.

mod attempt;
pub mod client;
pub mod conninfo;
pub mod tls;
pub mod wire;
