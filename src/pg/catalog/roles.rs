//! Roles and their settings.

use std::collections::HashSet;

use crate::{
    error::Result,
    name::{ident, literal},
    pg::client::Client,
};

/// The names of all roles.
pub async fn role_names(client: &Client) -> Result<HashSet<String>> {
    Ok(client.query("select rolname::text from pg_roles", &[]).await?.iter().map(|r| r.get(0)).collect())
}

/// The settings of a role in all databases, or in this one (`true`), as `name=value`.
pub async fn role_settings(client: &Client, role: &str) -> Result<Vec<(bool, String)>> {
    let sql = "select s.setdatabase <> 0 as here, unnest(s.setconfig) as setting from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
                where r.rolname = $1 and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))";
    Ok(client.query(sql, &[&role]).await?.iter().map(|r| (r.get("here"), r.get("setting"))).collect())
}

/// `name=value` of `pg_db_role_setting` as the end of a `SET` statement.
pub fn setting_sql(setting: &str) -> String {
    // Lists of names, whose values have quotes of their own (`GUC_LIST_QUOTE` of PostgreSQL's guc_tables.c).
    const LISTS: [&str; 6] = [
        "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries",
        "unix_socket_directories",
    ];
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    let value = if LISTS.contains(&name) && !value.is_empty() && value != "\"\"" { value.to_owned() } else { literal(value.trim_matches('"')) };
    format!("{} to {value}", ident_of_setting(name))
}

/// A setting of an extension has a dot in its name.
fn ident_of_setting(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}
