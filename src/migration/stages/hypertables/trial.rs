//! Tries hypertables on the target before they are promised. The tables are empty: they are converted, everything that the later phases run
//! on them is run, and all of it is rolled back. So what the server refuses is known in its own words, whatever its version.
//!
//! A statement may also fail because something is missing that was not made in the trial. So the statements that failed are tried on the
//! plain tables, too: only what fails on the hypertables alone comes from the conversion.

use std::collections::{HashMap, HashSet};

use super::convert;
use crate::{
    error::{Error, Result},
    event::Candidate,
    migration::{
        context::Context,
        restore::{self, ddl, flatten},
    },
    name::TableName,
    pg::{
        catalog,
        client::Client,
        dump::{self, Phase, Schema, Statement},
        ledger,
        object::ObjectKind,
        target_table,
    },
    plan::{Hypertable, Plan},
    sqlstate,
};

/// Tables that are tried in one transaction, because each holds locks until its end.
const BATCH: usize = 50;
/// Nobody else should use the target. If somebody does, the stage does not wait for ever.
const LOCK_TIMEOUT: &str = "10s";

/// The hypertables that were tried, and what was found.
#[derive(Default)]
pub struct Trials {
    known: HashMap<Hypertable, Trial>,
}

#[derive(Default)]
struct Trial {
    refused: Option<String>,
    /// What the target will have in another form, or not at all.
    remarks: Vec<String>,
}

/// A statement that the target refused.
struct Refusal {
    table: TableName,
    /// The object that it makes; `None` for the conversion itself.
    object: Option<String>,
    error: Error,
}

impl Refusal {
    fn text(&self) -> String {
        let object = self.object.as_deref().unwrap_or("create_hypertable");
        format!("{object}: {}", self.error)
    }
}

impl Trials {
    /// Tries the chosen hypertables that `fits` and that were not tried before, and writes to the candidates what the target says.
    pub async fn run(
        &mut self,
        cx: &Context,
        source: &Client,
        candidates: &mut [Candidate],
        fits: impl Fn(&Hypertable, &Candidate) -> bool,
    ) -> Result<()> {
        let chosen = || candidates.iter().filter_map(|c| Some((c, c.chosen.as_ref()?)));
        let mut plan = cx.plan.clone();
        plan.select(chosen().map(|(_, h)| h.clone()).collect(), plan.one_table.clone());
        let made: HashSet<TableName> = candidates.iter().filter(|c| c.made).map(|c| c.table.clone()).collect();
        let wanted: Vec<Hypertable> = chosen().filter(|(c, h)| fits(h, c) && !self.known.contains_key(*h)).map(|(_, h)| h.clone()).collect();
        if !wanted.is_empty() {
            let schema = cx.unless_stopped(restore::dump_for(&cx.sides(), &plan)).await?;
            let trial = Attempt { cx, source, plan: &plan, schema: &schema, made: &made };
            for batch in wanted.chunks(BATCH) {
                self.note(batch, &schema, &cx.unless_stopped(trial.refusals(batch)).await?);
            }
        }
        for c in candidates.iter_mut() {
            if let Some(trial) = c.chosen.as_ref().and_then(|h| self.known.get(h)) {
                c.refused.clone_from(&trial.refused);
                c.remarks.clone_from(&trial.remarks);
            }
        }
        Ok(())
    }

    fn note(&mut self, tried: &[Hypertable], schema: &Schema, refusals: &[Refusal]) {
        for h in tried {
            let refused: Vec<String> = refusals.iter().filter(|r| r.table == h.table).map(Refusal::text).collect();
            let remarks = schema.notes.iter().filter(|n| n.hypertable.as_ref() == Some(&h.table));
            let trial = Trial {
                refused: (!refused.is_empty()).then(|| refused.join("; ")),
                remarks: remarks.map(|n| format!("{}: {}", n.object, n.reason)).collect(),
            };
            self.known.insert(h.clone(), trial);
        }
    }
}

/// What is tried.
struct Attempt<'a> {
    cx: &'a Context,
    source: &'a Client,
    /// With all chosen hypertables, those that somebody has made among them.
    plan: &'a Plan,
    schema: &'a Schema,
    made: &'a HashSet<TableName>,
}

