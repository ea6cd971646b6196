//! Other sessions of a server: open transactions, locks, and what an earlier run left.

use crate::{error::Result, name::TableName, pg::client::Client};

/// A session or prepared transaction that has been holding a transaction open.
#[derive(Clone, Debug)]
pub struct TransactionHolder {
    pub pid: i32,
    pub who: String,
    pub state: String,
    pub seconds: u64,
    pub query: String,
}

/// Who holds a transaction id (or, with `below`, one older than that), in any database, but for hyperlift itself. What the sessions of others
/// do is seen only with the rights of `pg_read_all_stats`.
pub async fn holders(client: &Client, below: Option<u64>) -> Result<Vec<TransactionHolder>> {
    // age(xid) grows with age; a 32-bit xid older than the horizon has a greater age than the horizon's own.
    let horizon = below.map_or_else(String::new, |x| format!("and age(s.backend_xid) > age('{}'::text::xid)", (x as u32).max(3)));
    let prepared_horizon = below.map_or_else(String::new, |x| format!("where age(p.transaction) > age('{}'::text::xid)", (x as u32).max(3)));
    let any = if below.is_some() { "" } else { "and s.backend_xid is not null" };
    let sql = format!(
        "select s.pid, s.usename::text || '@' || coalesce(s.datname::text, '-') || coalesce(' ' || nullif(s.application_name, ''), '') as who,
                coalesce(s.state, s.backend_type, 'in transaction') as state, coalesce(extract(epoch from now() - s.xact_start), 0)::float8::bigint as seconds,
                left(regexp_replace(coalesce(s.query, ''), '\\s+', ' ', 'g'), 80) as query
           from pg_stat_activity s
          where s.pid <> pg_backend_pid() and s.usename is not null and s.application_name !~ '^hyperlift/' {any} {horizon}
          union all
         select 0, 'prepared ' || p.gid || ' of ' || p.owner || '@' || p.database, 'prepared',
                extract(epoch from now() - p.prepared)::float8::bigint, ''
           from pg_prepared_xacts p {prepared_horizon}
          order by seconds desc limit 20"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|r| TransactionHolder {
            pid: r.get("pid"),
            who: r.get("who"),
            state: r.get("state"),
            seconds: r.get::<_, i64>("seconds").max(0) as u64,
            query: r.get("query"),
        })
        .collect())
}

/// Who holds a lock on a table, in words: `app@shop psql, idle in transaction, pid 4411`; empty when nobody is seen.
pub async fn lock_holders(client: &Client, table: &TableName) -> Result<String> {
    let rows = client
        .query(
            "select distinct format('%s@%s%s, %s, pid %s', a.usename, a.datname, ' ' || nullif(a.application_name, ''), a.state, a.pid) as who
               from pg_locks l join pg_stat_activity a on a.pid = l.pid
              where l.relation = to_regclass($1) and l.granted and l.pid <> pg_backend_pid() limit 3",
            &[&table.sql()],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get::<_, String>("who")).collect::<Vec<_>>().join("; "))
}

/// Ends sessions of this migration in this database that a killed process left; returns how many. Sessions in the other database, which may
/// be on the same server, are left alone.
pub async fn end_leftovers(client: &Client, migration: &str) -> Result<i64> {
    let pattern = format!("hyperlift/{migration}/%");
    let mut ended = 0;
    // A terminated session ends a little later, and may still commit until then.
    for _ in 0..100 {
        let row = client
            .query_one(
                "select count(pg_terminate_backend(pid)) as ended from pg_stat_activity where application_name like $1 and pid <> pg_backend_pid()
                    and datname = current_database() and backend_start < (select backend_start from pg_stat_activity where pid = pg_backend_pid())",
                &[&pattern],
            )
            .await;
        let left: i64 = match row {
            Ok(row) => row.get("ended"),
            // A server of the tests has a single session and no pg_stat_activity.
            Err(e) if e.as_db_error().is_some() => 0,
            Err(e) => return Err(e.into()),
        };
        ended = ended.max(left);
        if left == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(ended)
}
