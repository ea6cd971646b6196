//! What a newer server says of its objects and an older target does not know: said in its words, or left out and told.

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableStmt, AlterTableType, ConstrType, Constraint, CreateStmt},
};

use super::{
    Statement,
    understand::{deparse, table_of},
};
use crate::{
    error::Result,
    name::{TableName, ident},
    pg::catalog::versions,
};

/// What became of something, in words: the object and the reason.
pub type Note = (String, String);

/// Rewrites statements for a target of this major version. Returns what is otherwise there.
pub(super) fn adapt(statements: &mut Vec<Statement>, target: u32) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    if target >= versions::NOT_NULL_CONSTRAINTS {
        return Ok(notes);
    }
    let mut adapted = Vec::with_capacity(statements.len());
    for mut statement in std::mem::take(statements) {
        let mut more = None;
        // Only tables, and what is added to them, have anything of the kind.
        let concerned = ["CREATE TABLE", "CREATE UNLOGGED TABLE", "CREATE FOREIGN TABLE", "ALTER TABLE", "ALTER FOREIGN TABLE"];
        if concerned.iter().any(|c| statement.sql.get(..c.len()).is_some_and(|start| start.eq_ignore_ascii_case(c)))
            && let Some(node) = parse(&statement.sql)
        {
            match edit(node, &mut notes) {
                Edited::Same => {}
                Edited::Nothing => continue,
                Edited::Node(node, set_not_null) => {
                    statement.sql = deparse(&node)?;
                    more = set_not_null;
                }
            }
        }
        let extra = more.map(|sql| Statement { sql, table: None, makes: None, validate: None, ..statement.clone() });
        adapted.push(statement);
        adapted.extend(extra);
    }
    *statements = adapted;
    Ok(notes)
}

fn parse(sql: &str) -> Option<NodeEnum> {
    let parsed = pg_query::parse(sql, pg_query::ParserOptions::default()).ok()?;
    parsed.protobuf.stmts.into_iter().next()?.stmt?.node
}

const NOT_ENFORCED: &str = "left out: it is not enforced, and the target enforces every constraint";

enum Edited {
    Same,
    Nothing,
    /// Another statement, and one that has to follow it.
    Node(Box<NodeEnum>, Option<String>),
}

fn edit(node: NodeEnum, notes: &mut Vec<Note>) -> Edited {
    match node {
        NodeEnum::CreateStmt(mut s) => match create(&mut s, notes) {
            (false, _) => Edited::Same,
            (true, more) => Edited::Node(Box::new(NodeEnum::CreateStmt(s)), more),
        },
        NodeEnum::CreateForeignTableStmt(mut f) => match f.base_stmt.as_mut().map(|s| create(s, notes)) {
            Some((true, more)) => Edited::Node(Box::new(NodeEnum::CreateForeignTableStmt(f)), more),
            _ => Edited::Same,
        },
        NodeEnum::AlterTableStmt(s) => alter(s, notes),
        _ => Edited::Same,
    }
}

/// Columns and constraints of a table; whether anything was edited.
fn create(s: &mut CreateStmt, notes: &mut Vec<Note>) -> (bool, Option<String>) {
    let table = table_of(s.relation.as_ref()).unwrap_or_default();
    let mut edited = false;
    let mut not_null = Vec::new();
    s.table_elts.retain_mut(|element| match element.node.as_mut() {
        Some(NodeEnum::ColumnDef(column)) => {
            let name = column.colname.clone();
            for constraint in &mut column.constraints {
                let Some(NodeEnum::Constraint(c)) = constraint.node.as_mut() else { continue };
                if c.contype == ConstrType::ConstrGenerated as i32 && c.generated_kind == "v" {
                    c.generated_kind = "s".into();
                    notes.push((format!("COLUMN {table}.{name}"), "stored, not virtual: the target has no virtual columns".into()));
                    edited = true;
                }
                if c.contype == ConstrType::ConstrNotnull as i32 && c.is_no_inherit {
                    c.is_no_inherit = false;
                    notes.push((format!("COLUMN {table}.{name}"), "its NOT NULL is inherited on the target, which knows no NO INHERIT of it".into()));
                    edited = true;
                }
            }
            true
        }
        Some(NodeEnum::Constraint(c)) if c.contype == ConstrType::ConstrNotnull as i32 => {
            not_null.extend(keys(c).into_iter().map(|column| format!("alter column {} set not null", ident(&column))));
            edited = true;
            false
        }
        Some(NodeEnum::Constraint(c)) if is_not_enforced(c) => {
            notes.push((format!("CONSTRAINT {} of {table}", c.conname), NOT_ENFORCED.into()));
            edited = true;
            false
        }
        _ => true,
    });
    let more = (!not_null.is_empty()).then(|| format!("alter table only {} {}", table.sql(), not_null.join(", ")));
    (edited, more)
}

