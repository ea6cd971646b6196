//! Names of what hyperlift makes, and schemas that belong to somebody else than the application.

/// Schemas that belong to the server, to TimescaleDB or to hyperlift; nothing in them is migrated.
pub const OWN_SCHEMAS: &str = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> '_hyperlift'
    and n.nspname !~ '^_?timescaledb_'";

/// Publications of this and other migrations, as a pattern of names.
pub const OWN_PUBLICATIONS: &str = "^hyperlift_";

pub fn is_own_publication(name: &str) -> bool {
    name.starts_with("hyperlift_")
}

/// Names of what a migration makes on the source.
#[derive(Clone, Debug)]
pub struct Names {
    pub slot: String,
    /// All operations.
    pub publication: String,
    /// Inserts and truncates of tables without a usable identity.
    pub insert_only: String,
}

impl Names {
    pub fn of(migration: &str) -> Self {
        Self {
            slot: format!("hyperlift_{migration}"),
            publication: format!("hyperlift_{migration}"),
            insert_only: format!("hyperlift_{migration}_insert_only"),
        }
    }
}
