//! The tables that may become hypertables: by which column, in chunks of what size, and what is in the way.

use std::collections::HashMap;

use crate::{
    error::Result,
    event::{Candidate, KeyShape, TimeColumn, UniqueKey},
    migration::context::Context,
    pg::{
        catalog::{ExclusionConstraint, SourceRelation},
        client::Client,
        timescale,
    },
    plan::{Hypertable, KeyChoice},
};

/// Tables below this size are not proposed, bytes: a hypertable gains nothing there.
const PROPOSE_FROM: u64 = 1 << 20;
/// Why a table is proposed.
const APPEND_ONLY: &str = "time + append-only";
/// Chunks that a table should have at most when an interval is proposed.
const CHUNKS: u64 = 200;

/// The tables that may become hypertables, as the plan and the target have them now.
pub async fn list(cx: &Context, source: &Client, relations: &[SourceRelation], exclusions: &[ExclusionConstraint]) -> Result<Vec<Candidate>> {
    let made = timescale::hypertables(&cx.target("hypertables").await?).await?;
    let spans = spans(source, relations).await?;
    let functions_in = if cx.timescale.schema == timescale::USUAL_SCHEMA { String::new() } else { cx.timescale.schema.clone() };
    let mut found = Vec::new();
    for r in relations {
        let columns = time_columns(r, &spans);
        let existing = made.get(&r.table).and_then(|dimensions| dimensions.first()).map(|d| Hypertable {
            table: r.table.clone(),
            time_column: d.column.clone(),
            chunk_interval: d.interval.clone().unwrap_or_default(),
            key: cx.plan.hypertable(&r.table).map_or(KeyChoice::Extend, |h| h.key),
        });
        let obstacle = match () {
            () if r.inherits => Some("it takes part in inheritance"),
            () if r.has_rules => Some("it has rules"),
            () if columns.is_empty() => Some("no column of a date, timestamp or integer type"),
            () => None,
        };
        let (why, keys) = (why(r, &columns), keys(r, exclusions));
        let fits = columns.first().is_some_and(|c| keys.iter().all(|k| k.columns.contains(&c.name) || k.obstacle.is_none()));
        found.push(Candidate {
            table: r.table.clone(),
            bytes: r.bytes,
            rows: r.rows,
            proposed: obstacle.is_none() && why == APPEND_ONLY && fits,
            why,
            columns,
            keys,
            obstacle: obstacle.map(str::to_owned),
            refused: None,
            remarks: Vec::new(),
            made: existing.is_some(),
            partitions: r.storage.partitions(),
            one_table: cx.plan.one_table.contains(&r.table),
            functions_in: functions_in.clone(),
            chosen: existing.or_else(|| cx.plan.hypertable(&r.table).cloned()),
        });
    }
    Ok(found)
}

/// Primary and unique keys and exclusion constraints, each with the reason why it cannot be extended, if there is one.
pub fn keys(r: &SourceRelation, exclusions: &[ExclusionConstraint]) -> Vec<UniqueKey> {
    let unique = r.indexes.iter().map(|i| UniqueKey {
        name: i.name.clone(),
        primary: i.primary,
        columns: i.columns.clone(),
        shape: if i.expression { KeyShape::Expressions } else { KeyShape::Columns },
        obstacle: match (i.referenced, i.in_query) {
            (true, _) => Some("a foreign key points at it, which needs it as it is".into()),
            (_, true) => Some("the query of a view or of a function groups by it, which needs it as it is".into()),
            _ => None,
        },
    });
    let exclusions = exclusions.iter().filter(|x| x.table == r.table).map(|x| UniqueKey {
        name: x.name.clone(),
        primary: false,
        columns: x.equal.clone(),
        shape: KeyShape::Exclusion,
        obstacle: Some("an exclusion constraint cannot be extended; plain-index keeps its index, which then excludes no rows".into()),
    });
    unique.chain(exclusions).collect()
}

fn why(r: &SourceRelation, columns: &[TimeColumn]) -> String {
    let timed = columns.iter().find(|c| !c.data_type.contains("int"));
    match timed {
        None if columns.is_empty() => "no time column".into(),
        None => "integer columns only".into(),
        Some(_) if r.indexes.iter().any(|i| i.referenced) => "FK points here".into(),
        Some(_) if r.rows > 0 && (r.updated_rows + r.deleted_rows) * 5 > r.rows => "updated often".into(),
        Some(_) if r.bytes < PROPOSE_FROM => "small".into(),
        Some(c) if c.not_null => APPEND_ONLY.into(),
        Some(_) => "time column may be null".into(),
    }
}

/// Columns that may partition the table, the best first, with proposed intervals from the planner's statistics.
fn time_columns(r: &SourceRelation, spans: &Spans) -> Vec<TimeColumn> {
    let mut columns = Vec::new();
    for c in r.columns.iter().filter(|c| !c.generated) {
        let rank = match c.data_type.as_str() {
            "timestamp with time zone" => 0,
            "timestamp without time zone" => 1,
            "date" => 2,
            "bigint" | "integer" | "smallint" if !c.identity && !r.indexes.iter().any(|i| i.columns == [c.name.clone()]) => 3,
            _ => continue,
        };
        let span = spans.get(&(r.oid, c.name.clone())).copied().unwrap_or(0);
        let keyed = r.indexes.iter().any(|i| i.columns.contains(&c.name));
        columns.push((
            (rank / 3, changes_later(&c.name), !c.not_null, !keyed, rank),
            TimeColumn {
                name: c.name.clone(),
                data_type: c.data_type.clone(),
                not_null: c.not_null,
                intervals: intervals(&c.data_type, span, r.bytes),
                span,
            },
        ));
    }
    columns.sort_by_key(|a| a.0);
    columns.into_iter().map(|c| c.1).collect()
}

