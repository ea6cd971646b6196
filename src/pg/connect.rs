//! How a server is found and spoken to first: addresses, TLS, the order of hosts, the settings of a session.

pub mod conninfo;
pub(super) mod hosts;
pub mod session;
pub mod tls;
