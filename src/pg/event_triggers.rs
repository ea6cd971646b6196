//! Event triggers of the application. They run its code at hyperlift's own statements, and may refuse them (PostgreSQL documentation,
//! chapter 40).

use super::client::Client;
use crate::error::{Error, Result};

/// The statements that hyperlift runs on the source, as event triggers know them.
pub const SOURCE_TAGS: [&str; 4] = ["ALTER TABLE", "CREATE PUBLICATION", "ALTER PUBLICATION", "DROP PUBLICATION"];

/// What to do about an event trigger that refuses a statement.
pub const WAYS_OUT: &str = "disable it for the time of the migration (alter event trigger … disable); or let it allow hyperlift: by another user, or by a \
     setting that it asks for, given in the URI of the source (?options=-c%20name%3Dvalue)";

/// A publication that exists only within the trial.
const TRIAL: &str = "hyperlift_trial";

/// An event trigger that is enabled, and belongs to no extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTrigger {
    pub name: String,
    /// `ddl_command_end`, `sql_drop`, …
    pub event: String,
    /// Empty: at all statements.
    pub tags: Vec<String>,
}

impl EventTrigger {
    /// Whether a statement of this kind fires it. None of hyperlift's statements on the source rewrites a table.
    pub fn fires_at(&self, tag: &str) -> bool {
        let by_event = match self.event.as_str() {
            "ddl_command_start" | "ddl_command_end" => true,
            "sql_drop" => ["DROP PUBLICATION", "ALTER PUBLICATION"].contains(&tag),
            _ => false,
        };
        by_event && (self.tags.is_empty() || self.tags.iter().any(|t| t == tag))
    }

    /// Whether it runs when hyperlift connects (PostgreSQL 17 and later).
    pub fn fires_at_login(&self) -> bool {
        self.event == "login"
    }
}

/// The event triggers that fire in an ordinary session.
pub async fn enabled(client: &Client) -> Result<Vec<EventTrigger>> {
    let sql = "select quote_ident(evtname) as name, evtevent::text as event, coalesce(evttags, '{}') as tags
                 from pg_event_trigger t
                where evtenabled in ('O', 'A')
                  and not exists (select from pg_depend d where d.classid = 'pg_event_trigger'::regclass and d.objid = t.oid and d.deptype = 'e')
                order by 1";
    let trigger = |r: &tokio_postgres::Row| EventTrigger { name: r.get("name"), event: r.get("event"), tags: r.get("tags") };
    Ok(client.query(sql, &[]).await?.iter().map(trigger).collect())
}

/// The names of all event triggers.
pub async fn names(client: &Client) -> Result<Vec<String>> {
    Ok(client.query("select evtname::text as name from pg_event_trigger", &[]).await?.iter().map(|r| r.get("name")).collect())
}

/// Lets no event trigger of the application run in this session, where the user may do that: a superuser, or one who was granted the
/// setting. Only for statements that remove what hyperlift made. Those that fire always are stopped from PostgreSQL 17 on only.
pub async fn silence(client: &Client) {
    if client.batch_execute("set event_triggers = off").await.is_err() {
        client.batch_execute("set session_replication_role = replica").await.ok();
    }
}

/// What event triggers refused in a trial.
#[derive(Debug, Default)]
pub struct Trial {
    /// Making a publication, or dropping it.
    pub publication: Option<Error>,
    /// ALTER TABLE … REPLICA IDENTITY. Nothing, too, where no temporary table could be made to try it on.
    pub identity: Option<Error>,
}

/// Tries hyperlift's statements in a transaction that is rolled back. It locks no table of the application: the publication has none, and the
/// identity is that of a temporary table.
pub async fn trial(client: &Client) -> Result<Trial> {
    client.batch_execute("begin").await?;
    let mut found = Trial::default();
    if client.batch_execute("savepoint made; create temporary table hyperlift_trial ()").await.is_ok() {
        let alter = "alter table pg_temp.hyperlift_trial replica identity full";
        found.identity = client.batch_execute(alter).await.err().map(Error::from);
    }
    client.batch_execute("rollback to savepoint made").await?;
    found.publication = publication_trial(client).await.err().map(Error::from);
    client.batch_execute("rollback").await?;
    Ok(found)
}

async fn publication_trial(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("create publication {TRIAL}; savepoint made")).await?;
    let drop = format!("drop publication {TRIAL}");
    let Err(refused) = client.batch_execute(&drop).await else { return Ok(()) };
    // As `silence` does it for the end of a migration.
    for setting in ["event_triggers = off", "session_replication_role = replica"] {
        client.batch_execute("rollback to savepoint made").await?;
        if client.batch_execute(&format!("set local {setting}")).await.is_ok() {
            return client.batch_execute(&drop).await;
        }
    }
    Err(refused)
}

/// Names the event triggers that may have refused a statement, with the ways out.
pub async fn explain(client: &Client, error: Error, tag: &str) -> Error {
    if error.sqlstate.is_none() || error.is_transient() {
        return error;
    }
    let found = enabled(client).await.unwrap_or_default();
    let names: Vec<&str> = found.iter().filter(|t| t.fires_at(tag)).map(|t| t.name.as_str()).collect();
    if names.is_empty() {
        return error;
    }
    let several = if names.len() == 1 { "event trigger" } else { "event triggers" };
    error.hint(format!("{several} {} may have refused {tag}: {WAYS_OUT}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_trigger_fires_by_its_event_and_its_tags() {
        let trigger =
            |event: &str, tags: &[&str]| EventTrigger { name: "t".into(), event: event.into(), tags: tags.iter().map(ToString::to_string).collect() };
        let fires = |t: &EventTrigger| SOURCE_TAGS.into_iter().filter(|tag| t.fires_at(tag)).collect::<Vec<_>>();
        assert_eq!(fires(&trigger("ddl_command_end", &[])), SOURCE_TAGS);
        assert_eq!(fires(&trigger("ddl_command_start", &["ALTER TABLE", "CREATE TABLE"])), ["ALTER TABLE"]);
        assert_eq!(fires(&trigger("sql_drop", &[])), ["ALTER PUBLICATION", "DROP PUBLICATION"]);
        assert_eq!(fires(&trigger("sql_drop", &["DROP TABLE"])), [""; 0]);
        assert_eq!(fires(&trigger("table_rewrite", &[])), [""; 0]);
        let login = trigger("login", &[]);
        assert!(fires(&login).is_empty() && login.fires_at_login());
    }
}