/// A constraint that is added: NOT NULL as a check of the same name, where it is not valid yet.
fn alter(mut s: AlterTableStmt, notes: &mut Vec<Note>) -> Edited {
    let table = table_of(s.relation.as_ref()).unwrap_or_default();
    let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first_mut().and_then(|c| c.node.as_mut()) else { return Edited::Same };
    if command.subtype != AlterTableType::AtAddConstraint as i32 {
        return Edited::Same;
    }
    let Some(NodeEnum::Constraint(c)) = command.def.as_mut().and_then(|d| d.node.as_mut()) else { return Edited::Same };
    if is_not_enforced(c) {
        notes.push((format!("CONSTRAINT {} of {table}", c.conname), NOT_ENFORCED.into()));
        return Edited::Nothing;
    }
    if c.contype != ConstrType::ConstrNotnull as i32 {
        return Edited::Same;
    }
    let Some(column) = keys(c).into_iter().next() else { return Edited::Same };
    let sql = not_null(&table, c, &column);
    if c.skip_validation {
        notes.push((format!("CONSTRAINT {} of {table}", c.conname), "a check constraint on the target: its NOT NULL is not valid yet".into()));
    }
    parse(&sql).map_or(Edited::Same, |node| Edited::Node(Box::new(node), None))
}

fn not_null(table: &TableName, c: &Constraint, column: &str) -> String {
    let column = ident(column);
    if !c.skip_validation {
        return format!("alter table only {} alter column {column} set not null", table.sql());
    }
    let inherit = if c.is_no_inherit { " no inherit" } else { "" };
    format!("alter table {} add constraint {} check ({column} is not null){inherit} not valid", table.sql(), ident(&c.conname))
}

fn is_not_enforced(c: &Constraint) -> bool {
    !c.is_enforced && (c.contype == ConstrType::ConstrCheck as i32 || c.contype == ConstrType::ConstrForeign as i32)
}

fn keys(c: &Constraint) -> Vec<String> {
    c.keys.iter().filter_map(|k| if let Some(NodeEnum::String(s)) = &k.node { Some(s.sval.clone()) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pg::dump::{Target, understand},
        plan::Plan,
    };

    fn adapted(sql: &str, target: u32) -> (Vec<String>, Vec<Note>) {
        let mut statements = understand(sql, &Plan::default(), Target { major: target, timescale: false }).unwrap().statements;
        let notes = adapt(&mut statements, target).unwrap();
        (statements.into_iter().map(|s| s.sql).collect(), notes)
    }

    #[test]
    fn an_older_target_gets_what_it_knows() {
        for (sql, before_18, notes) in [
            (
                "CREATE TABLE public.t (\n    a integer CONSTRAINT a_set NOT NULL,\n    b integer GENERATED ALWAYS AS ((a + 1))\n)",
                &["CREATE TABLE public.t (a int CONSTRAINT a_set NOT NULL, b int GENERATED ALWAYS AS (a + 1) STORED)"][..],
                1,
            ),
            ("CREATE TABLE public.t (a integer NOT NULL NO INHERIT)", &["CREATE TABLE public.t (a int NOT NULL)"], 1),
            (
                "CREATE TABLE public.c (CONSTRAINT c_not_null NOT NULL a) INHERITS (public.t)",
                &["CREATE TABLE public.c () INHERITS (public.t)", "alter table only \"public\".\"c\" alter column \"a\" set not null"],
                0,
            ),
            (
                "ALTER TABLE public.t ADD CONSTRAINT n NOT NULL a NOT VALID",
                &["ALTER TABLE public.t ADD CONSTRAINT n CHECK (a IS NOT NULL) NOT VALID"],
                1,
            ),
            (
                "CREATE TABLE public.t (a integer, CONSTRAINT k CHECK ((a > 0)) NOT ENFORCED, CONSTRAINT l CHECK ((a > 1)))",
                &["CREATE TABLE public.t (a int, CONSTRAINT l CHECK (a > 1))"],
                1,
            ),
            ("ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) NOT ENFORCED", &[], 1),
            (
                "CREATE TABLE public.t (a integer NOT NULL, b integer DEFAULT 1)",
                &["CREATE TABLE public.t (a integer NOT NULL, b integer DEFAULT 1)"],
                0,
            ),
        ] {
            let (found, told) = adapted(sql, 15);
            assert_eq!((found.iter().map(String::as_str).collect::<Vec<_>>(), told.len()), (before_18.to_vec(), notes), "{sql}: {told:?}");
            assert_eq!(adapted(sql, 18), (vec![sql.to_owned()], Vec::new()));
        }
    }
}
