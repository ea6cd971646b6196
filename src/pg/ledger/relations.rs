//! The relations of a migration: their lanes, and whether they are copied.

use std::collections::HashMap;

use crate::{
    error::Result,
    lsn::Lsn,
    name::TableName,
    pg::{client::Client, snapshot::Snapshot},
};

/// What the ledger knows of a relation.
#[derive(Clone, Debug)]
pub struct RelationEntry {
    pub oid: u32,
    pub table: TableName,
    /// The table on the target, whatever it is called now.
    pub target_oid: Option<u32>,
    pub lane: u32,
    pub spread: Spread,
    /// Changes of its stream that were not applied.
    pub missed: u64,
    pub state: RelationState,
    /// It is being copied while replay goes on; this lane of its own then brings it to where the others are.
    pub side_lane: Option<u32>,
    /// Where it joined its ordinary lane after that; zero where it never was away.
    pub joined: Lsn,
}

/// Whether the rows of a relation are spread over all lanes, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Its one lane has them all.
    #[default]
    No,
    /// By the first column of the primary key: rows that are neighbours in its index share a lane.
    First,
    /// By the whole key.
    Key,
}

impl Spread {
    fn parse(text: &str) -> Self {
        [Self::First, Self::Key].into_iter().find(|s| s.as_str() == text).unwrap_or_default()
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::First => "first",
            Self::Key => "key",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelationState {
    Planned,
    /// Copied under this snapshot, at this L.
    Copied {
        snapshot: Snapshot,
        at: Lsn,
    },
    /// The operator skipped its data.
    Skipped,
}

impl RelationState {
    /// L, if it is copied.
    pub fn copied_at(&self) -> Option<Lsn> {
        if let Self::Copied { at, .. } = self { Some(*at) } else { None }
    }
}

/// The relations by their OIDs on the source. An earlier version's ledger lacks the last two columns.
pub async fn relations(client: &Client) -> Result<HashMap<u32, RelationEntry>> {
    let rows = client
        .query(
            "select source_oid, schema, name, target_oid, lane, spread, missed, snapshot, l_lsn::text as l, state,
                    (to_jsonb(r) ->> 'side_lane')::int as side_lane, coalesce(to_jsonb(r) ->> 'joined', '0/0') as joined from _hyperlift.relation r",
            &[],
        )
        .await?;
    rows.iter()
        .map(|r| {
            let oid = r.get::<_, i64>("source_oid") as u32;
            let state = match (r.get::<_, &str>("state"), r.get::<_, Option<&str>>("snapshot"), r.get::<_, Option<&str>>("l")) {
                ("copied", Some(snapshot), Some(l)) => RelationState::Copied { snapshot: snapshot.parse()?, at: l.parse()? },
                ("skipped", _, _) => RelationState::Skipped,
                _ => RelationState::Planned,
            };
            let table = TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
            let entry = RelationEntry {
                oid,
                table,
                target_oid: r.get("target_oid"),
                lane: r.get::<_, i32>("lane") as u32,
                spread: Spread::parse(r.get("spread")),
                missed: r.get::<_, i64>("missed") as u64,
                state,
                side_lane: r.get::<_, Option<i32>>("side_lane").map(|lane| lane as u32),
                joined: r.get::<_, &str>("joined").parse()?,
            };
            Ok((oid, entry))
        })
        .collect()
}

/// The statement that spreads the keys of a relation over all lanes, or gives them back to its one lane. Only where all lanes have
/// the same position, in one transaction with their positions (I6).
pub fn spread_relation(oid: u32, spread: Spread) -> String {
    format!("update _hyperlift.relation set spread = '{}' where source_oid operator(pg_catalog.=) {oid}", spread.as_str())
}

/// The statement that records changes that were not applied, for the transaction that leaves them out, whatever its path.
pub fn add_missed(oid: u32, changes: u64) -> String {
    format!("update _hyperlift.relation set missed = missed operator(pg_catalog.+) {changes} where source_oid operator(pg_catalog.=) {oid}")
}

/// A relation is known by its OID; this is what it is called now.
pub async fn rename_relation(client: &Client, oid: u32, name: &TableName) -> Result<()> {
    let sql = "update _hyperlift.relation set schema = $2, name = $3 where source_oid = $1";
    client.execute(sql, &[&i64::from(oid), &name.schema, &name.name]).await?;
    Ok(())
}

/// Records the relations with their lanes, in one statement. A lane once given is never changed (I6).
pub async fn plan_relations(client: &Client, relations: &[(u32, TableName, u32)]) -> Result<()> {
    let oids: Vec<i64> = relations.iter().map(|(oid, ..)| i64::from(*oid)).collect();
    let schemas: Vec<&str> = relations.iter().map(|(_, table, _)| table.schema.as_str()).collect();
    let names: Vec<&str> = relations.iter().map(|(_, table, _)| table.name.as_str()).collect();
    let lanes: Vec<i32> = relations.iter().map(|(.., lane)| *lane as i32).collect();
    let sql = "insert into _hyperlift.relation (source_oid, schema, name, target_oid, lane, state)
               select oid, schema, name, to_regclass(format('%I.%I', schema, name)), lane, 'planned'
                 from unnest($1::bigint[], $2::text[], $3::text[], $4::int[]) t (oid, schema, name, lane) on conflict do nothing";
    client.execute(sql, &[&oids, &schemas, &names, &lanes]).await?;
    Ok(())
}

pub async fn skip_relation(client: &Client, oid: u32) -> Result<()> {
    client.execute("update _hyperlift.relation set state = 'skipped' where source_oid = $1", &[&i64::from(oid)]).await?;
    Ok(())
}
