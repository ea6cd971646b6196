//! A random application: tables of every awkward shape, and transactions that change them in orders that replay may distribute.
//!
//! What it writes depends on the seed alone. A statement that the source refuses (a key that is taken) is rolled back, so that the
//! stream has rolled back savepoints and transactions, too.

mod tables;

pub use tables::{hypertables, plain};

use std::fmt::Write as _;
use tokio_postgres::Client;

use crate::{replaying::Compared, support::Database};

/// A table, and what may happen to its rows. In all texts `{t}` is its name, `{o}` ONLY where it has to be said, `{a}` to `{b}` a range
/// of numbers, `{c}` another number, `{s}` a random one, `{i}` the number of the row, `{n}` the column with it.
pub struct Table {
    pub name: &'static str,
    /// On the source, and on the target unless that is given.
    pub source: String,
    pub target: Option<String>,
    /// What follows `insert into {t}`.
    insert: String,
    /// The expression that numbers the rows; none: rows are found by their place.
    number: Option<&'static str>,
    assignments: Vec<String>,
    /// Whole statements.
    scripts: Vec<String>,
    /// Rows of a bulk insert; none at all when zero.
    bulk: u64,
    is_parent: bool,
    by_leaf: bool,
    pub insert_only: bool,
}

/// Two rows exchange their numbers through a third.
const SWAP: &str =
    "update {o}{t} set {n} = 999999 where {n} = {a}; update {o}{t} set {n} = {a} where {n} = {c}; update {o}{t} set {n} = {c} where {n} = 999999";
/// One row is deleted, another takes its number, a third takes the number of that.
const CHAIN: &str = "delete from {o}{t} where {n} = {b}; update {o}{t} set {n} = {b} where {n} = {a}; update {o}{t} set {n} = {a} where {n} = {c}";
const THERE_AND_BACK: &str = "update {o}{t} set {n} = 999999 where {n} = {a}; update {o}{t} set {n} = {a} where {n} = 999999";
/// A new row takes the number of a deleted one, and is deleted, too.
const IN_ITS_PLACE: &str =
    "update {o}{t} set {n} = {c} where {n} = {a}; insert into {t} {insert:a}; delete from {o}{t} where {n} = {a}; insert into {t} {insert:a}";

impl Table {
    fn new(name: &'static str, source: impl Into<String>, insert: impl Into<String>, assignments: &[&str]) -> Self {
        Self {
            name,
            source: source.into(),
            target: None,
            insert: insert.into(),
            number: Some("id"),
            assignments: assignments.iter().map(ToString::to_string).collect(),
            scripts: Vec::new(),
            bulk: 150,
            is_parent: false,
            by_leaf: false,
            insert_only: false,
        }
    }

    /// The number is part of the key: it is changed, exchanged and taken over.
    fn rekeyed(mut self) -> Self {
        self.assignments.extend(["{n} = -{n}", "{n} = {n} + 7", "{n} = {c}"].map(str::to_owned));
        self.scripts.extend([SWAP, CHAIN, THERE_AND_BACK, IN_ITS_PLACE].map(str::to_owned));
        self
    }

    fn scripts(mut self, scripts: &[&str]) -> Self {
        self.scripts.extend(scripts.iter().map(ToString::to_string));
        self
    }

    fn bulk(self, bulk: u64) -> Self {
        Self { bulk, ..self }
    }

    fn number(self, number: Option<&'static str>) -> Self {
        Self { number, ..self }
    }

    fn target(self, target: impl Into<String>) -> Self {
        Self { target: Some(target.into()), ..self }
    }

    pub fn compared(&self) -> Compared {
        Compared { table: format!("{}{}", self.only(), self.name), by_leaf: self.by_leaf }
    }

