//! What the catalogs of both sides say: servers, relations, columns, keys, sessions, sequences.

mod binary_types;
mod columns;
mod creation_order;
pub mod exclusion;
mod foreign_keys;
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
    binary_types::*, columns::*, creation_order::*, foreign_keys::*, names::*, partitions::*, relations::*, roles::*, schema_state::*, sequences::*,
    server::*, sessions::*, shapes::*, views::*,
};
pub use super::client::value;