impl Attempt<'_> {
    /// What the target refuses of these hypertables because they are such. Where it has not enough locks for all of them, they are tried in
    /// smaller groups.
    async fn refusals(&self, tables: &[Hypertable]) -> Result<Vec<Refusal>> {
        match self.compared(tables).await {
            Err(e) if tables.len() > 1 && e.sqlstate.as_deref().is_some_and(|code| code.starts_with(sqlstate::INSUFFICIENT_RESOURCES_CLASS)) => {
                let (first, second) = tables.split_at(tables.len() / 2);
                let mut refusals = Box::pin(self.refusals(first)).await?;
                refusals.extend(Box::pin(self.refusals(second)).await?);
                Ok(refusals)
            }
            other => other,
        }
    }

    async fn compared(&self, tables: &[Hypertable]) -> Result<Vec<Refusal>> {
        let mut refusals = self.rolled_back(tables).await?;
        // One that somebody made cannot be tried as a plain table.
        let is_doubtful = |r: &Refusal| r.object.is_some() && !self.made.contains(&r.table);
        if !refusals.iter().any(is_doubtful) {
            return Ok(refusals);
        }
        let mut plan = self.plan.clone();
        let is_tried = |table: &TableName| !self.made.contains(table) && tables.iter().any(|h| h.table == *table);
        plan.hypertables.retain(|h| !is_tried(&h.table));
        plan.one_table.extend(tables.iter().filter(|h| is_tried(&h.table)).map(|h| h.table.clone()));
        let schema = restore::dump_for(&self.cx.sides(), &plan).await?;
        let plain = Attempt { plan: &plan, schema: &schema, ..*self };
        let fail_anyway: HashSet<Option<String>> = plain.rolled_back(tables).await?.into_iter().map(|r| r.object).collect();
        refusals.retain(|r| {
            let stays = !is_doubtful(r) || !fail_anyway.contains(&r.object);
            if !stays {
                tracing::info!(table = %r.table, "not tried, because it fails on the plain table, too: {}", r.text());
            }
            stays
        });
        Ok(refusals)
    }

    /// Runs everything in a transaction that is rolled back. No other session of the target may be needed meanwhile.
    async fn rolled_back(&self, tables: &[Hypertable]) -> Result<Vec<Refusal>> {
        let target = self.cx.target("trial").await?;
        target.batch_execute(&format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}'")).await?;
        let refusals = self.run(&target, tables).await;
        let ended = target.batch_execute("rollback").await;
        let refusals = refusals?;
        ended?;
        Ok(refusals)
    }

    async fn run(&self, target: &Client, tables: &[Hypertable]) -> Result<Vec<Refusal>> {
        let names: Vec<TableName> = tables.iter().map(|h| h.table.clone()).collect();
        let partitioned = target_table::of_kind(target, &names, "p").await?;
        if !partitioned.is_empty() {
            flatten::flatten_within(self.cx, self.source, target, (self.plan, self.schema), &partitioned).await?;
        }
        let mut refusals = Vec::new();
        let mut converted = HashSet::new();
        for h in tables {
            if self.made.contains(&h.table) {
                for index in convert::default_indexes(self.source, target, &h.table).await? {
                    target.batch_execute(&format!("drop index {}", index.sql())).await?;
                }
            } else if self.plan.hypertable(&h.table).is_some()
                && let Err(error) = attempt(target, &h.sql(&self.cx.timescale.schema), None).await?
            {
                refusals.push(Refusal { table: h.table.clone(), object: None, error });
                continue;
            }
            converted.insert(h.table.clone());
        }
        let later = later_statements(self.schema, &converted, &catalog::role_names(target).await?);
        let all: Vec<String> = later.iter().flat_map(|l| texts(l.statement)).collect();
        // As a rule nothing fails, and then one round trip is enough.
        if all.is_empty() || attempt(target, &all.join(";\n"), None).await?.is_ok() {
            return Ok(refusals);
        }
        let path = ledger::migration(target).await?.and_then(|known| known.search_path);
        for Later { statement, tables } in later {
            for sql in texts(statement) {
                if let Err(error) = attempt(target, &sql, path.as_deref()).await? {
                    let object = statement.object.to_string();
                    let refusal = |table| Refusal { table, object: Some(object.clone()), error: copy(&error) };
                    refusals.extend(tables.into_iter().map(refusal));
                    break;
                }
            }
        }
        Ok(refusals)
    }
}

/// The statement as it is run, and the one that validates it after the cutover.
fn texts(statement: &Statement) -> impl Iterator<Item = String> {
    std::iter::once(&statement.sql).chain(&statement.validate).map(|sql| sql.trim_end_matches(';').to_owned())
}

