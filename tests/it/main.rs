//! Tests against real servers.

mod bare_server;
mod demo;
mod demo_run;
mod hypertables;
mod migrate;
mod refusals;
mod runner;
mod support;
mod terminal;
mod wire;
