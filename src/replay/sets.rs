//! From the sets of a batch to the requests that apply them. Pure: what is to be sent, and how many rows each request must touch.
//!
//! Inserts are a COPY into the table. Deletes and updates are a COPY into a staging table, a temporary one of the lane's session that
//! is empty again after each transaction, and a statement that joins it. Values are read by the input functions of the target's own
//! column types, as everywhere. A few rows are applied by prepared statements instead, because a set would cost more than it saves.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use super::{
    apply::{self, RowAction},
    compact::{Image, Sets},
    pgoutput::{OldKind, RelationMessage, Tuple, Value},
    relation::{Relation, RelationIndex},
};
use crate::{
    name::{ident, literal},
    pg::wire::{CopyData, Request},
};

/// Fewer rows than this are applied one by one.
const SMALL: usize = 12;
/// Staging tables that a session keeps.
const STAGING_TABLES: usize = 48;
/// A statement on a hypertable is divided when the chunks that it may have to search, times its rows, are more than this.
const PROBES: i64 = 2_000;

/// How many rows a request must touch; anything else means that source and target differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it says.
    Anything,
    Rows(u64),
    /// Any number: the next one must touch the rest.
    Some,
    /// This many with those of the one before.
    Together(u64),
    /// As many as the one before.
    Same,
}

pub type SetRequests<'a> = Vec<(Request<'a>, Expect)>;

/// The staging tables of a session.
pub struct Staging {
    lane: u32,
    names: HashMap<(RelationIndex, String), String>,
    /// Filled already in this transaction.
    filled: HashSet<String>,
    /// Statements that have to run before the transaction.
    pub missing: Vec<String>,
}

impl Staging {
    pub fn new(lane: u32) -> Self {
        Self { lane, names: HashMap::new(), filled: HashSet::new(), missing: Vec::new() }
    }

    /// A new transaction begins, with empty staging tables.
    pub fn begin(&mut self) {
        self.filled.clear();
        if self.names.len() > STAGING_TABLES {
            self.missing.extend(self.names.drain().map(|(_, name)| format!("drop table {name}")));
        }
    }

    /// A table with these columns, empty; `clear` is what empties it if it has been used in this transaction.
    fn table(&mut self, index: RelationIndex, relation: &Relation, columns: &str) -> (String, Option<String>) {
        let number = self.names.len();
        let name = self.names.entry((index, columns.to_owned())).or_insert_with(|| {
            // The name is the lane's own even where all connections share one session.
            let name = format!("hyperlift_{}_{number}", self.lane);
            self.missing.push(format!(
                "drop table if exists pg_temp.{name}; create temporary table {name} on commit delete rows as select {columns} from {} with no data",
                relation.table.sql()
            ));
            format!("pg_temp.{name}")
        });
        let clear = (!self.filled.insert(name.clone())).then(|| format!("truncate {name}"));
        (name.clone(), clear)
    }
}

/// The requests for one part of a batch of one relation. `index` is the relation's.
pub fn requests<'a>(sets: Sets<'a>, index: RelationIndex, relation: &Relation, staging: &mut Staging) -> SetRequests<'a> {
    let mut w = SetWriter {
        index,
        relation,
        staging,
        message: sets.message,
        columns: sets.message.columns.iter().map(|c| ident(&c.name)).collect(),
        keys: sets.keys.clone(),
        requests: Vec::new(),
    };
    let message = sets.message;
    let by_key = |tuple: Tuple<'a>, keys: &[usize]| -> Vec<Value<'a>> {
        tuple.values().enumerate().map(|(i, v)| if keys.contains(&i) { v } else { Value::Null }).collect()
    };
    if sets.deletes.len() < SMALL && message.identity != b'f' {
        for old in &sets.deletes {
            match apply::delete(message, relation, OldKind::Key, by_key(*old, &sets.keys).into_iter()) {
                Ok(step) => w.execute(step),
                Err(_) => w.delete(&[*old]),
            }
        }
    } else {
        w.delete(&sets.deletes);
    }
    for (columns, rows) in by_columns(sets.updates, &sets.keys) {
        let few = rows.len() < SMALL && message.identity != b'f';
        let steps: Option<Vec<_>> =
            few.then(|| rows.iter().map(|row| one_step(apply::update(message, relation, None, &row.values().collect()).ok()?)).collect()).flatten();
        match steps {
            Some(steps) => steps.into_iter().for_each(|step| w.execute(step)),
            None => w.update(&columns, &rows),
        }
    }
    if sets.inserts.len() < SMALL {
        for row in &sets.inserts {
            w.execute(apply::insert(message, relation, row.values().collect::<Vec<_>>().into_iter()));
        }
    } else {
        w.insert(sets.inserts);
    }
    w.requests
}

