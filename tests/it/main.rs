//! Tests against real servers.

mod bare_server;
mod changes;
mod conflicts;
mod copying;
mod demo;
mod demo_run;
mod equivalence;
mod every_object;
mod hypertables;
mod indexing;
mod lag;
mod layers;
mod matrix;
mod migrate;
mod names;
mod publications;
mod races;
mod refusals;
mod replaying;
mod runner;
mod scope;
mod slow_tables;
mod support;
mod terminal;
mod wire;
mod workload;
