//! hyperlift moves a live PostgreSQL database to TimescaleDB, from one terminal dashboard.
//!
//! ```text
//!                  source                         migration machine                                  target
//!   walsender ──── pgoutput ────▶ receiver ──▶ spool ──▶ router ──▶ lane 1..n ── changes ──────▶ tables, _hyperlift.lane
//!   backends  ──── COPY OUT ────▶ copy jobs (frames, not rows) ──────────────── COPY IN ──────▶ tables, _hyperlift.copy_part
//!   catalog   ──── pg_dump ─────▶ schema (pg_query: one statement at a time) ─── DDL ──────────▶ objects, _hyperlift.ddl
//!
//!   workers ──Event──▶ hub ──▶ journal, State::apply, front ends (dashboard | plain | json)
//!   migration ◀──Command── front ends
//! ```
//!
//! The migration itself is read in [`migration`]; a module uses only modules further down in this list.

pub mod run;

pub mod cli;

pub mod ui;

pub mod front;
pub mod report;

pub mod migration;

pub mod demo;

pub mod replay;

pub mod bus;
pub mod state;
pub mod work_dir;

pub mod config;
pub mod record;

pub mod event;

pub mod pg;

pub mod plan;

pub mod scope;
pub mod sqlstate;

pub mod error;
pub mod format;
pub mod lsn;
pub mod name;
pub mod private;