    fn only(&self) -> &'static str {
        if self.is_parent { "only " } else { "" }
    }

    fn fill(&self, text: &str, rng: &mut fastrand::Rng, range: (i64, i64)) -> String {
        let n = self.number.unwrap_or("1");
        let s = rng.u32(0..10_000).to_string();
        text.replace("{insert:a}", &self.insert.replace("{i}", "i").replace("{b}", "{a}"))
            .replace("{i}", n)
            .replace("{n}", n)
            .replace("{o}", self.only())
            .replace("{t}", self.name)
            .replace("{a}", &range.0.to_string())
            .replace("{b}", &range.1.to_string())
            .replace("{c}", &rng.i64(1..60).to_string())
            .replace("{s}", &s)
    }

    fn insert(&self, rng: &mut fastrand::Rng, range: (i64, i64)) -> String {
        // Deferrable constraints know no ON CONFLICT.
        let taken = if self.insert.contains("not exists") { "" } else { "on conflict do nothing" };
        let text = format!("insert into {{t}} {} {taken}", self.insert.replace("{i}", "i"));
        self.fill(&text, rng, range)
    }

    /// The condition that finds some rows.
    fn some(&self) -> &'static str {
        match self.number {
            Some(_) => "{n} between {a} and {b}",
            None => "ctid = any (array(select ctid from {o}{t} order by ctid offset {a} limit 1 + {b} - {a}))",
        }
    }

    fn update(&self, rng: &mut fastrand::Rng, range: (i64, i64), all: bool) -> Option<String> {
        let assignment = rng.choice(&self.assignments)?.clone();
        let condition = if all { "true" } else { self.some() };
        Some(self.fill(&format!("update {{o}}{{t}} set {assignment} where {condition}"), rng, range))
    }

    fn delete(&self, rng: &mut fastrand::Rng, range: (i64, i64)) -> Option<String> {
        (!self.insert_only).then(|| self.fill(&format!("delete from {{o}}{{t}} where {}", self.some()), rng, range))
    }

    /// A few rows; bulk inserts have other numbers.
    fn range(rng: &mut fastrand::Rng) -> (i64, i64) {
        let from = rng.i64(1..60);
        (from, from + if rng.u8(0..3) == 0 { rng.i64(1..12) } else { 0 })
    }

    /// One or more statements.
    fn statements(&self, rng: &mut fastrand::Rng) -> Vec<String> {
        let range = Self::range(rng);
        let bulk = (rng.i64(100..200), rng.i64(0..=self.bulk as i64));
        let statements: Vec<Option<String>> = match rng.u8(0..100) {
            0..18 => vec![Some(self.insert(rng, range))],
            18..46 => vec![self.update(rng, range, false)],
            46..56 => vec![self.delete(rng, range)],
            56..62 => vec![self.delete(rng, range), Some(self.insert(rng, range))],
            62..67 => vec![Some(self.insert(rng, range)), self.update(rng, range, false), self.delete(rng, range)],
            67..73 => vec![self.update(rng, range, false), self.update(rng, range, false), self.update(rng, range, false)],
            73..77 => vec![self.update(rng, range, false), self.delete(rng, range)],
            77..89 => {
                let script = rng.choice(&self.scripts).cloned().unwrap_or_default();
                self.fill(&script, rng, range).split("; ").filter(|s| !s.is_empty()).map(|s| Some(s.to_owned())).collect()
            }
            89..92 if self.bulk > 0 => vec![Some(self.insert(rng, (bulk.0, bulk.0 + bulk.1)))],
            92..94 if self.bulk > 0 => vec![self.delete(rng, (bulk.0 - 50, bulk.0 + bulk.1 / 2))],
            94..96 if self.bulk > 0 => vec![self.update(rng, (bulk.0 - 50, bulk.0 + bulk.1), false)],
            96.. => vec![self.update(rng, range, true)],
            _ => vec![],
        };
        statements.into_iter().flatten().collect()
    }
}

/// What was written, for the report of a failure.
#[derive(Default)]
pub struct Written {
    statements: Vec<String>,
}

impl Written {
    /// The last statements that name a table.
    pub fn about(&self, table: &str) -> String {
        let all: Vec<&String> = self.statements.iter().filter(|s| s.contains(table)).collect();
        let mut text = String::new();
        for statement in &all[all.len().saturating_sub(400)..] {
            let _ = writeln!(text, "{}", statement.chars().take(300).collect::<String>());
        }
        text
    }
}

/// A transaction that stays open while others commit; no other session changes its table.
struct OpenTransaction {
    client: Client,
    table: usize,
    left: u32,
}

