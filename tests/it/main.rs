//! Tests against real servers.

mod bare_server;
mod demo;
mod demo_run;
mod hypertables;
mod runner;
mod wire;
