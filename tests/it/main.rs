//! Tests against real servers.

mod bare_server;
mod changes;
mod demo;
mod migrate;
mod names;
mod races;
mod refusals;
mod support;
mod wire;
