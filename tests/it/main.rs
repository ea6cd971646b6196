//! Tests against real servers.

mod bare_server;
mod demo;
mod migrate;
mod support;
mod wire;
