//! Stage 4: which tables become hypertables. The schema is restored and empty; conversion comes before the rows.

use crate::migration::relations;
use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    event::{Candidate, Command, Event, Level, Stage, TimeColumn, UniqueKey},
    migration::{
        context::Context,
        restore::{ddl, flatten},
    },
    name::TableName,
    pg::{
        catalog::{self, ForeignKey, SourceRelation},
        client::Client,
        ledger, timescale,
    },
    plan::{Hypertable, KeyChoice},
    scope::Inclusion,
};

/// Tables below this size are not proposed, bytes: a hypertable gains nothing there.
const PROPOSE_FROM: u64 = 1 << 20;
/// Why a table is proposed.
const APPEND_ONLY: &str = "time + append-only";
/// Chunks that a table should have at most when an interval is proposed.
const CHUNKS: u64 = 200;
/// How long a column is searched for NULL.
const NULL_SEARCH_TIMEOUT: &str = "5s";

/// What the operator may order while the stage asks.
enum Order {
    Recheck,
    Select { hypertables: Vec<Hypertable>, one_table: Vec<TableName> },
}

fn order(command: Command) -> Result<Order, Command> {
    match command {
        Command::Recheck => Ok(Order::Recheck),
        Command::SelectHypertables { selection: hypertables, one_table } => Ok(Order::Select { hypertables, one_table }),
        other => Err(other),
    }
}

pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Hypertables).await;
    let source = cx.source("hypertables").await?;
    let mut relations = catalog::relations(&source).await?;
    // A table that is migrated without its rows may be a hypertable, too.
    relations.retain(|r| cx.plan.scope.inclusion(&r.table) != Inclusion::Nothing);
    flatten::read_back(cx, &relations).await?;
    if cx.timescale.installed.is_none() {
        if let Some(h) = cx.plan.hypertables.first() {
            return Err(Error::refused(format!("the plan makes {} a hypertable, but the target has no TimescaleDB", h.table))
                .hint("install TimescaleDB on the target, or take the [[hypertable]] entries out of the plan"));
        }
        cx.notice(Level::Info, "no TimescaleDB on the target: all tables stay plain").await;
        flatten::run(cx, &source, &relations).await?;
        return cx.finish(Stage::Hypertables).await;
    }
    let mut foreign_keys = catalog::foreign_keys(&source).await?;
    // A table that is left out has no foreign keys on the target.
    foreign_keys.retain(|f| cx.plan.scope.inclusion(&f.from) != Inclusion::Nothing);
    for r in &mut relations {
        for i in &mut r.indexes {
            i.referenced = foreign_keys.iter().any(|f| f.to == r.table && f.index == i.name);
        }
    }
    let finished = cx.is_finished(Stage::Hypertables);
    let mut nulls_known = HashMap::new();
    loop {
        let candidates = candidates(cx, &source, &relations).await?;
        cx.reporter.report(Event::CandidatesListed { candidates: candidates.clone() }).await;
        let problem = check_plan(cx, &candidates).or_else(|| between_hypertables(&candidates, &foreign_keys));
        let problem = if problem.is_some() { problem } else { flatten::obstacle(cx, &source, &relations).await? };
        let problem = if problem.is_some() { problem } else { without_time(cx, &source, &candidates, &mut nulls_known).await? };
        if finished && problem.is_none() {
            break;
        }
        match cx.prompts.ask_continue(Stage::Hypertables, question(&candidates), problem, order).await? {
            None => break,
            Some(Order::Select { hypertables, one_table }) => {
                cx.plan.select(hypertables, one_table);
                flatten::read_back(cx, &relations).await?;
                cx.save_plan()?;
            }
            Some(Order::Recheck) => nulls_known.clear(),
        }
    }
    flatten::run(cx, &source, &relations).await?;
    convert(cx).await?;
    read_back(cx, &source, &relations).await?;
    cx.save_plan()?;
    let summaries = relations.iter().filter(|r| cx.plan.scope.inclusion(&r.table) == Inclusion::All).map(|r| relations::summary(r, cx)).collect();
    cx.reporter.report(Event::RelationsFound { relations: summaries }).await;
    cx.finish(Stage::Hypertables).await
}

fn question(candidates: &[Candidate]) -> String {
    let chosen = candidates.iter().filter(|c| c.chosen.is_some()).count();
    let joined = candidates.iter().filter(|c| c.chosen.is_none() && c.one_table).count();
    let converted = if chosen == 1 { "1 table becomes a hypertable".to_owned() } else { format!("{chosen} tables become hypertables") };
    let joined_text = match joined {
        0 => String::new(),
        1 => ", 1 loses its partitions".into(),
        n => format!(", {n} lose their partitions"),
    };
    let kept = if candidates.iter().any(|c| c.partitions > 0) { "stay as they are" } else { "stay plain" };
    format!("{converted}{joined_text}, {} {kept}. Nothing runs until you press c.", candidates.len() - chosen - joined)
}

