//! Sequences and their values.

use crate::{
    error::Result,
    name::TableName,
    pg::{
        client::Client,
        own::{NOT_OF_EXTENSION, USER_SCHEMAS},
    },
};

/// A sequence with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceState {
    pub table: TableName,
    pub last_value: i64,
    pub is_called: bool,
    pub start: i64,
    pub increment: i64,
    /// Begins again at its end.
    pub cycles: bool,
}

impl SequenceState {
    /// Nobody has taken a value or set one since it was created.
    pub fn is_untouched(&self) -> bool {
        !self.is_called && self.last_value == self.start
    }
}

/// All sequences of user schemas; extensions' are left out.
pub async fn sequences(client: &Client) -> Result<Vec<SequenceState>> {
    // Read in one statement: one statement for each would take a round trip each.
    const BATCH: usize = 200;
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as name, s.seqstart as start, s.seqincrement as increment, s.seqcycle as cycles
           from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
          where {USER_SCHEMAS} and c.relpersistence <> 't'
            and {NOT_OF_EXTENSION}
          order by 1, 2"
    );
    let rows = client.query(&sql, &[]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for rows in rows.chunks(BATCH) {
        let tables: Vec<TableName> = rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect();
        let one = |(n, table): (usize, &TableName)| format!("select {n}::int8 as n, last_value, is_called from {}", table.sql());
        let states = client.query(&tables.iter().enumerate().map(one).collect::<Vec<_>>().join(" union all "), &[]).await?;
        for state in states {
            let n = state.get::<_, i64>("n") as usize;
            found.push(SequenceState {
                table: tables[n].clone(),
                last_value: state.get("last_value"),
                is_called: state.get("is_called"),
                start: rows[n].get("start"),
                increment: rows[n].get("increment"),
                cycles: rows[n].get("cycles"),
            });
        }
    }
    Ok(found)
}
