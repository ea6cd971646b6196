//! Tests against real servers.

mod bare_server;
mod demo;
mod wire;
