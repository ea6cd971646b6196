//! What changed in the source's schema since the copy, statement by statement, and whether the target has the same change by now.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{classified, ddl, dump, print_target, statements};
use crate::{
    bus::Reporter,
    error::Result,
    event::Level,
    migration::context::Context,
    pg::{
        client::Client,
        dump::{
            Phase, Statement,
            repair::{self, Repair},
        },
        object::{ObjectKind, ObjectRef},
    },
};

/// Where the operator finds the statements for the target, in the work directory.
pub const SCRIPT: &str = "sql/schema-changes.sql";

/// How the target's schema differs from the source's, without what the cutover makes from a fresh dump anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaChanges {
    /// Statements of the source's schema that the target's does not have.
    missing: Vec<Statement>,
    /// Statements that were restored, are still in the target's schema, and are no longer in the source's.
    obsolete: Vec<Statement>,
}

/// What happened to an object of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Made,
    Altered,
    Dropped,
}

impl Change {
    fn words(self) -> &'static str {
        match self {
            Self::Made => "is new",
            Self::Altered => "was altered",
            Self::Dropped => "was dropped",
        }
    }
}

/// What is different between the source's schema and the target's, for those objects of the source that changed since the copy.
pub async fn find(cx: &Context) -> Result<SchemaChanges> {
    let fresh = dump(cx).await?.statements;
    let changes = SchemaChanges::between(&statements::read(cx)?, &fresh);
    if changes.is_empty() {
        return Ok(changes);
    }
    let target = classified(cx, print_target(cx).await?, &cx.plan).await?;
    Ok(changes.unless_in(&target.statements))
}

impl SchemaChanges {
    fn between(before: &[Statement], now: &[Statement]) -> Self {
        let counts = |statements: &[Statement]| {
            let mut counts: HashMap<(ObjectRef, String), usize> = HashMap::new();
            for statement in statements.iter().filter(|s| is_compared(s)) {
                *counts.entry(key(statement)).or_default() += 1;
            }
            counts
        };
        let only = |these: &[Statement], others: &[Statement]| {
            let mut known = counts(others);
            let is_new = |s: &&Statement| match known.get_mut(&key(s)) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                _ => true,
            };
            these.iter().filter(|s| is_compared(s)).filter(is_new).cloned().collect()
        };
        Self { missing: only(now, before), obsolete: only(before, now) }
    }

    /// Without what the target's schema says already.
    fn unless_in(mut self, target: &[Statement]) -> Self {
        let there: HashSet<_> = target.iter().map(key).collect();
        self.missing.retain(|s| !there.contains(&key(s)));
        self.obsolete.retain(|s| there.contains(&key(s)));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.obsolete.is_empty()
    }

    fn objects(&self) -> BTreeMap<&ObjectRef, Change> {
        let mut objects: BTreeMap<_, _> = self.obsolete.iter().map(|s| (&s.object, Change::Dropped)).collect();
        for statement in &self.missing {
            objects.entry(&statement.object).and_modify(|change| *change = Change::Altered).or_insert(Change::Made);
        }
        objects
    }

    /// Each object, and what happened to it: `FUNCTION public.rate()`, `was altered`.
    pub fn lines(&self) -> Vec<(&ObjectRef, &'static str)> {
        self.objects().into_iter().map(|(object, change)| (object, change.words())).collect()
    }

    /// What can be run on the target, in an order that works in most cases: what was dropped goes first, the last of it before the first.
    pub fn repairs(&self) -> Vec<Repair> {
        let objects = self.objects();
        let is_dropped = |table: &ObjectRef| objects.get(table) == Some(&Change::Dropped);
        let is_partition = |name: &str| self.obsolete.iter().any(|s| s.object.kind == ObjectKind::TableAttach && s.object.name == name);
        // What belongs to a table goes with it.
        let goes_with_table = |s: &Statement| match &s.table {
            Some(table) if s.object.kind != ObjectKind::TableAttach => is_dropped(&ObjectRef::new(ObjectKind::Table, table.to_string())),
            _ => s.object.kind == ObjectKind::TableAttach && is_dropped(&ObjectRef::new(ObjectKind::Table, s.object.name.clone())),
        };
        let gone = self.obsolete.iter().rev().filter(|s| objects[&s.object] == Change::Dropped);
        let gone = gone.filter(|s| s.object.kind == ObjectKind::Table || !goes_with_table(s));
        let mut repairs: Vec<Repair> = gone
            .filter_map(|s| {
                let repair = repair::dropped(s)?;
                // Dropping a partition is to its root what TRUNCATE is to a table, which is replayed, too.
                let destroys = repair.destroys && !(s.object.kind == ObjectKind::Table && is_partition(&s.object.name));
                Some(Repair { destroys, ..repair })
            })
            .collect();
        let mut before: HashMap<&ObjectRef, Vec<&Statement>> = HashMap::new();
        for statement in self.obsolete.iter().rev() {
            before.entry(&statement.object).or_default().push(statement);
        }
        for statement in self.missing.iter().filter(|s| !self.is_of_new_table(s)) {
            match before.get_mut(&statement.object).and_then(Vec::pop) {
                Some(was) => repairs.extend(repair::altered(was, statement)),
                None => repairs.push(repair::made(statement)),
            }
        }
        repairs
    }

    /// Makes a table that is not part of this migration, or belongs to one. A partition is part of its root.
    fn is_of_new_table(&self, statement: &Statement) -> bool {
        let is_partition = |name: &str| self.missing.iter().any(|s| s.object.kind == ObjectKind::TableAttach && s.object.name == name);
        let is_new = |name: &str| {
            let table = ObjectRef::new(ObjectKind::Table, name);
            self.missing.iter().any(|s| s.object == table) && self.obsolete.iter().all(|s| s.object != table) && !is_partition(name)
        };
        match &statement.table {
            _ if statement.object.kind == ObjectKind::Table => is_new(&statement.object.name),
            Some(table) => is_new(&table.to_string()),
            None => false,
        }
    }

    /// The statements that bring the target to the source's schema, where they can be known; the others are comments.
    pub fn script(&self) -> String {
        let mut lines = vec!["-- What changed in the source's schema since the copy. Read it, and run on the target what it needs.\n".to_owned()];
        let repairs = self.repairs();
        for repair in &repairs {
            let note = if repair.destroys { " (removes rows or values, as the source has done)" } else { "" };
            lines.push(format!("-- {}{note}\n{};", repair.object, repair.attempts.first().map_or("", String::as_str)));
        }
        for (object, how) in self.lines().into_iter().filter(|(object, _)| repairs.iter().all(|r| r.object != **object)) {
            let statements = self.missing.iter().chain(&self.obsolete).filter(|s| s.object == *object);
            let text: Vec<String> = statements.map(|s| commented(s.shown())).collect();
            lines.push(format!("-- {object} {how} on the source:\n{}", text.join("\n")));
        }
        lines.join("\n") + "\n"
    }
}

