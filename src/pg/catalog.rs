//! What the catalogs of both sides say: servers, relations, columns, keys, sessions, sequences.

mod binary_types;
mod columns;
pub mod exclusion;
mod exclusion_constraints;
mod foreign_keys;
mod functions;
mod names;
mod partitions;
mod relations;
mod roles;
mod schema_state;
mod sequences;
mod server;
mod sessions;
mod shapes;
pub mod unsupported;
pub mod versions;
mod views;

pub use self::{
    binary_types::*, columns::*, exclusion_constraints::*, foreign_keys::*, functions::*, names::*, partitions::*, relations::*, roles::*,
    schema_state::*, sequences::*, server::*, sessions::*, shapes::*, views::*,
};
pub use super::client::value;
