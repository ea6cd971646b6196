//! Where a large table is cut that cannot be read by ranges of blocks: sources before PostgreSQL 14. Ranges of a key are read through an
//! index on it.
//!
//! The values come from a sample of the table's blocks, read under the snapshot of the copy, and not from the planner's statistics: those
//! may be missing or old, and leave out the most common values. The sample tells besides how many ranges a block has rows of. Where that
//! is more than one, as with random keys, the source would read the table again for each range: such a key is cut into fewer pieces, or
//! not at all.

use super::parts::KeyRanges;
use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::wire::Wire,
};

/// Blocks that are looked at for each piece, and altogether at least.
const SAMPLED_BLOCKS_PER_PIECE: u64 = 16;
const SAMPLED_BLOCKS: u64 = 256;
/// Each block is read by no more ranges than this, on average.
const MOST_READS: f64 = 1.5;
/// Columns that are tried.
const MOST_COLUMNS: usize = 4;

/// The first columns of the indexes that can serve, with the types that they compare: those of the primary key and the replica identity
/// come first. No text: its order depends on a library of the system, and an index older than the library may hide rows.
const COLUMNS: &str = "
    select a.attname::text, o.opcintype::regtype::text
      from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am cx on cx.oid = c.relam
      join pg_opclass o on o.oid = i.indclass[0] join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
     where i.indrelid = to_regclass($TABLE) and cx.amname = 'btree' and i.indisvalid and i.indpred is null and a.attnum > 0 and o.opcdefault
       and o.opcintype = any ('{int2, int4, int8, oid, numeric, float4, float8, date, time, timestamp, timestamptz, interval, uuid, bytea,
                                inet, macaddr, pg_lsn}'::regtype[])
     group by a.attname, o.opcintype
     order by bool_or(i.indisprimary) desc, bool_or(i.indisreplident) desc, bool_or(i.indisunique) desc, a.attname";

/// Finds values of a key that cut the table into about as many pieces of the same size; none, where there is no such key.
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

/// Values that cut a sample of the table into pieces of the same size; and how many of the pieces a block has rows of, on average.
async fn sample(wire: &mut Wire, table: &TableName, (column, data_type): (&str, &str), blocks: u64, pieces: u64) -> Result<(Vec<String>, f64)> {
    let looked_at = (SAMPLED_BLOCKS_PER_PIECE * pieces).max(SAMPLED_BLOCKS);
    let percent = (100.0 * looked_at as f64 / blocks.max(1) as f64).min(100.0);
    // The least value is among them, so that a column that has only one is not cut.
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
