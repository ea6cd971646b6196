//! Names of what hyperlift creates, and how the application's schemas differ from others.

/// The schemas of the application. Others belong to the server, to TimescaleDB or to hyperlift, and are not migrated.
pub const USER_SCHEMAS: &str = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> '_hyperlift'
    and n.nspname !~ '^_?timescaledb_'";

/// What a query file has where [`USER_SCHEMAS`] belongs, so that it can be tried in psql as it is.
const PLACEHOLDER: &str = "/* schemas of the application */ true";

/// The text of a query file, for the schemas of the application only.
pub fn in_user_schemas(sql: &str) -> String {
    debug_assert!(sql.contains(PLACEHOLDER), "the query is for the schemas of the application");
    sql.replace(PLACEHOLDER, USER_SCHEMAS)
}

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
    pub fn new(migration: &str) -> Self {
        Self {
            slot: format!("hyperlift_{migration}"),
            publication: format!("hyperlift_{migration}"),
            insert_only: format!("hyperlift_{migration}_insert_only"),
        }
    }
}
