//! Whether the target can make hypertables, and where TimescaleDB's functions are.

use std::collections::HashSet;

use super::finding::{Finding, first_few};
use crate::{
    error::Result,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{self, Function, exclusion::Excluded},
        client::Client,
        timescale::{self, Timescale},
    },
};

pub const TIMESCALEDB: &str = "TimescaleDB";
pub const NAMES: &str = "names of TimescaleDB";
pub const RESTORING: &str = "timescaledb.restoring";

/// `pg_proc`, as an OID.
const PG_PROC: u32 = 1255;

/// What decides about TimescaleDB besides its own state.
#[derive(Debug)]
pub struct TimescaleFacts {
    /// A table that the plan makes a hypertable.
    pub planned: Option<TableName>,
    /// Where the extension is or will be created.
    pub schema: String,
    pub names: Names,
}

impl TimescaleFacts {
    /// The extension would need a schema of its own, and the plan has no use for it.
    pub fn is_better_left_out(&self) -> bool {
        self.planned.is_none() && matches!(self.names, Names::Apart(_))
    }
}

/// Functions of the source that have a name of one of TimescaleDB's.
#[derive(Debug, PartialEq, Eq)]
pub enum Names {
    None,
    /// The extension gets a schema of its own.
    Apart(Vec<String>),
    /// The extension is there already, and some of them could not be created beside it.
    Clash(Vec<String>),
    /// The extension is there already, and calls may find the other function.
    Alike(Vec<String>),
    /// The extension cannot be created, for this reason.
    Unknown(String),
}

pub async fn gather(cx: &Context, source: &Client, target: &Client, state: &Timescale, omitted: Option<&Excluded>) -> Result<TimescaleFacts> {
    let planned = cx.plan.hypertables.first().map(|h| h.table.clone());
    let mut facts = TimescaleFacts { planned, schema: state.schema.clone(), names: Names::None };
    // Where it is there and this migration has begun, the functions are there as well.
    let has_begun = state.installed.is_some() && cx.is_finished(crate::event::Stage::Schema);
    if !state.will_be_there() || has_begun {
        return Ok(facts);
    }
    let mut own = catalog::functions(source).await?;
    own.retain(|f| omitted.is_none_or(|omitted| !omitted.has((PG_PROC, f.oid))));
    if own.is_empty() {
        return Ok(facts);
    }
    let theirs = match timescale::functions(&cx.target("timescaledb").await?, state).await {
        Err(e) if state.installed.is_none() && e.sqlstate.is_some() => {
            facts.names = Names::Unknown(e.to_string());
            return Ok(facts);
        }
        theirs => theirs?,
    };
    facts.names = shared(&own, &theirs, state);
    if matches!(facts.names, Names::Apart(_)) {
        facts.schema = free_schema(source, target).await?;
    }
    Ok(facts)
}

fn shared(own: &[Function], theirs: &[Function], state: &Timescale) -> Names {
    let names: HashSet<&str> = theirs.iter().map(|f| f.name.as_str()).collect();
    let alike: Vec<&Function> = own.iter().filter(|f| names.contains(f.name.as_str())).collect();
    let is_taken = |f: &&&Function| f.schema == state.schema && theirs.iter().any(|t| (&t.name, &t.arguments) == (&f.name, &f.arguments));
    let taken: Vec<String> = alike.iter().filter(is_taken).map(ToString::to_string).collect();
    // Nobody finds those of a schema that is in no search path.
    let is_apart = state.installed.is_some() && state.schema != timescale::USUAL_SCHEMA && alike.iter().all(|f| f.schema != state.schema);
    let alike: Vec<String> = alike.iter().map(ToString::to_string).collect();
    match state.installed {
        _ if alike.is_empty() || is_apart => Names::None,
        // Also where both could exist: with more functions of a name, another one may fit a call better.
        None => Names::Apart(alike),
        Some(_) if taken.is_empty() => Names::Alike(alike),
        Some(_) => Names::Clash(taken),
    }
}

/// A name that no schema of either side has.
async fn free_schema(source: &Client, target: &Client) -> Result<String> {
    let mut taken = HashSet::new();
    for side in [source, target] {
        taken.extend(side.query("select nspname::text as name from pg_namespace", &[]).await?.iter().map(|r| r.get::<_, String>("name")));
    }
    let mut names = std::iter::once("timescaledb".to_owned()).chain((2..).map(|n| format!("tsdb{n}")));
    Ok(names.find(|name| !taken.contains(name)).expect("there is always another number"))
}