/// Why the current selection is invalid. Found before the copy (H-3).
fn check_plan(cx: &Context, candidates: &[Candidate]) -> Option<String> {
    for h in &cx.plan.hypertables {
        let Some(c) = candidates.iter().find(|c| c.table == h.table) else {
            return Some(format!("{} does not exist on the source", h.table));
        };
        if c.made {
            continue;
        }
        if let Some(obstacle) = &c.obstacle {
            return Some(format!("{} cannot be converted: {obstacle}", h.table));
        }
        if !c.columns.iter().any(|t| t.name == h.time_column) {
            return Some(format!("{} has no time column {}", h.table, h.time_column));
        }
        let missing: Vec<&UniqueKey> = c.keys.iter().filter(|k| !k.columns.contains(&h.time_column)).collect();
        match missing.first() {
            Some(key) if h.key == KeyChoice::Refuse => {
                return Some(format!("{}: key {} lacks {} and the plan says refuse", h.table, key.name, h.time_column));
            }
            _ => {}
        }
        if let Some(key) = missing.iter().find(|k| k.obstacle.is_some()) {
            return Some(format!("{}: key {}: {}", h.table, key.name, key.obstacle.clone().unwrap_or_default()));
        }
    }
    None
}

/// TimescaleDB refuses foreign keys from one hypertable to another (H-8). They are created at the cutover, where it would be too late.
fn between_hypertables(candidates: &[Candidate], foreign_keys: &[ForeignKey]) -> Option<String> {
    let chosen = |table: &TableName| candidates.iter().any(|c| &c.table == table && c.chosen.is_some());
    let found = foreign_keys.iter().find(|f| f.from != f.to && chosen(&f.from) && chosen(&f.to))?;
    Some(format!("{}: its foreign key {} points at {}: a hypertable cannot point at another one", found.from, found.name, found.to))
}

/// A hypertable takes no row without a time (H-5), which the copy would find after hours. `nulls_known`: at which columns, and what was found.
async fn without_time(
    cx: &Context,
    source: &Client,
    candidates: &[Candidate],
    nulls_known: &mut HashMap<(TableName, String), bool>,
) -> Result<Option<String>> {
    for c in candidates.iter().filter(|c| !c.made) {
        let Some(h) = &c.chosen else { continue };
        if c.columns.iter().any(|t| t.name == h.time_column && t.not_null) {
            continue;
        }
        let key = (c.table.clone(), h.time_column.clone());
        let known = match nulls_known.get(&key) {
            Some(found) => Some(*found),
            None => catalog::has_null(source, &c.table, &h.time_column, NULL_SEARCH_TIMEOUT).await?,
        };
        if known.is_none() {
            let text = format!("{}: whether {} is NULL in some row could not be found out in {NULL_SEARCH_TIMEOUT}", c.table, h.time_column);
            cx.notice(Level::Warn, format!("{text}; such a row would stop its copy")).await;
        }
        let found = known.unwrap_or(false);
        nulls_known.insert(key, found);
        if found {
            let (table, column) = (&c.table, crate::name::plain_ident(&h.time_column));
            return Ok(Some(format!(
                "{table} has rows whose {column} is NULL, which a hypertable refuses: give them a value on the source, or choose another column"
            )));
        }
    }
    Ok(None)
}

async fn candidates(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<Vec<Candidate>> {
    let made = timescale::hypertables(&cx.target("hypertables").await?).await?;
    let spans = spans(source, relations).await?;
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
        let why = why(r, &columns);
        found.push(Candidate {
            table: r.table.clone(),
            bytes: r.bytes,
            rows: r.rows,
            proposed: obstacle.is_none() && why == APPEND_ONLY,
            why,
            columns,
            keys: keys(r),
            obstacle: obstacle.map(str::to_owned),
            made: existing.is_some(),
            partitions: r.storage.partitions(),
            one_table: cx.plan.one_table.contains(&r.table),
            chosen: existing.or_else(|| cx.plan.hypertable(&r.table).cloned()),
        });
    }
    Ok(found)
}