/// Writes transactions until this many have been tried.
pub async fn write(source: &Database, tables: &[Table], transactions: u32, rng: &mut fastrand::Rng) -> Written {
    let client = source.session().await;
    let mut written = Written::default();
    let mut held: Option<OpenTransaction> = None;
    // Something to begin with.
    for table in tables {
        run(&client, &mut written, &table.insert(rng, (1, 50)), "").await;
    }
    let (filled, touched) = (rng.u32(0..transactions / 2), rng.u32(transactions / 2..transactions));
    for number in 0..transactions {
        if number == filled || number == touched {
            many(&client, &mut written, tables, number == filled, held.as_ref().map(|h| h.table), rng).await;
        }
        if let Some(mut session) = held.take() {
            for statement in tables[session.table].statements(rng) {
                run(&session.client, &mut written, &statement, "savepoint").await;
            }
            session.left -= 1;
            if session.left == 0 {
                run(&session.client, &mut written, "commit", "").await;
            } else {
                held = Some(session);
            }
        } else if rng.u8(0..6) == 0 {
            let session = OpenTransaction { client: source.session().await, table: rng.usize(0..tables.len()), left: rng.u32(1..6) };
            // A child of another table is locked with it.
            if !tables[session.table].is_parent {
                run(&session.client, &mut written, "begin", "").await;
                held = Some(session);
            }
        }
        transaction(&client, &mut written, tables, held.as_ref().map(|h| h.table), rng).await;
    }
    if let Some(session) = held {
        run(&session.client, &mut written, "commit", "").await;
    }
    written
}

/// One transaction of a table or of several, or single statements.
async fn transaction(client: &Client, written: &mut Written, tables: &[Table], locked: Option<usize>, rng: &mut fastrand::Rng) {
    let free = |n: &usize| Some(*n) != locked;
    let mut picked: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(0..tables.len())).filter(free).collect();
    if rng.u8(0..12) == 0 {
        picked = (0..tables.len()).filter(free).collect();
    }
    let is_block = rng.u8(0..4) > 0;
    // Without savepoints a refused statement takes the whole transaction with it.
    let savepoint = if is_block && rng.u8(0..5) > 0 { "savepoint" } else { "" };
    if is_block {
        run(client, written, "begin", "").await;
    }
    for _ in 0..rng.u32(1..7) {
        for n in &picked {
            let undone = is_block && rng.u8(0..12) == 0;
            if undone {
                run(client, written, "savepoint undone", "").await;
            }
            for statement in tables[*n].statements(rng) {
                run(client, written, &statement, savepoint).await;
            }
            if undone {
                run(client, written, "rollback to savepoint undone", "").await;
            }
        }
        if rng.u8(0..40) == 0 {
            let mut names: Vec<&str> = (0..rng.usize(1..4)).map(|_| rng.usize(0..tables.len())).filter(free).map(|n| tables[n].name).collect();
            // TRUNCATE of a parent takes its children, too, one of which may be locked.
            names.retain(|name| locked.is_none() || *name != "public.parent");
            if !names.is_empty() {
                run(client, written, &format!("truncate {}", names.join(", ")), savepoint).await;
            }
        }
    }
    if is_block {
        run(client, written, if rng.u8(0..15) == 0 { "rollback" } else { "commit" }, "").await;
    }
}

/// One transaction that is too large for a batch: it fills some tables, or changes all their rows.
async fn many(client: &Client, written: &mut Written, tables: &[Table], fill: bool, locked: Option<usize>, rng: &mut fastrand::Rng) {
    let largest = (0..tables.len()).max_by_key(|n| tables[*n].bulk);
    let picked: Vec<usize> = largest.into_iter().chain((0..4).map(|_| rng.usize(0..tables.len()))).collect();
    run(client, written, "begin", "").await;
    for n in picked.into_iter().filter(|n| Some(*n) != locked && tables[*n].bulk > 0) {
        let table = &tables[n];
        let fill = fill.then(|| table.insert(rng, (100, 100 + table.bulk as i64)));
        if let Some(statement) = fill.or_else(|| table.update(rng, (0, 0), true)) {
            run(client, written, &statement, "savepoint").await;
        }
    }
    run(client, written, "commit", "").await;
}

/// Runs a statement. With a savepoint, what is refused is undone by itself.
async fn run(client: &Client, written: &mut Written, statement: &str, savepoint: &str) {
    let guarded = !savepoint.is_empty();
    if guarded {
        let _ = client.batch_execute("savepoint guard").await;
    }
    let result = client.batch_execute(statement).await;
    let refused = match &result {
        Ok(()) => "",
        Err(e) => {
            let code = e.code().expect("the source answers").code().to_owned();
            // Taken keys, transactions that are undone already: all else is a mistake in this file.
            assert!(code.starts_with("23") || ["22001", "22003", "25P02", "3B001", "55006"].contains(&code.as_str()), "{e:?}: {statement}");
            "-- refused: "
        }
    };
    written.statements.push(format!("{refused}{statement}"));
    if guarded {
        let _ = client
            .batch_execute(if refused.is_empty() { "release savepoint guard" } else { "rollback to savepoint guard; release savepoint guard" })
            .await;
    }
}
