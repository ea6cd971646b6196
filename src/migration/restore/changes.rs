//! What changed in the source's schema since the copy, statement by statement, and whether the target has the same change by now.

mod index;
mod renamed;

use std::collections::{BTreeMap, HashMap, HashSet};

use self::renamed::Renamed;
use super::{classified, print_target, statements};
use crate::{
    bus::Reporter,
    error::Result,
    event::{Level, SchemaDifference},
    migration::context::Sides,
    name::{TableName, literal},
    pg::{
        catalog,
        client::Client,
        dump::{
            self, Phase, Statement, digest,
            repair::{self, Repair},
        },
        ledger,
        object::{ObjectKind, ObjectRef},
        own,
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
    renamed: Renamed,
    /// Made on the target after the copy, because the source had them by then.
    followed: HashSet<ObjectRef>,
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
pub async fn find(sides: &Sides) -> Result<SchemaChanges> {
    let fresh = super::dump(sides).await?.statements;
    let new = new_tables(sides).await?;
    let mut before = statements::read(&sides.dir)?;
    // Another table had the name, and has another one now or is gone.
    before.retain(|s| match &s.table {
        _ if s.object.kind == ObjectKind::Table => !new.contains(&s.object.name),
        Some(table) => !new.contains(&table.to_string()),
        None => true,
    });
    let mut changes = SchemaChanges::between(&before, &fresh);
    changes.followed = ledger::followed(&sides.target().await?).await?.into_iter().map(ObjectRef::from).collect();
    if changes.is_empty() && changes.followed.is_empty() {
        return Ok(changes);
    }
    let changes = match print_target(sides).await {
        Ok(dump) => {
            let target = classified(sides, dump, &sides.plan).await?.statements;
            changes.unless_in(&target, &fresh).with_gone(&target, &fresh)
        }
        // No pg_dump of this machine can read the target.
        Err(e) => {
            tracing::info!("the target's schema is not dumped: {e}");
            changes
        }
    };
    let mut changes = changes.unless_equal(sides).await?;
    changes.renamed = Renamed::read(sides, &changes.missing, &changes.obsolete).await?;
    Ok(changes)
}

/// Tables of the source that are not part of the migration yet.
async fn new_tables(sides: &Sides) -> Result<HashSet<String>> {
    let known = ledger::relations(&sides.target().await?).await?;
    let now = catalog::shapes(&sides.source().await?, &sides.plan.scope).await?;
    let new = now.into_iter().filter(|(_, shape)| !known.contains_key(&shape.oid));
    Ok(new.filter_map(|(name, _)| TableName::parse(&name)).map(|table| table.to_string()).collect())
}

impl SchemaChanges {
    fn between(before: &[Statement], now: &[Statement]) -> Self {
        /// Those of the statements that the others do not have.
        fn only(these: &[Statement], others: &[Statement]) -> Vec<Statement> {
            let mut known: HashMap<(&ObjectRef, &str), usize> = HashMap::new();
            for statement in others.iter().filter(|s| is_compared(s)) {
                *known.entry((&statement.object, &statement.sql)).or_default() += 1;
            }
            let mut found = Vec::new();
            for statement in these.iter().filter(|s| is_compared(s)) {
                match known.get_mut(&(&statement.object, statement.sql.as_str())) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => found.push(statement.clone()),
                }
            }
            found
        }
        let (mut missing, mut obsolete): (Vec<Statement>, Vec<Statement>) = (only(now, before), only(before, now));
        // Printed in another way, they are the same.
        missing.retain(|s| {
            let sql = repair::normalized(&s.sql);
            let same = obsolete.iter().position(|o| o.object == s.object && repair::normalized(&o.sql) == sql);
            same.map(|at| obsolete.remove(at)).is_none()
        });
        Self { missing, obsolete, ..Self::default() }
    }

    /// Without what the target's schema says already. `fresh` is the source's schema.
    fn unless_in(mut self, target: &[Statement], fresh: &[Statement]) -> Self {
        let objects: HashSet<&ObjectRef> = self.missing.iter().chain(&self.obsolete).map(|s| &s.object).collect();
        let concerned = target.iter().filter(|s| objects.contains(&s.object));
        let there: HashSet<_> = concerned.map(|s| (s.object.clone(), repair::normalized(&s.sql))).collect();
        let is_there = |s: &Statement| there.contains(&(s.object.clone(), repair::normalized(&s.sql)));
        // What the source has dropped is different as long as the target has it, whatever it looks like there.
        let present: HashSet<&ObjectRef> = target.iter().map(|s| &s.object).collect();
        let still: HashSet<&ObjectRef> = fresh.iter().map(|s| &s.object).collect();
        self.missing.retain(|s| !is_there(s));
        self.obsolete.retain(|s| if still.contains(&s.object) { is_there(s) } else { present.contains(&s.object) });
        // A table may have been altered in part: then it is altered from there.
        let tables = self.missing.iter().filter(|s| s.object.kind == ObjectKind::Table && self.obsolete.iter().all(|o| o.object != s.object));
        let in_part: Vec<Statement> = tables.filter_map(|s| target.iter().find(|t| t.object == s.object)).cloned().collect();
        self.obsolete.extend(in_part);
        self
    }

    /// With what was made on the target after the copy and is gone from the source since; and with what had to make way for a table of the
    /// same name, and what belongs to it.
    fn with_gone(mut self, target: &[Statement], fresh: &[Statement]) -> Self {
        let known: HashSet<ObjectRef> = self.obsolete.iter().map(|s| s.object.clone()).collect();
        for there in target.iter().filter(|s| is_compared(s) && !known.contains(&s.object)) {
            let now = fresh.iter().find(|s| s.object == there.object);
            let aside = there.sql.contains(own::ASIDE);
            if !aside && (now.is_some() || !self.followed.contains(&there.object)) {
                continue;
            }
            self.obsolete.push(there.clone());
            if let Some(now) = now.filter(|now| !self.missing.contains(now)) {
                self.missing.push(now.clone());
            }
        }
        self
    }

    /// Without the statements for which both servers print the same definition. An object may have further statements.
    async fn unless_equal(mut self, sides: &Sides) -> Result<Self> {
        if self.is_empty() {
            return Ok(self);
        }
        let (source, target) = (sides.source().await?, sides.target().await?);
        let mut equal = HashSet::new();
        for statement in self.missing.iter().chain(&self.obsolete) {
            let query = match &statement.object.kind {
                ObjectKind::Table => columns_query(sides, statement),
                _ => dump::definition_query(&statement.object, &statement.sql),
            };
            let Some(query) = query else { continue };
            let here = catalog::value::<Option<String>>(&source, &query).await;
            let there = catalog::value::<Option<String>>(&target, &query).await;
            if let (Ok(here), Ok(there)) = (here, there)
                && here == there
            {
                equal.insert((statement.object.clone(), statement.sql.clone()));
            }
        }
        let differs = |s: &Statement| !equal.contains(&(s.object.clone(), s.sql.clone()));
        self.missing.retain(differs);
        self.obsolete.retain(differs);
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.obsolete.is_empty() && self.renamed.is_empty()
    }

    fn objects(&self) -> BTreeMap<&ObjectRef, Change> {
        let is_gone = |table: &TableName| {
            let table = ObjectRef::new(ObjectKind::Table, table.to_string());
            self.obsolete.iter().any(|s| s.object == table) && self.missing.iter().all(|s| s.object != table)
        };
        // What belongs to a table is dropped with it.
        let by_itself = self.obsolete.iter().filter(|s| s.object.kind == ObjectKind::TableAttach || !s.table.as_ref().is_some_and(is_gone));
        let mut objects: BTreeMap<_, _> = by_itself.map(|s| (&s.object, Change::Dropped)).collect();
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
    /// Tables that are new on the source are made only with `new_tables`.
    pub fn repairs(&self, new_tables: bool) -> Vec<Repair> {
        if !self.renamed.is_empty() {
            // The new name may be in a schema that is new, too.
            let made = self.missing.iter().map(repair::made).filter(|r| r.object.to_string().starts_with("SCHEMA "));
            return made.chain(self.renamed.repairs()).collect();
        }
        let objects = self.objects();
        let is_dropped = |table: &ObjectRef| objects.get(table) == Some(&Change::Dropped);
        let is_partition = |name: &str| self.obsolete.iter().any(|s| s.object.kind == ObjectKind::TableAttach && s.object.name == name);
        // What belongs to a table goes with it.
        let goes_with_table = |s: &Statement| match &s.table {
            Some(table) if s.object.kind != ObjectKind::TableAttach => is_dropped(&ObjectRef::new(ObjectKind::Table, table.to_string())),
            _ => s.object.kind == ObjectKind::TableAttach && is_dropped(&ObjectRef::new(ObjectKind::Table, s.object.name.clone())),
        };
        let gone = self.obsolete.iter().rev().filter(|s| objects.get(&s.object) == Some(&Change::Dropped));
        let gone = gone.filter(|s| s.object.kind == ObjectKind::Table || !goes_with_table(s));
        let mut repairs: Vec<Repair> = gone
            .filter_map(|s| {
                let repair = repair::dropped(s)?;
                // Dropping a partition is to its root what TRUNCATE is to a table, which is replayed, too. A table that came after the copy
                // has had no rows but the source's.
                let is_copy = self.followed.contains(&s.object)
                    || s.object.name.contains(own::ASIDE)
                    || (s.object.kind == ObjectKind::Table && is_partition(&s.object.name));
                let destroys = repair.destroys && !is_copy;
                Some(Repair { destroys, ..repair })
            })
            .collect();
        let mut before: HashMap<&ObjectRef, Vec<&Statement>> = HashMap::new();
        for statement in self.obsolete.iter().rev() {
            before.entry(&statement.object).or_default().push(statement);
        }
        for statement in self.missing.iter().filter(|s| new_tables || !self.is_of_new_table(s)) {
            match before.get_mut(&statement.object).and_then(Vec::pop) {
                Some(was) => repairs.extend(self.altered(was, statement)),
                None => repairs.push(repair::made(statement)),
            }
        }
        repairs
    }

    /// A column that was renamed looks like one that was dropped and another one that was added.
    fn altered(&self, was: &Statement, is: &Statement) -> Vec<Repair> {
        let repairs = repair::altered(was, is);
        let has = |words: &str| repairs.iter().any(|r| r.attempts.iter().any(|sql| sql.contains(words)));
        let unclear = is.object.kind == ObjectKind::Table && has(" ADD COLUMN ") && has(" DROP COLUMN ");
        if unclear && !self.renamed.knows_columns_of(&is.object.name) { Vec::new() } else { repairs }
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

    /// Each difference for the operator: first those with a statement, in the order in which the statements run.
    pub fn differences(&self, new_tables: bool) -> Vec<SchemaDifference> {
        let lines = self.lines();
        let how = |object: &ObjectRef| lines.iter().find(|(o, _)| *o == object).map_or("has another name", |(_, how)| how).to_owned();
        let repairs = self.repairs(new_tables);
        let others = lines.iter().filter(|(object, _)| repairs.iter().all(|r| r.object != **object));
        let others =
            others.map(|(object, how)| SchemaDifference { object: object.to_string(), how: (*how).to_owned(), ..SchemaDifference::default() });
        let listed = repairs.iter().map(|r| SchemaDifference {
            object: r.object.to_string(),
            how: how(&r.object),
            sql: r.attempts.first().cloned(),
            removes: r.destroys,
            error: None,
        });
        listed.chain(others).collect()
    }

    /// The statements that bring the target to the source's schema, where they can be known; the others are comments.
    pub fn script(&self) -> String {
        let mut lines = vec!["-- What changed in the source's schema since the copy. Read it, and run on the target what it needs.\n".to_owned()];
        let repairs = self.repairs(false);
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

/// What came of statements that were run on the target.
#[derive(Debug, Default)]
pub struct Ran {
    pub done: usize,
    /// The first attempt for an object, and why the last one failed. It may succeed after others have.
    pub failed: Vec<(String, String)>,
}

/// Runs repairs on the target, each attempt in a transaction.
pub async fn run_repairs(target: Client, repairs: Vec<Repair>, reporter: Reporter) -> Ran {
    let mut ran = Ran::default();
    for repair in repairs {
        let mut failure = None;
        for sql in &repair.attempts {
            let made = repair.makes.then(|| ledger::record_followed(&repair.object.to_string(), &digest(sql)));
            match index::run(&target, sql, made.as_deref()).await {
                Ok(sql) => {
                    ran.done += 1;
                    failure = None;
                    report_followed(&reporter, &sql).await;
                    break;
                }
                Err(e) => {
                    tracing::warn!(object = %repair.object, sqlstate = e.sqlstate, "the target does not follow: {}", e.message);
                    failure = Some(e.to_string());
                }
            }
        }
        ran.failed.extend(repair.attempts.into_iter().next().zip(failure));
    }
    ran
}

/// Says what was made on the target as on the source.
pub async fn report_followed(reporter: &Reporter, sql: &str) {
    reporter.notice(Level::Info, format!("the source's schema changed, and the target follows: {}", sql.replace('\n', " "))).await;
}

/// The last objects are made from a fresh dump, sequences follow the source's at the cutover, and a subscription is made once.
fn is_compared(statement: &Statement) -> bool {
    statement.phase < Phase::Cutover && statement.phase != Phase::Subscription && statement.object.kind != ObjectKind::Sequence
}

/// The query for the columns of a table and its checks. The time of a hypertable is NOT NULL, whatever it is on the source.
fn columns_query(sides: &Sides, statement: &Statement) -> Option<String> {
    let table = repair::table_of_statement(&statement.sql)?;
    let not_null = if sides.plan.hypertable(&table).is_some() { "''" } else { "a.attnotnull" };
    let oid = format!("to_regclass({})", literal(&table.sql()));
    Some(format!(
        "select (select string_agg(format('%s %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), {not_null}, a.attgenerated,
                            pg_get_expr(d.adbin, d.adrelid)), ',' order by a.attname)
                   from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                  where a.attrelid = {oid} and a.attnum > 0 and not a.attisdropped)
             || coalesce((select string_agg(conname || pg_get_constraintdef(oid), ',' order by conname)
                            from pg_constraint where conrelid = {oid} and contype = 'c'), '')
             || coalesce((select relpersistence::text || coalesce(reloptions::text, '') from pg_class where oid = {oid}), '')"
    ))
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
        assert!(changes.clone().unless_in(&new, &new).is_empty());
        assert_eq!(changes.clone().unless_in(&old, &new), changes);
    }
}
