//! Connecting to a server: addresses, the order of hosts, TLS, the settings of a session.

pub mod conninfo;
pub(super) mod hosts;
pub mod session;
pub mod tls;