/// Runs statements in a savepoint: the outer error ends the trial, the inner one is the target's answer.
async fn attempt(target: &Client, sql: &str, path: Option<&str>) -> Result<Result<()>> {
    match ddl::in_savepoint(target, sql, path).await {
        Err(e) if e.is_transient() || e.sqlstate.is_none() => Err(e),
        answer => Ok(answer),
    }
}

fn copy(error: &Error) -> Error {
    Error::database(error.sqlstate.as_deref().unwrap_or_default(), &error.message, error.detail.as_deref(), None)
}

/// A statement that a later phase runs, and the tables that are tried by it.
struct Later<'a> {
    statement: &'a Statement,
    tables: Vec<TableName>,
}

/// What later phases run on these tables, and on views of them, in the order in which they run it. Statements that need a role which the
/// target does not have are not run by those phases either.
fn later_statements<'a>(schema: &'a Schema, tables: &HashSet<TableName>, roles: &HashSet<String>) -> Vec<Later<'a>> {
    let phases = [Phase::Index, Phase::PostIndex, Phase::Cutover];
    let mut statements: Vec<&Statement> = schema.statements.iter().filter(|s| phases.contains(&s.phase)).collect();
    statements.sort_by_key(|s| s.phase);
    let referenced = referenced(schema, tables);
    let mut keys = HashSet::new();
    // For each relation of interest the tables for which it is.
    let mut origins: HashMap<TableName, HashSet<TableName>> = tables.iter().map(|t| (t.clone(), HashSet::from([t.clone()]))).collect();
    let mut later = Vec::new();
    for statement in statements.into_iter().filter(|s| s.roles.iter().all(|role| roles.contains(role))) {
        let is_attached = || dump::named_relations(&statement.sql).is_some_and(|named| !named.relations.is_disjoint(&keys));
        if (statement.table.as_ref().is_some_and(|t| referenced.contains(t)) && is_key(statement))
            || (statement.object.kind == ObjectKind::IndexAttach && !keys.is_empty() && is_attached())
        {
            keys.extend(statement.index_name());
            later.push(Later { statement, tables: Vec::new() });
            continue;
        }
        if !origins.keys().any(|relation| may_name(&statement.sql, relation)) {
            continue;
        }
        let (relations, makes) = match dump::named_relations(&statement.sql) {
            Some(named) => (named.relations, named.makes),
            // The parser does not know it. It stays with the table that it seems to name.
            None => (origins.keys().filter(|relation| may_name(&statement.sql, relation)).cloned().collect(), None),
        };
        let of: HashSet<TableName> = relations.iter().filter_map(|r| origins.get(r)).flatten().cloned().collect();
        if of.is_empty() {
            continue;
        }
        for made in makes.into_iter().chain(statement.index_name()) {
            origins.entry(made).or_default().extend(of.iter().cloned());
        }
        later.push(Later { statement, tables: of.into_iter().collect() });
    }
    later
}

/// The tables to which foreign keys of these tables point, with their partitions: without their keys the foreign keys could not be tried.
fn referenced(schema: &Schema, tables: &HashSet<TableName>) -> HashSet<TableName> {
    let of_kind = |kind| schema.statements.iter().filter(move |s| s.object.kind == kind);
    let named = |s: &Statement| dump::named_relations(&s.sql).unwrap_or_default().relations;
    let foreign_keys = of_kind(ObjectKind::ForeignKey).filter(|s| s.table.as_ref().is_some_and(|t| tables.contains(t)));
    let mut referenced: HashSet<TableName> = foreign_keys.flat_map(named).filter(|table| !tables.contains(table)).collect();
    if referenced.is_empty() {
        return referenced;
    }
    let attached: Vec<HashSet<TableName>> = of_kind(ObjectKind::TableAttach).map(named).collect();
    loop {
        let before = referenced.len();
        for pair in &attached {
            if !pair.is_disjoint(&referenced) {
                referenced.extend(pair.iter().cloned());
            }
        }
        if referenced.len() == before {
            return referenced;
        }
    }
}

/// Whether a statement makes an index that a foreign key may point at.
fn is_key(statement: &Statement) -> bool {
    statement.phase == Phase::Index && (statement.object.kind == ObjectKind::Constraint || statement.sql.starts_with("CREATE UNIQUE INDEX"))
}

/// Whether the text may name a relation: cheaper than reading it.
fn may_name(sql: &str, relation: &TableName) -> bool {
    sql.contains(&relation.name.replace('"', "\"\""))
}
