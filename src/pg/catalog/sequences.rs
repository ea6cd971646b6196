//! Sequences: their definitions and their values.

use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{
        client::Client,
        own::{NOT_OF_EXTENSION, USER_SCHEMAS},
    },
};

/// A sequence with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceState {
    pub oid: u32,
    pub table: TableName,
    pub definition: SequenceDefinition,
    pub last_value: i64,
    pub is_called: bool,
    /// Belongs to a column, by `serial`, `OWNED BY` or as its identity.
    pub owned: bool,
}

/// What `CREATE SEQUENCE` says of it (`pg_sequence`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceDefinition {
    pub data_type: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    /// Begins again at its end.
    pub cycles: bool,
}

impl SequenceDefinition {
    /// The options of `CREATE SEQUENCE` and `ALTER SEQUENCE`.
    pub fn options(&self) -> String {
        format!(
            "as {} increment by {} minvalue {} maxvalue {} start with {} cache {} {}",
            self.data_type,
            self.increment,
            self.min,
            self.max,
            self.start,
            self.cache,
            if self.cycles { "cycle" } else { "no cycle" }
        )
    }
}

impl SequenceState {
    /// Nobody has taken a value or set one since it was created.
    pub fn is_untouched(&self) -> bool {
        !self.is_called && self.last_value == self.definition.start
    }
}

/// All sequences of user schemas, and those whose values cannot be read; extensions' are left out.
pub async fn sequences(client: &Client) -> Result<(Vec<SequenceState>, Vec<(TableName, Error)>)> {
    // Read in one statement: one statement for each would take a round trip each.
    const BATCH: usize = 200;
    let sql = format!(
        "select c.oid, n.nspname::text as schema, c.relname::text as name, format_type(s.seqtypid, null) as data_type, s.seqstart as start,
                s.seqincrement as increment, s.seqmin as min, s.seqmax as max, s.seqcache as cache, s.seqcycle as cycles,
                exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                           and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')) as owned
           from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
          where {USER_SCHEMAS} and c.relpersistence <> 't'
            and {NOT_OF_EXTENSION}
          order by 2, 3"
    );
    let rows = client.query(&sql, &[]).await?;
    let known: Vec<SequenceState> = rows
        .iter()
        .map(|r| SequenceState {
            oid: r.get("oid"),
            table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
            definition: SequenceDefinition {
                data_type: r.get("data_type"),
                start: r.get("start"),
                increment: r.get("increment"),
                min: r.get("min"),
                max: r.get("max"),
                cache: r.get("cache"),
                cycles: r.get("cycles"),
            },
            last_value: 0,
            is_called: false,
            owned: r.get("owned"),
        })
        .collect();
    let (mut found, mut unreadable) = (Vec::with_capacity(known.len()), Vec::new());
    for batch in known.chunks(BATCH) {
        match values(client, batch).await {
            Ok(read) => found.extend(read),
            Err(e) if e.sqlstate.is_none() => return Err(e),
            // One of them: each by itself.
            Err(_) => {
                for one in batch {
                    match values(client, std::slice::from_ref(one)).await {
                        Ok(read) => found.extend(read),
                        Err(e) => unreadable.push((one.table.clone(), e)),
                    }
                }
            }
        }
    }
    Ok((found, unreadable))
}

/// The sequences with their values, read in one statement.
async fn values(client: &Client, sequences: &[SequenceState]) -> Result<Vec<SequenceState>> {
    let one = |(n, s): (usize, &SequenceState)| format!("select {n}::int8 as n, last_value, is_called from {}", s.table.sql());
    let rows = client.query(&sequences.iter().enumerate().map(one).collect::<Vec<_>>().join(" union all "), &[]).await?;
    let state = |r: &tokio_postgres::Row| SequenceState {
        last_value: r.get("last_value"),
        is_called: r.get("is_called"),
        ..sequences[r.get::<_, i64>("n") as usize].clone()
    };
    Ok(rows.iter().map(state).collect())
}

/// The sequences of user schemas whose values this user may not read.
pub async fn unreadable_sequences(client: &Client) -> Result<Vec<TableName>> {
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as name
           from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'S' and c.relpersistence <> 't' and {USER_SCHEMAS}
            and not (has_schema_privilege(n.oid, 'usage') and has_sequence_privilege(c.oid, 'select'))
            and {NOT_OF_EXTENSION} order by 1, 2"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// The sequences of user schemas by OID, also those whose values cannot be read.
pub async fn sequence_names(client: &Client) -> Result<Vec<(u32, TableName)>> {
    let sql = format!(
        "select c.oid, n.nspname::text as schema, c.relname::text as name
           from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'S' and c.relpersistence <> 't' and {USER_SCHEMAS}
            and {NOT_OF_EXTENSION}"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| (r.get("oid"), TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")))).collect())
}
