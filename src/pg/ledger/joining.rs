//! Relations that are copied while replay goes on: each leaves its lane, and joins it again from a lane of its own.
//!
//! ```text
//! in its lane ── leave ──▶ planned, with a side lane ── copied ──▶ copied, with a side lane ── join ──▶ in its lane
//! ```

use std::collections::BTreeMap;

use super::relations::{RelationState, relations};
use crate::{
    error::{Error, Kind, Result},
    lsn::Position,
    name::TableName,
    pg::client::Client,
};

/// A relation that is to be copied, and its table on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// On the source.
    pub oid: u32,
    /// On the source, too.
    pub name: TableName,
    /// On the target.
    pub table: TableName,
    /// OIDs of relations that are part of it by now.
    pub absorbs: Vec<u32>,
    /// The relation that had this table before, and is gone from the source.
    pub replaces: Option<u32>,
}

impl Leaving {
    /// A relation whose table has the same name on both sides.
    pub fn same_name(oid: u32, table: &TableName) -> Self {
        Self { oid, name: table.clone(), table: table.clone(), absorbs: Vec::new(), replaces: None }
    }
}

/// Takes relations out of their lanes, in one transaction: from the position of the slowest lane on, their changes are for a side lane. One
/// that the ledger does not know becomes part of the migration. The lanes must not run.
///
/// A relation that is away already keeps its side lane, and is copied again.
pub async fn leave(client: &mut Client, relations: &[Leaving]) -> Result<()> {
    let transaction = client.transaction().await?;
    // Several jobs of a copy may need a new lane.
    transaction.batch_execute("lock table _hyperlift.lane in share row exclusive mode").await?;
    let row = transaction
        .query_one(
            "insert into _hyperlift.lane (lane, lsn, change)
             select (select max(lane) + 1 from _hyperlift.lane), min(lsn), 0 from _hyperlift.lane where lane < (select lanes from _hyperlift.migration)
             returning lane",
            &[],
        )
        .await?;
    let lane: i32 = row.get("lane");
    for Leaving { oid, name, table, absorbs, replaces } in relations {
        let absorbs: Vec<i64> = absorbs.iter().copied().map(i64::from).collect();
        transaction.execute("delete from _hyperlift.relation where source_oid = any($1)", &[&absorbs]).await?;
        if let Some(gone) = replaces {
            let sql = "update _hyperlift.relation set state = 'skipped', side_lane = null, target_oid = null where source_oid = $1";
            transaction.execute(sql, &[&i64::from(*gone)]).await?;
        }
        let sql = "insert into _hyperlift.relation (source_oid, schema, name, target_oid, lane, state, side_lane)
                   select $1, $2, $3, to_regclass($4), l.lane, 'planned', $5
                     from _hyperlift.lane l left join _hyperlift.relation r on r.lane = l.lane where l.lane < (select lanes from _hyperlift.migration)
                    group by l.lane order by count(r.lane) limit 1
                   on conflict (source_oid) do update set state = 'planned', snapshot = null, l_lsn = null, joined = null, missed = 0, spread = 'no',
                          schema = $2, name = $3, target_oid = to_regclass($4), side_lane = coalesce(_hyperlift.relation.side_lane, $5),
                          attempt = _hyperlift.relation.attempt + 1";
        transaction.execute(sql, &[&i64::from(*oid), &name.schema, &name.name, &table.sql(), &lane]).await?;
    }
    transaction.batch_execute(END_UNUSED).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends the side lanes that have no relation.
const END_UNUSED: &str = "delete from _hyperlift.lane l where lane >= (select lanes from _hyperlift.migration)
    and not exists (select from _hyperlift.relation r where r.side_lane = l.lane)";

/// Puts the relations of a side lane into their ordinary lanes, from its position on, and ends it. All ordinary lanes must be at or before
/// this position, and none of them may run.
pub async fn join(client: &mut Client, lane: u32, at: Position) -> Result<()> {
    let transaction = client.transaction().await?;
    let lane = lane as i32;
    let ended = "delete from _hyperlift.lane where lane = $1 and lsn = $2::text::pg_lsn and change = $3";
    let moved = transaction.execute(ended, &[&lane, &at.lsn.to_string(), &(at.change as i64)]).await?;
    if moved != 1 {
        return Err(
            Error::new(Kind::Differs, "the position of a lane was moved by another session").hint("start hyperlift again: it continues from there")
        );
    }
    let sql = "update _hyperlift.relation set side_lane = null, joined = $2::text::pg_lsn where side_lane = $1 and state <> 'planned'";
    transaction.execute(sql, &[&lane, &at.lsn.to_string()]).await?;
    transaction.commit().await?;
    Ok(())
}

/// A relation that is gone from the source before it could join is not copied any more, and its changes do not count.
pub async fn give_up(client: &Client, oid: u32) -> Result<()> {
    client.execute("update _hyperlift.relation set state = 'skipped', side_lane = null where source_oid = $1", &[&i64::from(oid)]).await?;
    client.batch_execute(END_UNUSED).await?;
    Ok(())
}

/// The relations that are away, by their side lanes: whether each is copied, and its OID on the source.
pub async fn away(client: &Client) -> Result<BTreeMap<u32, Vec<(u32, bool)>>> {
    let mut found = BTreeMap::<u32, Vec<(u32, bool)>>::new();
    for entry in relations(client).await?.into_values() {
        if let Some(lane) = entry.side_lane {
            found.entry(lane).or_default().push((entry.oid, entry.state != RelationState::Planned));
        }
    }
    Ok(found)
}
