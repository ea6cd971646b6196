//! Cuts a large table by the values of a key, for sources before PostgreSQL 14, which cannot read ranges of blocks. A range of a key is read
//! through an index.
//!
//! The values come from a sample of the table's blocks that is read under the snapshot of the copy. The planner's statistics would not do:
//! they may be missing or old, and leave out the most common values. The sample also shows of how many ranges a block has rows. If that is
//! more than one, as with random keys, the source would read the same block for several ranges: such a key is cut into fewer pieces, or
//! not at all.

use super::parts::KeyRanges;
use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::wire::Wire,
};

/// Blocks that are sampled for each piece, and at least for all pieces together.
const SAMPLED_BLOCKS_PER_PIECE: u64 = 16;
const SAMPLED_BLOCKS: u64 = 256;
/// On average, a block may have rows of no more ranges than this, because each of them reads it.
const MOST_READS: f64 = 1.5;
/// No more columns than this are tried.
const MOST_COLUMNS: usize = 4;

/// The first columns of the indexes that can be used, with the types that they compare: those of the primary key and of the replica
/// identity come first. There is no text, because its order depends on a system library, and an index that is older than the library may
/// hide rows.
const COLUMNS: &str = "
    select a.attname::text, o.opcintype::regtype::text
      from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
      join pg_opclass o on o.oid = i.indclass[0] join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
     where i.indrelid = to_regclass($TABLE) and m.amname = 'btree' and i.indisvalid and i.indpred is null and a.attnum > 0 and o.opcdefault
       and o.opcintype = any ('{int2, int4, int8, oid, numeric, float4, float8, date, time, timestamp, timestamptz, interval, uuid, bytea,
                                inet, macaddr, pg_lsn}'::regtype[])
     group by a.attname, o.opcintype
     order by bool_or(i.indisprimary) desc, bool_or(i.indisreplident) desc, bool_or(i.indisunique) desc, a.attname";

/// Finds values of a key that cut the table into about this many pieces of the same size. Without such a key it returns no bounds.
pub async fn ranges(wire: &mut Wire, table: &TableName, blocks: u64, pieces: u64) -> Result<KeyRanges> {
    if pieces < 2 {
        return Ok(KeyRanges::default());
    }
    let columns = wire.simple(&COLUMNS.replace("$TABLE", &literal(&table.sql()))).await.map_err(|e| e.context("source"))?;
    let mut best = KeyRanges::default();
    for column in columns.into_iter().take(MOST_COLUMNS) {
        let [Some(column), Some(data_type)] = <[_; 2]>::try_from(column).unwrap_or_default() else { continue };
        let mut pieces = pieces;
        while pieces > best.bounds.len() as u64 + 1 {
            let (bounds, reads) = sample(wire, table, (&column, &data_type), blocks, pieces).await?;
            if reads <= MOST_READS {
                if bounds.len() > best.bounds.len() {
                    best = KeyRanges { column, data_type, bounds };
                }
                break;
            }
            pieces /= 2;
        }
    }
    tracing::info!(%table, column = best.column, pieces = best.bounds.len() + 1, wanted = pieces, "cut by a key");
    Ok(best)
}

/// Returns the values that cut a sample of the table into pieces of the same size, and of how many pieces a block has rows, on average.
async fn sample(wire: &mut Wire, table: &TableName, (column, data_type): (&str, &str), blocks: u64, pieces: u64) -> Result<(Vec<String>, f64)> {
    let sampled = (SAMPLED_BLOCKS_PER_PIECE * pieces).max(SAMPLED_BLOCKS);
    let percent = (100.0 * sampled as f64 / blocks.max(1) as f64).min(100.0);
    // The least value is one of them, and is dropped below: so a column with a single value has no bounds and is not cut.
    let fractions = (0..pieces).map(|n| (n as f64 / pieces as f64).to_string()).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "with sample as materialized (
             select (ctid::text::point)[0] as block, {column}::{data_type} as key from only {table} tablesample system ({percent}) repeatable (1)),
         cut as (select percentile_disc(array[{fractions}]) within group (order by key) as keys from sample)
         select distinct on (key::{data_type}) key, reads::text
           from cut cross join lateral unnest(keys::text[]) key
           cross join (select count(distinct (block, coalesce(width_bucket(key, keys), 1)))::float8 / greatest(count(distinct block), 1) as reads
                         from sample, cut) r
          order by key::{data_type}",
        column = ident(column),
        table = table.sql(),
    );
    let rows = wire.simple(&sql).await.map_err(|e| e.context("source"))?;
    let reads = rows.first().and_then(|r| r.get(1)?.as_deref()?.parse().ok()).unwrap_or(1.0);
    Ok((rows.into_iter().skip(1).filter_map(|mut r| r.swap_remove(0)).collect(), reads))
}
