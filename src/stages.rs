//! The migration, stage by stage: each module is one of them, or work that belongs to several.

pub mod catchup;
pub mod clean;
pub mod copy;
pub mod cutover;
pub mod ddl;
pub mod extension_rows;
pub mod hypertables;
pub mod identity;
pub mod indexes;
pub mod large_objects;
pub mod one_table;
pub mod preflight;
pub mod rights;
pub mod roles;
pub mod schema;
pub mod slot;
pub mod trouble;
