//! Names of what hyperlift creates, and how the application's schemas differ from others.

/// The schemas of the application: a condition on `pg_namespace n`. The others belong to the server, to TimescaleDB or to hyperlift, and are
/// not migrated.
///
/// `pg_depend` says which schemas are TimescaleDB's, so a schema of the application may have any name. All that is in them belongs to
/// TimescaleDB: its chunks are no members of the extension. In the schemas of other extensions the application may have tables, as for
/// pg_dump; there [`NOT_OF_EXTENSION`] decides.
pub const USER_SCHEMAS: &str = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> '_hyperlift'
    and n.oid <> all (array(select e.objid from pg_depend e join pg_extension x on x.oid = e.refobjid and x.extname = 'timescaledb'
        where e.classid = 'pg_namespace'::regclass and e.refclassid = 'pg_extension'::regclass and e.deptype = 'e'))";

/// Relations that no extension has made: a condition on `pg_class c`.
pub const NOT_OF_EXTENSION: &str =
    "not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')";

/// What a query file has where [`USER_SCHEMAS`] belongs, so that it can be tried in psql as it is.
const PLACEHOLDER: &str = "/* schemas of the application */ true";

/// The text of a query file, for the schemas of the application only.
pub fn in_user_schemas(sql: &str) -> String {
    debug_assert!(sql.contains(PLACEHOLDER), "the query is for the schemas of the application");
    sql.replace(PLACEHOLDER, USER_SCHEMAS)
}

/// The comment of a publication that a migration made, this one or another. Its name does not tell, because the application may have
/// publications with any name.
pub const OWN_PUBLICATION: &str = "made by hyperlift for a migration; `hyperlift clean` drops it";

/// A table of the target has a name that begins like this once it had to make way for another one, because the source has it no more.
pub const ASIDE: &str = "hyperlift_before_";

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