/// Runs repairs on the target, each attempt in a transaction. Returns how many succeeded. One that fails may succeed after others have.
pub async fn run_repairs(target: Client, repairs: Vec<Repair>, reporter: Reporter) -> usize {
    let mut done = 0;
    for repair in repairs {
        for sql in &repair.attempts {
            match ddl::in_transaction(&target, sql).await {
                Ok(()) => {
                    done += 1;
                    let text = format!("the source's schema changed, and the target follows: {}", sql.replace('\n', " "));
                    reporter.notice(Level::Info, text).await;
                    break;
                }
                Err(e) => tracing::warn!(object = %repair.object, sqlstate = e.sqlstate, "the target does not follow: {}", e.message),
            }
        }
    }
    done
}

/// The last objects are made from a fresh dump, sequences follow the source's at the cutover, and a subscription is made once.
fn is_compared(statement: &Statement) -> bool {
    statement.phase < Phase::Cutover && statement.phase != Phase::Subscription && statement.object.kind != ObjectKind::Sequence
}

/// A statement as it is compared. The lines of a table's columns may come in another order, because a column that was added is the last.
fn key(statement: &Statement) -> (ObjectRef, String) {
    let sql = statement.sql.trim().trim_end_matches(';');
    if statement.object.kind != ObjectKind::Table {
        return (statement.object.clone(), sql.to_owned());
    }
    let mut lines: Vec<&str> = sql.lines().map(|l| l.trim().trim_end_matches(',')).collect();
    lines.sort_unstable();
    (statement.object.clone(), lines.join("\n"))
}

fn commented(sql: &str) -> String {
    sql.lines().map(|l| format!("--   {l}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(object: &str, sql: &str) -> Statement {
        Statement {
            phase: Phase::PreData,
            object: ObjectRef::from(object),
            table: None,
            makes: None,
            sql: sql.into(),
            validate: None,
            roles: Vec::new(),
            member_of: Vec::new(),
            secret: false,
        }
    }

    #[test]
    fn what_the_target_says_already_is_no_difference() {
        let old = [
            statement("FUNCTION public.rate()", "CREATE FUNCTION public.rate() RETURNS integer LANGUAGE sql AS 'select 1'"),
            statement("VIEW public.v", "CREATE VIEW public.v AS SELECT 1"),
            statement("TABLE public.t", "CREATE TABLE public.t (\n    a integer,\n    b text\n)"),
        ];
        let new = [
            statement("FUNCTION public.rate()", "CREATE FUNCTION public.rate() RETURNS integer LANGUAGE sql AS 'select 2'"),
            statement("TABLE public.t", "CREATE TABLE public.t (\n    b text,\n    a integer\n)"),
            statement("INDEX public.i", "CREATE INDEX i ON public.t (a)"),
        ];
        let changes = SchemaChanges::between(&old, &new);
        let lines: Vec<_> = changes.lines().into_iter().map(|(object, how)| format!("{object} {how}")).collect();
        assert_eq!(lines, ["INDEX public.i is new", "FUNCTION public.rate() was altered", "VIEW public.v was dropped"]);
        let script = changes.script();
        for part in [
            "DROP VIEW \"public\".\"v\";",
            "CREATE OR REPLACE FUNCTION public.rate() RETURNS integer LANGUAGE sql AS 'select 2';",
            "CREATE INDEX i ON public.t (a);",
        ] {
            assert!(script.contains(part), "{script}");
        }
        assert!(changes.clone().unless_in(&new).is_empty());
        assert_eq!(changes.clone().unless_in(&old), changes);
    }
}
