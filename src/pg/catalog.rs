//! What the catalogs of both sides say: servers, relations, columns, keys, sessions, sequences.

mod binary_types;
mod columns;
mod creation_order;
pub mod exclusion;
mod exclusion_constraints;
mod foreign_keys;
mod foreign_rows;
mod functions;
mod names;
mod open_writers;
mod partitions;
mod relations;
mod roles;
mod schema_state;
mod sequences;
mod server;
mod sessions;
mod shapes;
mod unreadable;
pub mod unsupported;
pub mod versions;
mod views;

pub use self::{
    binary_types::*, columns::*, creation_order::*, exclusion_constraints::*, foreign_keys::*, foreign_rows::*, functions::*, names::*,
    open_writers::*, partitions::*, relations::*, roles::*, schema_state::*, sequences::*, server::*, sessions::*, shapes::*, unreadable::*,
    views::*,
};
pub use super::client::value;
