//! A server as a whole: its version, its settings, its WAL.

use jiff::Timestamp;
use tokio_postgres::SimpleQueryMessage;

use crate::{
    error::{Error, Result},
    lsn::Lsn,
    pg::{
        client::{Client, value},
        own::USER_SCHEMAS,
    },
};

#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version_num`
    pub version: u32,
    /// `16.4`
    pub version_text: String,
    pub system_id: String,
    pub database: String,
    pub database_oid: u32,
    pub user: String,
    pub in_recovery: bool,
    /// Start of the postmaster: another one means that the server was restarted.
    pub started: String,
}

impl Server {
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

pub async fn server(client: &Client) -> Result<Server> {
    let row = client
        .query_one(
            "select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
                    (select system_identifier::text from pg_control_system()) as system_id, current_database()::text as database,
                    (select oid from pg_database where datname = current_database()) as database_oid, current_user::text as user_name,
                    pg_is_in_recovery() as in_recovery, pg_postmaster_start_time()::text as started",
            &[],
        )
        .await?;
    let text: String = row.get("version_text");
    Ok(Server {
        version: row.get::<_, i32>("version") as u32,
        version_text: text.split_whitespace().next().unwrap_or_default().to_owned(),
        system_id: row.get("system_id"),
        database: row.get("database"),
        database_oid: row.get("database_oid"),
        user: row.get("user_name"),
        in_recovery: row.get("in_recovery"),
        started: row.get("started"),
    })
}

/// A setting of the server; `None` where this version has none of that name.
pub async fn setting(client: &Client, name: &str) -> Result<Option<String>> {
    let row = client.query_one("select current_setting($1, true) as value", &[&name]).await?;
    Ok(row.get("value"))
}

/// The `search_path` with which a session of this user in this database begins; `None` when it is empty.
pub async fn default_search_path(client: &Client) -> Result<Option<String>> {
    let path: String = value(client, "select coalesce(reset_val, '') from pg_settings where name = 'search_path'").await?;
    Ok(Some(path).filter(|p| !p.trim().is_empty() && p.trim() != "\"\""))
}

/// Name of the encoding of the database.
pub async fn encoding(client: &Client) -> Result<String> {
    value(client, "select pg_encoding_to_char(encoding)::text from pg_database where datname = current_database()").await
}

/// How many locks the server can hold at the same time, in SQL (PostgreSQL documentation 20.12).
pub(in crate::pg) const LOCKS: &str = "current_setting('max_locks_per_transaction')::bigint
    * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)";

/// How many tables and partitions there are, and how many locks the server can hold at the same time.
pub async fn tables_and_locks(client: &Client) -> Result<(u64, u64)> {
    let sql = format!(
        "select (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p') and {USER_SCHEMAS}) as tables,
                {LOCKS} as locks"
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok((row.get::<_, i64>("tables") as u64, row.get::<_, i64>("locks") as u64))
}

/// The flush position of the source's WAL, and the time of the source's clock.
pub async fn flushed_lsn_and_time(client: &Client) -> Result<(Lsn, Timestamp)> {
    let sql = "select pg_current_wal_flush_lsn()::text as lsn, (extract(epoch from clock_timestamp()) * 1000000)::bigint as microseconds";
    let row = client.query_one(sql, &[]).await?;
    let time = Timestamp::from_microsecond(row.get("microseconds")).unwrap_or_default();
    Ok((row.get::<_, &str>("lsn").parse()?, time))
}

/// A position in the WAL after every transaction that has committed before. A commit of our own follows it, so the stream gets there on an
/// idle source, too. The flush position of the WAL would not do, because it may be within an unfinished record.
pub async fn mark_end_of_stream(client: &Client) -> Result<Lsn> {
    let sql = "begin; select pg_logical_emit_message(true, 'hyperlift', 'end of stream'); commit";
    let answer = client.simple_query(sql).await?;
    let lsn = answer.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None });
    lsn.ok_or_else(|| Error::failed("the source does not say where it wrote the end of the stream"))?.parse()
}