/// Whether the name of a column says that its value changes while the row lives, so that the row would move between chunks.
fn changes_later(name: &str) -> bool {
    let name = name.to_lowercase();
    ["update", "modif", "change", "delete"].iter().any(|word| name.contains(word))
}

/// By relation and column.
type Spans = HashMap<(u32, String), u64>;

/// From the smallest to the greatest value in the histogram; seconds, or the column's own units.
async fn spans(source: &Client, relations: &[SourceRelation]) -> Result<Spans> {
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let roots: Vec<u32> = relations.iter().filter(|r| r.storage.is_partitioned()).map(|r| r.oid).collect();
    let rows = source.query(include_str!("spans.sql"), &[&oids, &roots]).await?;
    Ok(rows.iter().map(|r| ((r.get("oid"), r.get("name")), r.get::<_, f64>("span").max(0.0) as u64)).collect())
}

/// Chunk intervals and their lengths, seconds.
const CHOICES: [(&str, u64); 6] =
    [("1 hour", 3_600), ("6 hours", 21_600), ("1 day", 86_400), ("7 days", 604_800), ("30 days", 2_592_000), ("365 days", 31_536_000)];

/// Chunk intervals to choose from, the best first: chunks of about a gigabyte, not more than a few hundred of them.
fn intervals(data_type: &str, span: u64, bytes: u64) -> Vec<String> {
    if data_type.contains("int") {
        let step = (span / 50).max(10_000);
        let rounded = 10u64.pow(step.ilog10());
        return [rounded, rounded * 10, 1_000_000].iter().map(u64::to_string).collect();
    }
    let best = if span == 0 {
        3
    } else {
        let wanted = (span / CHUNKS).max((u128::from(span) * (1 << 30) / u128::from(bytes.max(1))).min(u128::from(span / 10)) as u64);
        CHOICES.iter().position(|(_, s)| *s >= wanted).unwrap_or(CHOICES.len() - 1)
    };
    let mut order: Vec<usize> = (0..CHOICES.len()).collect();
    order.sort_by_key(|i| i.abs_diff(best));
    order.into_iter().map(|i| CHOICES[i].0.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::catalog::{Column, UniqueIndex};

    #[test]
    fn intervals_give_chunks_of_a_sensible_number_and_size() {
        let (day, year) = (86_400, 31_536_000);
        assert_eq!(intervals("timestamp with time zone", 0, 0)[0], "7 days");
        // 200 GB over two years: a gigabyte is about four days
        assert_eq!(intervals("timestamp with time zone", 2 * year, 200 << 30)[0], "7 days");
        // 10 GB in a day: hours
        assert_eq!(intervals("timestamp with time zone", day, 10 << 30)[0], "6 hours");
        // little data over long: never thousands of chunks
        assert_eq!(intervals("date", 10 * year, 1 << 20)[0], "365 days");
        assert!(intervals("bigint", 1_000_000_000, 0)[0].parse::<u64>().is_ok());
    }

    fn column(name: &str, not_null: bool) -> Column {
        Column { name: name.into(), data_type: "timestamp with time zone".into(), not_null, generated: false, identity: false }
    }

    /// A large table that is only appended to, with a primary key on `id`.
    fn table(columns: Vec<Column>) -> SourceRelation {
        let key = UniqueIndex {
            name: "t_pkey".into(),
            primary: true,
            columns: vec!["id".into()],
            usable: true,
            expression: false,
            referenced: false,
            in_query: false,
            constraint: Some("t_pkey".into()),
        };
        SourceRelation {
            oid: 1,
            table: crate::name::TableName::new("public", "t"),
            storage: crate::pg::catalog::Storage::Heap,
            unlogged: false,
            bytes: PROPOSE_FROM,
            rows: 1000,
            identity: 'd',
            identity_index: None,
            indexes: vec![key],
            columns,
            inherits: false,
            has_rules: false,
            owned: true,
            full_is_possible: true,
            bare_leaf: None,
            repeating_leaf: None,
            updated_rows: 0,
            deleted_rows: 0,
        }
    }

    #[test]
    fn a_column_that_changes_with_the_row_comes_after_others() {
        for (columns, first) in [
            (vec![column("updated_at", true), column("created_at", true)], "created_at"),
            (vec![column("LastModified", true), column("seen", false)], "seen"),
            (vec![column("a", false), column("b", true)], "b"),
        ] {
            assert_eq!(time_columns(&table(columns), &Spans::new())[0].name, first);
        }
    }

    #[test]
    fn an_exclusion_constraint_needs_the_time_or_becomes_an_index() {
        let r = table(vec![column("at", true)]);
        let exclusion = |equal: &str| ExclusionConstraint { table: r.table.clone(), name: "x".into(), equal: vec![equal.into()] };
        let objections = |equal: &str, choice| {
            let h = Hypertable { table: r.table.clone(), time_column: "at".into(), chunk_interval: "1 day".into(), key: choice };
            keys(&r, &[exclusion(equal)]).iter().filter(|k| k.objection(&h).is_some()).count()
        };
        assert_eq!(
            (objections("room", KeyChoice::Extend), objections("room", KeyChoice::PlainIndex), objections("at", KeyChoice::Extend)),
            (1, 0, 0)
        );
    }
}