pub fn timescaledb(ts: &Timescale, planned: Option<&TableName>) -> Finding {
    const PRELOAD: &str = "shared_preload_libraries = 'timescaledb' in postgresql.conf, then restart the target";
    match (&ts.installed, &ts.available) {
        (None, None) => {
            Finding::warn("not available on the target: tables stay plain", "install TimescaleDB on the target, or go on without hypertables")
        }
        (Some(v), _) if !ts.preloaded => Finding::fail(
            format!("{v} is installed, but the server does not preload it: rows would be stored where the hypertable does not find them"),
            PRELOAD,
        ),
        (None, Some(v)) if !ts.preloaded => {
            let found = format!("{v} is available, but the server does not preload it");
            if let Some(table) = planned {
                return Finding::fail(format!("{found}, and the plan makes {table} a hypertable"), PRELOAD);
            }
            Finding::warn(format!("{found}: tables stay plain"), format!("if you want hypertables: {PRELOAD}"))
        }
        (Some(v), _) if timescale::version(v) < timescale::versions::OLDEST => {
            Finding::fail(format!("version {v} is too old"), "alter extension timescaledb update; 2.13 or later is needed")
        }
        (Some(v), _) => Finding::ok(format!("version {v}, preloaded")),
        (None, Some(v)) => Finding::ok(format!("version {v} will be created")),
    }
}

pub fn names(f: &TimescaleFacts) -> Finding {
    let schema = &f.schema;
    match &f.names {
        Names::None => Finding::ok("they meet no function of the source"),
        Names::Apart(alike) => Finding::warn(
            format!("TimescaleDB will be created in schema {schema}, because the source has functions with names of its own: {}", first_few(alike)),
            format!(
                "call TimescaleDB's functions with their schema: {schema}.time_bucket(…); a run without an operator creates it only if its plan has \
                 hypertables"
            ),
        ),
        Names::Clash(taken) => Finding::fail(
            format!("TimescaleDB is in schema {schema}, where the source has functions of the same names and arguments: {}", first_few(taken)),
            format!("on the target: drop extension timescaledb; then in a new session: {}", timescale::create_extension("timescaledb")),
        ),
        Names::Alike(alike) => Finding::warn(
            format!(
                "the source has functions with names of TimescaleDB's, which is in schema {schema}: {}; a call may find the other one",
                first_few(alike)
            ),
            format!(
                "on the target: drop extension timescaledb; then in a new session: {}; or see that all calls fit one of them only",
                timescale::create_extension("timescaledb")
            ),
        ),
        Names::Unknown(why) => {
            Finding::fail(format!("TimescaleDB cannot be created: {why}"), "let a superuser run on the target: create extension timescaledb")
        }
    }
}

pub fn restoring(is_on: bool) -> Finding {
    Finding::require(!is_on, "off", "on: rows written now would be invisible later", "select timescaledb_post_restore() on the target")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict::{Fail, Ok, Warn};

    fn state(installed: Option<&str>, available: Option<&str>, preloaded: bool) -> Timescale {
        Timescale {
            installed: installed.map(str::to_owned),
            available: available.map(str::to_owned),
            preloaded,
            schema: "public".into(),
            ..Timescale::default()
        }
    }

    #[test]
    fn every_state_of_timescaledb_has_its_verdict() {
        let table = TableName::new("public", "t");
        for (state, without, with_hypertables) in [
            (state(None, None, false), Warn, Warn),
            (state(None, Some("2.28.3"), false), Warn, Fail),
            (state(Some("2.28.3"), Some("2.28.3"), false), Fail, Fail),
            (state(Some("2.12.0"), Some("2.28.3"), true), Fail, Fail),
            (state(Some("2.28.3"), Some("2.28.3"), true), Ok, Ok),
            (state(None, Some("2.28.3"), true), Ok, Ok),
        ] {
            let found = (timescaledb(&state, None).verdict, timescaledb(&state, Some(&table)).verdict);
            assert_eq!(found, (without, with_hypertables), "{state:?}");
        }
    }

    #[test]
    fn functions_of_one_name_keep_apart_or_are_refused() {
        let function =
            |schema: &str, name: &str, arguments: &str| Function { oid: 1, schema: schema.into(), name: name.into(), arguments: arguments.into() };
        let theirs = [function("public", "time_bucket", "interval, date"), function("public", "first", "anyelement, \"any\"")];
        let (there, to_come) = (state(Some("2.28.3"), None, true), state(None, Some("2.28.3"), true));
        let other = function("public", "other", "");
        let same = function("public", "time_bucket", "interval, date");
        let overloaded = function("public", "first", "anyelement");
        let elsewhere = function("app", "time_bucket", "interval, date");
        for (own, created, beside) in [(&other, Ok, Ok), (&same, Warn, Fail), (&overloaded, Warn, Warn), (&elsewhere, Warn, Warn)] {
            let verdict = |state: &Timescale| {
                let facts = TimescaleFacts { planned: None, schema: "public".into(), names: shared(std::slice::from_ref(own), &theirs, state) };
                names(&facts).verdict
            };
            assert_eq!((verdict(&to_come), verdict(&there)), (created, beside), "{own}");
            let apart = Timescale { schema: "timescaledb".into(), ..there.clone() };
            assert_eq!(verdict(&apart), Ok, "{own}");
        }
    }
}
