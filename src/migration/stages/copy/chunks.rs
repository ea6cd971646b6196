//! Creates chunks of a hypertable before several jobs copy into it. A session that creates a chunk locks the hypertable until it commits, so
//! that jobs that need new chunks would wait for each other.
//!
//! A sample of the source's blocks, read under the snapshot of the copy, shows which chunks will have rows. So no chunk is created that
//! stays empty, even if one row is from the year 4000, and the cost is bounded whether the time column has an index or not. A chunk that
//! the sample has missed is created by the job that needs it.

use crate::{
    bus::Reporter,
    error::Result,
    event::Level,
    name::ident,
    pg::{
        catalog::SourceRelation,
        timescale::{self, Dimension},
        wire::{Failed, Request, Wire},
    },
};

/// Blocks of the source in the sample, about.
const SAMPLED_BLOCKS: u64 = 8_192;
/// Chunks that are created in one round trip, each in a transaction of its own.
const IN_FLIGHT: usize = 16;

/// What is known of a hypertable before it is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunking {
    /// The only dimension, if it is one of time (or of integers).
    pub dimension: Option<Dimension>,
    /// No more chunks than this are created before the copy, because locks are limited. 0 where the server cannot create them.
    pub most: u64,
}

/// Two expressions: whether a value is in a chunk, and the number of that chunk. `None` for a type whose chunks cannot be numbered here.
/// Double precision is several times faster than `numeric`, and exact enough to number a chunk.
fn chunk_of(column: &str, type_oid: u32, width: i64) -> Option<(String, String)> {
    let column = ident(column);
    match type_oid {
        // int8, int2, int4
        20 | 21 | 23 => Some((format!("{column} is not null"), format!("floor({column}::float8 / {width})::bigint"))),
        // date, timestamp, timestamptz: microseconds since 1970, in UTC
        1082 | 1114 | 1184 => Some((format!("isfinite({column})"), format!("floor(date_part('epoch', {column}) * 1000000 / {width})::bigint"))),
        _ => None,
    }
}

/// Creates the chunks that the rows of the relation will need; returns whether several jobs may write into it.
pub async fn create(
    reporter: &Reporter,
    chunking: &Chunking,
    (source, blocks, columns): (&mut Wire, u64, &[(String, u32)]),
    target: &mut Wire,
    relation: &SourceRelation,
) -> Result<bool> {
    let (table, only) = (&relation.table, relation.storage.only());
    let Some((dimension, width)) = chunking.dimension.as_ref().and_then(|d| Some((d, d.width.filter(|w| *w > 0)?))) else { return Ok(false) };
    let type_oid = columns.iter().find(|(name, _)| *name == dimension.column).map_or(0, |(_, oid)| *oid);
    let Some((condition, number)) = chunk_of(&dimension.column, type_oid, width).filter(|_| chunking.most > 0) else { return Ok(false) };
    let percent = (100.0 * SAMPLED_BLOCKS as f64 / blocks.max(1) as f64).min(100.0);
    let sql = format!(
        "select distinct {number} as number from {only}{} tablesample system ({percent}) repeatable (1) where {condition} order by 1 limit {}",
        table.sql(),
        chunking.most + 1
    );
    let rows = source.simple(&sql).await.map_err(|e| e.context("source"))?;
    let numbers: Vec<i64> = rows.iter().filter_map(|r| r.first()?.as_deref()?.parse().ok()).collect();
    if numbers.len() as u64 > chunking.most {
        let text = format!(
            "{table} has more than {} chunks: one job at a time copies it, because several jobs would wait for each other's chunks",
            chunking.most
        );
        reporter.notice(Level::Info, text).await;
        return Ok(false);
    }
    let ranges = numbers.iter().filter_map(|n| Some((n.checked_mul(width)?, n.checked_add(1)?.checked_mul(width)?)));
    let statements: Vec<String> = ranges.map(|(from, to)| timescale::create_chunk(table, &dimension.column, from, to)).collect();
    for some in statements.chunks(IN_FLIGHT) {
        match target.run(some.iter().map(|s| Request::Query(s.as_str().into())).collect()).await {
            Ok(_) => {}
            Err(Failed { error, .. }) if error.is_transient() => return Err(error.context("target")),
            Err(Failed { error, .. }) => {
                let text = format!("chunks of {table} cannot be created before the copy ({error}): one job at a time copies it");
                reporter.notice(Level::Info, text).await;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_numbered_by_the_type_of_the_column() {
        let (condition, number) = chunk_of("at", 1184, 86_400_000_000).unwrap();
        assert_eq!(condition, "isfinite(\"at\")");
        assert_eq!(number, "floor(date_part('epoch', \"at\") * 1000000 / 86400000000)::bigint");
        assert_eq!(chunk_of("n", 20, 1_000).unwrap().1, "floor(\"n\"::float8 / 1000)::bigint");
        // uuid
        assert_eq!(chunk_of("id", 2_950, 1_000), None);
    }
}
