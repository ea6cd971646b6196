//! The configuration: flags, environment and plan, merged and checked.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    error::{Error, Result},
    pg::connect::conninfo::Conninfo,
    plan::{FollowDdl, Plan},
    scope::Scope,
};

/// How the migration is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontKind {
    Dashboard,
    Plain,
    Json,
}

/// What is done about a change that finds no row on the target, or collides there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnConflict {
    /// Replay of the table stops, and the operator is asked.
    #[default]
    Stop,
    /// The table is copied again, and replay continues.
    Copy,
    /// The change is counted as missed, and replay continues: the table differs, and the migration ends with exit code 5.
    Count,
}

/// What is done about tables that are made on the source after the copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NewTables {
    /// They are made on the target, copied and replayed.
    #[default]
    Take,
    /// They are reported.
    Tell,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub source: Conninfo,
    pub target: Conninfo,
    pub dir: PathBuf,
    /// Given with `--plan`; otherwise the plan in the work directory is used.
    pub plan: Option<Plan>,
    /// The filters of the command line. Without any, those of the plan are used, or those with which the migration began.
    pub scope: Scope,
    /// The pg_dump to use; otherwise one of the installed ones is chosen.
    pub pg_dump: Option<PathBuf>,
    pub table_jobs: u32,
    /// Tables larger than this are copied in parts, bytes. Without it the size of the database decides.
    pub split_larger_than: Option<u64>,
    /// For the tests: parts are ranges of a key on every version of the source, not only before PostgreSQL 14.
    pub parts_by_key: bool,
    /// Limit of all copies together, bytes per second.
    pub copy_rate: Option<u64>,
    pub index_jobs: u32,
    pub replay_lanes: u32,
    /// ANALYZE begins when the lag is below this, bytes.
    pub analyze_below: u64,
    pub on_conflict: OnConflict,
    pub skip_roles: bool,
    pub skip_extensions: bool,
    /// Objects belong to the roles that they belong to on the source.
    pub owners: bool,
    /// Grants and default privileges of the source.
    pub grants: bool,
    /// Publications of the source.
    pub publications: bool,
    /// Subscriptions of the source, disabled.
    pub subscriptions: bool,
    /// Roles of the source that have another name on the target.
    pub roles: BTreeMap<String, String>,
    pub front: FrontKind,
    /// An operator can answer prompts.
    pub interactive: bool,
    /// Continue without asking where nothing has to be decided.
    pub yes: bool,
    pub cutover_when_ready: bool,
    /// Which changes of the source's schema are made on the target without asking; otherwise the plan says it.
    pub follow_ddl: Option<FollowDdl>,
    /// What is done about tables that are made on the source after the copy.
    pub new_tables: NewTables,
    /// An automatic cutover does not wait for changes of the source's schema that the target lacks.
    pub accept_schema_changes: bool,
    /// The source counts as quiet after this time without a published change.
    pub quiet_for: Duration,
    /// Without a terminal, late writes are received for this time after the cutover.
    pub linger: Duration,
}

/// The URI of one side: the flag, else the two environment variables, which must agree.
pub fn uri(side: &str, flag: Option<String>, long: &str, short: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Conninfo> {
    let set = |name: &str| env(name).filter(|v| !v.trim().is_empty());
    let text = match (flag, set(long), set(short)) {
        (Some(flag), _, _) => flag,
        (None, Some(a), Some(b)) if a != b => {
            return Err(Error::usage(format!("{long} and {short} name different databases")).hint(format!("unset one of them, or give --{side}")));
        }
        (None, Some(uri), _) | (None, None, Some(uri)) => uri,
        (None, None, None) => {
            return Err(Error::usage(format!("no {side} database is given"))
                .hint(format!("--{side} postgres://user@host:5432/database, or the environment variable {long}")));
        }
    };
    Conninfo::parse(&text).map_err(|e| e.context(format!("--{side}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_disagree_are_an_error_and_the_flag_decides() {
        let env = |name: &str| match name {
            "LONG" => Some("postgres://a@h/one".to_owned()),
            "SHORT" => Some("postgres://a@h/two".to_owned()),
            _ => None,
        };
        assert_eq!(uri("source", None, "LONG", "SHORT", &env).unwrap_err().exit_code(), 2);
        assert_eq!(uri("source", Some("postgres://a@h/three".into()), "LONG", "SHORT", &env).unwrap().dbname(), "three");
        assert_eq!(uri("source", None, "NONE", "SHORT", &env).unwrap().dbname(), "two");
        assert!(uri("source", None, "NONE", "NONE", &env).unwrap_err().hint.unwrap().contains("NONE"));
    }
}