fn one_step(work: RowAction<'_>) -> Option<apply::BoundStatement<'_>> {
    if let RowAction::One(step) = work { Some(step) } else { None }
}

/// Updates by the columns that they set: unchanged TOAST values are left alone. Without a column to set there is nothing to do (C-7).
fn by_columns<'a>(updates: Vec<Image<'a>>, keys: &[usize]) -> Vec<(Vec<usize>, Vec<Image<'a>>)> {
    let mut groups: Vec<(Vec<usize>, Vec<Image<'a>>)> = Vec::new();
    for row in updates {
        let sets = |(i, value): (usize, Value<'_>)| value != Value::Unchanged && !keys.contains(&i);
        let place = groups.iter().position(|(columns, _)| row.values().enumerate().filter(|v| sets(*v)).map(|(i, _)| i).eq(columns.iter().copied()));
        if let Some(place) = place {
            groups[place].1.push(row);
        } else {
            let columns: Vec<usize> = row.values().enumerate().filter(|v| sets(*v)).map(|(i, _)| i).collect();
            groups.push((columns, vec![row]));
        }
    }
    groups.retain(|(columns, _)| !columns.is_empty());
    groups
}

struct SetWriter<'a, 'r> {
    index: RelationIndex,
    relation: &'r Relation,
    staging: &'r mut Staging,
    message: &'a RelationMessage,
    /// Quoted names.
    columns: Vec<String>,
    keys: Vec<usize>,
    requests: SetRequests<'a>,
}

impl<'a> SetWriter<'a, '_> {
    fn execute(&mut self, step: apply::BoundStatement<'a>) {
        self.requests.push((Request::Execute(Cow::Owned(step.sql), step.parameters), Expect::Rows(1)));
    }

    fn query(&mut self, sql: String, expect: Expect) {
        self.requests.push((Request::Query(Cow::Owned(sql)), expect));
    }

    /// Fills a staging table with some columns of rows, and returns its name.
    fn stage<'v>(&mut self, columns: &[usize], rows: impl Iterator<Item = impl Iterator<Item = Value<'v>>>) -> String {
        let names = columns.iter().map(|i| self.columns[*i].as_str()).collect::<Vec<_>>().join(", ");
        let (table, clear) = self.staging.table(self.index, self.relation, &names);
        if let Some(sql) = clear {
            self.query(sql, Expect::Anything);
        }
        let (data, count) = copy_data(columns, rows);
        self.requests.push((Request::Copy(format!("copy {table} from stdin"), data), Expect::Rows(count)));
        table
    }

    fn head(&self, verb: &str) -> String {
        format!("{verb} {} t", self.relation.searched(self.message))
    }

    fn join(&self, columns: &[usize]) -> String {
        join(self.message, self.relation, columns)
    }

    fn list(&self, columns: &[usize], prefix: &str) -> String {
        columns.iter().map(|i| format!("{prefix}{}", self.columns[*i])).collect::<Vec<_>>().join(", ")
    }

    fn delete(&mut self, rows: &[Tuple<'a>]) {
        if rows.is_empty() {
            return;
        }
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        let ranges = self.time_ranges(rows.iter().map(|r| r.values()));
        let staged = self.stage(&keys, rows.iter().map(|r| r.values()));
        let (head, join) = (self.head("delete from"), self.join(&keys));
        for range in ranges {
            self.query(format!("{head} using {staged} s where {join}{}", range.condition), Expect::Rows(range.rows));
        }
    }

    fn update(&mut self, columns: &[usize], rows: &[Image<'a>]) {
        let dimensions: Vec<usize> = self.dimensions();
        let time_of_key = dimensions.iter().all(|d| self.keys.contains(d));
        let staged_columns: Vec<usize> = {
            let mut all: Vec<usize> = self.keys.iter().chain(columns).copied().collect();
            all.sort_unstable();
            all
        };
        let ranges = self.time_ranges(rows.iter().map(Image::values));
        let new_times = self.times(rows.iter().map(Image::values)).map(|times| self.between(&times)).unwrap_or_default();
        let staged = self.stage(&staged_columns, rows.iter().map(Image::values));
        let set: Vec<String> = columns.iter().map(|i| format!("{0} = s.{0}", self.columns[*i])).collect();
        let (head, set) = (self.head("update"), set.join(", "));
        let by_key = self.join(&self.keys);
        if time_of_key {
            for range in ranges {
                self.query(format!("{head} set {set} from {staged} s where {by_key}{}", range.condition), Expect::Rows(range.rows));
            }
            return;
        }
        // The source's key lacks the time: rows are searched at their new time, and those that are not there have moved.
        let count = rows.len() as u64;
        let there = format!("{by_key} and {}", self.join(&dimensions));
        let whole = staged_columns.len() == self.columns.len();
        self.query(format!("{head} set {set} from {staged} s where {there}{new_times}"), if whole { Expect::Some } else { Expect::Rows(count) });
        if whole {
            let delete = format!("{} using {staged} s where {by_key} and not ({})", self.head("delete from"), self.join(&dimensions));
            self.query(delete, Expect::Together(count));
            let table = self.relation.table.sql();
            let insert = format!(
                "insert into {table} ({}) overriding system value select {} from {staged} s where not exists (select from {table} t where {there})",
                self.list(&staged_columns, ""),
                self.list(&staged_columns, "s.")
            );
            self.query(insert, Expect::Same);
        }
    }

    fn insert(&mut self, mut rows: Vec<Image<'a>>) {
        if let Some(time) = self.primary_dimension()
            && let Some(times) = rows.iter().map(|r| self.instant(time, r.values().nth(time)?)).collect::<Option<Vec<_>>>()
            && !times.is_sorted()
        {
            // Chunk after chunk, so that each is opened once.
            let mut sorted: Vec<_> = times.into_iter().zip(rows).collect();
            sorted.sort_by_key(|(time, _)| *time);
            rows = sorted.into_iter().map(|(_, row)| row).collect();
        } else if self.relation.shape.dimensions.is_empty()
            && let Some(primary_key) = self.places(&self.relation.shape.primary_key)
        {
            // Neighbours in the index are inserted one after the other. Text with its length in front sorts numbers as numbers.
            rows.sort_by_cached_key(|row| {
                let mut leading: [(usize, &'a [u8]); 2] = Default::default();
                for (i, value) in row.values().enumerate() {
                    if let Some(place) = primary_key.iter().take(2).position(|p| *p == i) {
                        leading[place] = value.text().map_or((0, &[][..]), |text| (text.len(), text));
                    }
                }
                leading
            });
        }
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let (data, count) = copy_data(&all, rows.iter().map(Image::values));
        let sql = format!("copy {} ({}) from stdin", self.relation.table.sql(), self.list(&all, ""));
        self.requests.push((Request::Copy(sql, data), Expect::Rows(count)));
    }

    /// Columns by which the hypertable is partitioned, as places in the message.
    fn dimensions(&self) -> Vec<usize> {
        self.relation.shape.dimensions.iter().filter_map(|name| self.columns.iter().position(|c| *c == ident(name))).collect()
    }

    /// The places of columns in the message; `None` when one is not there, or there are none.
    fn places(&self, names: &[String]) -> Option<Vec<usize>> {
        let place = |name: &String| self.columns.iter().position(|c| *c == ident(name));
        names.iter().map(place).collect::<Option<Vec<_>>>().filter(|places| !places.is_empty())
    }

    fn primary_dimension(&self) -> Option<usize> {
        self.relation.shape.dimensions.first().and_then(|name| self.columns.iter().position(|c| *c == ident(name)))
    }

    fn instant(&self, column: usize, value: Value<'_>) -> Option<i64> {
        let name = self.relation.shape.dimensions.first().filter(|name| ident(name) == self.columns[column])?;
        instant(value.text()?, &self.relation.shape.columns.get(name)?.data_type)
    }

    /// The times of rows, sorted; `None` where there are none, or one cannot be read.
    fn times<'v>(&self, rows: impl Iterator<Item = impl Iterator<Item = Value<'v>>>) -> Option<Vec<(i64, &'v [u8])>> {
        let time = self.primary_dimension()?;
        let mut times = rows
            .map(|mut row| {
                let text = row.nth(time)?.text()?;
                Some((self.instant(time, Value::Text(text))?, text))
            })
            .collect::<Option<Vec<_>>>()?;
        times.sort_unstable();
        Some(times)
    }

    /// Bounds on the time with which the planner leaves chunks out: without them it would search every chunk for every row.
    fn between(&self, times: &[(i64, &[u8])]) -> String {
        let (Some(time), Some(first), Some(last)) = (self.primary_dimension(), times.first(), times.last()) else { return String::new() };
        let (name, text) = (&self.columns[time], |t: &(i64, &[u8])| literal(&String::from_utf8_lossy(t.1)));
        let (from, to) = (text(first), text(last));
        let within = |of: &str| format!(" and {of}.{name} operator(pg_catalog.>=) {from} and {of}.{name} operator(pg_catalog.<=) {to}");
        within("t") + &within("s")
    }

    fn time_ranges<'v>(&self, rows: impl ExactSizeIterator<Item = impl Iterator<Item = Value<'v>>>) -> Vec<Range> {
        let count = rows.len() as u64;
        let in_key = self.primary_dimension().is_some_and(|d| self.keys.contains(&d));
        match (self.relation.shape.chunk_width.filter(|_| in_key), in_key.then(|| self.times(rows)).flatten()) {
            (Some(width), Some(times)) => {
                divide(&times, width).into_iter().map(|part| Range { rows: part.len() as u64, condition: self.between(part) }).collect()
            }
            _ => vec![Range { rows: count, condition: String::new() }],
        }
    }
}

/// The condition that a row of the table `t` and one of `s` are equal in some columns, which both have with the same types.
pub fn join(message: &RelationMessage, relation: &Relation, columns: &[usize]) -> String {
    let equal = |i: &usize| {
        let name = &message.columns[*i].name;
        let (left, right) = (format!("t.{}", ident(name)), format!("s.{}", ident(name)));
        // A column that the target lacks is named when the changes are applied one by one.
        relation.shape.columns.get(name).map_or_else(|| format!("{left} operator(pg_catalog.=) {right}"), |c| c.equal(&left, &right))
    };
    columns.iter().map(equal).collect::<Vec<_>>().join(" and ")
}

struct Range {
    rows: u64,
    condition: String,
}

/// Sorted times in runs that touch few chunks for their number.
fn divide<'t, 'v>(times: &'t [(i64, &'v [u8])], width: i64) -> Vec<&'t [(i64, &'v [u8])]> {
    let mut runs = Vec::new();
    let mut start = 0;
    for at in 1..=times.len() {
        let chunk = |i: usize| times[i].0.div_euclid(width.max(1));
        if at == times.len() || (chunk(at) != chunk(at - 1) && (chunk(at) - chunk(start) + 1) * (at - start) as i64 > PROBES) {
            runs.push(&times[start..at]);
            start = at;
        }
    }
    runs
}

fn copy_data<'v>(columns: &[usize], rows: impl Iterator<Item = impl Iterator<Item = Value<'v>>>) -> (CopyData, u64) {
    let mut data = CopyData::default();
    let mut count = 0;
    for row in rows {
        let mut wanted = columns.iter().peekable();
        for (i, value) in row.enumerate() {
            if wanted.next_if(|w| **w == i).is_some() {
                data.field(value.text());
            }
        }
        data.end_row();
        count += 1;
    }
    (data, count)
}

/// A value of a time dimension as a number that sorts as it does: microseconds since 1970 for dates and timestamps (printed in ISO
/// form, in UTC). `None` for a date before our era, and for any other type.
fn instant(text: &[u8], data_type: &str) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    match data_type {
        "smallint" | "integer" | "bigint" => text.parse().ok(),
        "date" => Some(text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond()),
        t if t.starts_with("timestamp") => {
            let text = text.strip_suffix("+00").unwrap_or(text);
            let at = text.parse::<jiff::civil::DateTime>().ok()?;
            Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
        }
        _ => None,
    }
}