/// Primary and unique keys, each with the reason why it cannot be extended, if there is one.
fn keys(r: &SourceRelation) -> Vec<UniqueKey> {
    r.indexes
        .iter()
        .map(|i| UniqueKey {
            name: i.name.clone(),
            primary: i.primary,
            columns: i.columns.clone(),
            obstacle: match (i.referenced, i.in_query, i.expression) {
                (true, ..) => Some("a foreign key points at it, which needs it as it is".into()),
                (_, true, _) => Some("the query of a view or of a function groups by it, which needs it as it is".into()),
                (.., true) => Some("it is on an expression".into()),
                _ => None,
            },
        })
        .collect()
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
            (rank / 3, !c.not_null, !keyed, rank),
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

/// By relation and column.
type Spans = HashMap<(u32, String), u64>;

/// From the smallest to the greatest value in the histogram; seconds, or the column's own units.
async fn spans(source: &Client, relations: &[SourceRelation]) -> Result<Spans> {
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let roots: Vec<u32> = relations.iter().filter(|r| r.storage.is_partitioned()).map(|r| r.oid).collect();
    let rows = source.query(include_str!("hypertables/spans.sql"), &[&oids, &roots]).await?;
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

/// Makes the hypertables of the plan, each with its ledger row.
async fn convert(cx: &mut Context) -> Result<()> {
    let target = cx.target("hypertables").await?;
    let made = timescale::hypertables(&target).await?;
    for h in cx.plan.hypertables.clone() {
        if made.contains_key(&h.table) {
            continue;
        }
        let sql = h.sql(&cx.timescale.schema);
        let record = ledger::record_ddl("hypertable", &h.table.to_string(), &h.table.sql());
        cx.unless_stopped(ddl::in_transaction(&target, &format!("{sql};\n{record} on conflict do nothing"))).await.map_err(|e| {
            e.context(format!("create_hypertable of {}", h.table))
                .hint("take the table out of the selection (or of the plan), or fix the cause, and start again")
        })?;
        cx.reporter.report(Event::HypertableCreated { hypertable: h }).await;
    }
    Ok(())
}

/// The target decides what is a hypertable. One that the operator created, or with other options, is taken into the plan as it is (H-19).
async fn read_back(cx: &mut Context, source: &Client, relations: &[SourceRelation]) -> Result<()> {
    let target = cx.target("hypertables").await?;
    let mut made = timescale::hypertables(&target).await?;
    let mut found = Vec::new();
    for r in relations {
        let Some(first) = made.remove(&r.table).and_then(|dimensions| dimensions.into_iter().next()) else { continue };
        let planned = cx.plan.hypertable(&r.table).cloned();
        let by_hand = planned.is_none();
        let hypertable = Hypertable {
            table: r.table.clone(),
            chunk_interval: match planned.as_ref().filter(|p| p.time_column == first.column) {
                Some(p) => p.chunk_interval.clone(),
                None => first.interval.unwrap_or_default(),
            },
            time_column: first.column,
            key: planned.map_or(KeyChoice::Extend, |p| p.key),
        };
        if by_hand {
            cx.reporter.report(Event::HypertableCreated { hypertable: hypertable.clone() }).await;
        }
        drop_default_indexes(cx, source, &target, &r.table).await?;
        for key in keys(r).iter().filter(|k| !k.columns.contains(&hypertable.time_column)) {
            if let Some(obstacle) = &key.obstacle {
                return Err(Error::refused(format!(
                    "{} is a hypertable, but its key {} lacks {}: {obstacle}",
                    r.table, key.name, hypertable.time_column
                ))
                .hint("make it a plain table again on the target, or change the key on the source"));
            }
        }
        found.push(hypertable);
    }
    let one_table = std::mem::take(&mut cx.plan.one_table);
    cx.plan.select(found, one_table);
    Ok(())
}

/// Drops default indexes of a hypertable that the operator created where the source has an index of the same name, which is created after the
/// copy (H-6).
async fn drop_default_indexes(cx: &Context, source: &Client, target: &Client, table: &TableName) -> Result<()> {
    let names = "select c.relname::text as name from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = to_regclass($1)";
    let wanted: Vec<String> = source.query(names, &[&table.sql()]).await?.iter().map(|r| r.get("name")).collect();
    for row in target.query(names, &[&table.sql()]).await? {
        let index = TableName::new(&table.schema, row.get::<_, &str>("name"));
        // Before the copy the table has none of the source's own yet.
        if wanted.contains(&index.name) && !cx.is_finished(Stage::Hypertables) {
            target.batch_execute(&format!("drop index {}", index.sql())).await?;
            cx.notice(Level::Info, format!("target: default index {index} dropped; the source's index of that name is created after the copy")).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
