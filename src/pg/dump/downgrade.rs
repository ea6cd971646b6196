//! Statements of a newer server that an older target does not know: put in a form that it knows, or left out with a note.

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableCmd, AlterTableStmt, AlterTableType, CommentStmt, ConstrType, Constraint, CreateStmt, GrantStmt, ObjectType, TypeName},
};
use std::collections::{HashMap, HashSet};

use super::{
    ast::{deparse, parse_one, qualified_name, table_of, texts_of},
    statement::{Note, Phase},
};
use crate::{
    error::Result,
    name::{TableName, ident, idents, literal},
    pg::{
        catalog::versions,
        object::{ObjectKind, ObjectRef},
    },
};

/// A statement in a form that the target knows.
pub(super) struct Adapted {
    pub node: NodeEnum,
    pub sql: String,
    /// Where it differs from the usual phase of such a statement.
    pub phase: Option<Phase>,
}

impl Adapted {
    fn parsed(sql: String, phase: Option<Phase>) -> Option<Self> {
        Some(Self { node: parse_one(&sql)?, sql, phase })
    }
}

/// What has been read of a dump, for a target of this major version.
pub(super) struct Downgrade {
    target: u32,
    /// Partitioned tables, with the types of their columns.
    partitioned: HashMap<TableName, HashMap<String, TypeName>>,
    /// All constraints that are created, by table and name.
    constraints: HashSet<(TableName, String)>,
    /// Indexes of partitioned tables that are not created. Those of their partitions exist alone.
    rootless: HashSet<TableName>,
}

const NOT_ENFORCED: &str = "left out: it is not enforced, and the target enforces every constraint";

impl Downgrade {
    pub fn new(target: u32) -> Self {
        Self { target, partitioned: HashMap::new(), constraints: HashSet::new(), rootless: HashSet::new() }
    }

    /// The statements that the target gets for one of the dump; none for what it cannot have.
    pub fn adapt(&mut self, node: NodeEnum, sql: &str, object: &ObjectRef, notes: &mut Vec<Note>) -> Result<Vec<Adapted>> {
        let same = |node: NodeEnum| Ok(vec![Adapted { node, sql: sql.to_owned(), phase: None }]);
        let other = |node: NodeEnum| Ok(vec![Adapted { sql: deparse(&node)?, node, phase: None }]);
        if self.target >= versions::NOT_NULL_CONSTRAINTS {
            return same(node);
        }
        match node {
            NodeEnum::CreateStmt(mut s) => {
                let (edited, more) = self.create(&mut s, notes);
                let node = NodeEnum::CreateStmt(s);
                let mut made = if edited { other(node) } else { same(node) }?;
                made.extend(more);
                Ok(made)
            }
            NodeEnum::CreateForeignTableStmt(mut f) => {
                let (edited, more) = f.base_stmt.as_mut().map_or((false, None), |s| self.create(s, notes));
                let node = NodeEnum::CreateForeignTableStmt(f);
                let mut made = if edited { other(node) } else { same(node) }?;
                made.extend(more);
                Ok(made)
            }
            NodeEnum::AlterTableStmt(s) => {
                let forms = self.alter(&s, notes);
                forms.map_or_else(|| same(NodeEnum::AlterTableStmt(s)), Ok)
            }
            NodeEnum::CommentStmt(s) if self.is_left_out(&s) => {
                notes.push(Note::new(object.clone(), "left out: the target has no constraint of that name"));
                Ok(Vec::new())
            }
            NodeEnum::GrantStmt(mut s) => match self.privileges(&mut s, object, notes) {
                Privileges::All => same(NodeEnum::GrantStmt(s)),
                Privileges::Some => other(NodeEnum::GrantStmt(s)),
                Privileges::None => Ok(Vec::new()),
            },
            NodeEnum::AlterDefaultPrivilegesStmt(mut s) => match s.action.as_mut().map(|action| self.privileges(action, object, notes)) {
                None | Some(Privileges::All) => same(NodeEnum::AlterDefaultPrivilegesStmt(s)),
                Some(Privileges::Some) => other(NodeEnum::AlterDefaultPrivilegesStmt(s)),
                Some(Privileges::None) => Ok(Vec::new()),
            },
            node => same(node),
        }
    }

    /// Columns and constraints of a table; whether anything was edited, and what has to follow.
    fn create(&mut self, s: &mut CreateStmt, notes: &mut Vec<Note>) -> (bool, Option<Adapted>) {
        let table = table_of(s.relation.as_ref()).unwrap_or_default();
        let mut edited = false;
        let mut not_null = Vec::new();
        let mut types = HashMap::new();
        s.table_elts.retain_mut(|element| match element.node.as_mut() {
            Some(NodeEnum::ColumnDef(column)) => {
                let name = column.colname.clone();
                types.extend(column.type_name.clone().map(|data_type| (name.clone(), data_type)));
                for constraint in &mut column.constraints {
                    let Some(NodeEnum::Constraint(c)) = constraint.node.as_mut() else { continue };
                    if c.contype == ConstrType::ConstrGenerated as i32 && c.generated_kind == "v" {
                        c.generated_kind = "s".into();
                        notes.push(column_note(&table, &name, "stored, not virtual: the target has no virtual columns"));
                        edited = true;
                    }
                    if c.contype == ConstrType::ConstrNotnull as i32 && c.is_no_inherit {
                        c.is_no_inherit = false;
                        notes.push(column_note(&table, &name, "its NOT NULL is inherited on the target, which knows no NO INHERIT of it"));
                        edited = true;
                    }
                }
                true
            }
            Some(NodeEnum::Constraint(c)) if c.contype == ConstrType::ConstrNotnull as i32 => {
                not_null.extend(texts_of(&c.keys).into_iter().map(|column| format!("alter column {} set not null", ident(column))));
                edited = true;
                false
            }
            Some(NodeEnum::Constraint(c)) if is_not_enforced(c) => {
                notes.push(constraint_note(&table, &c.conname, NOT_ENFORCED));
                edited = true;
                false
            }
            Some(NodeEnum::Constraint(c)) => {
                self.constraints.insert((table.clone(), c.conname.clone()));
                true
            }
            _ => true,
        });
        if s.partspec.is_some() {
            self.partitioned.insert(table.clone(), types);
        }
        let more = (!not_null.is_empty()).then(|| format!("alter table only {} {}", table.sql(), not_null.join(", ")));
        (edited, more.and_then(|sql| Adapted::parsed(sql, None)))
    }

    /// What becomes of an `ALTER TABLE`; `None` if it stays as it is.
    fn alter(&mut self, s: &AlterTableStmt, notes: &mut Vec<Note>) -> Option<Vec<Adapted>> {
        let table = table_of(s.relation.as_ref()).unwrap_or_default();
        let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first().and_then(|c| c.node.as_ref()) else { return None };
        let definition = command.def.as_ref().and_then(|d| d.node.as_ref());
        match (AlterTableType::try_from(command.subtype).unwrap_or(AlterTableType::Undefined), definition) {
            (AlterTableType::AtAddConstraint, Some(NodeEnum::Constraint(c))) => {
                let forms = self.add_constraint(&table, c, notes);
                if forms.as_ref().is_none_or(|forms| !forms.is_empty()) {
                    self.constraints.insert((table.clone(), c.conname.clone()));
                }
                forms
            }
            (AlterTableType::AtAddIdentity, Some(NodeEnum::Constraint(c))) if self.target < versions::PARTITIONED_IDENTITY => {
                let data_type = self.partitioned.get(&table)?.get(&command.name);
                let forms = sequence_of(&table, command, c, data_type)?;
                let reason = "a default of its sequence, not an identity: the target knows none of partitioned tables";
                notes.push(column_note(&table, &command.name, reason));
                Some(forms)
            }
            // The table is the index of the root here.
            (AlterTableType::AtAttachPartition, _) if self.rootless.contains(&table) => Some(Vec::new()),
            _ => None,
        }
    }

    fn add_constraint(&mut self, table: &TableName, c: &Constraint, notes: &mut Vec<Note>) -> Option<Vec<Adapted>> {
        let mut note = |reason: &str| notes.push(constraint_note(table, &c.conname, reason));
        let kind = ConstrType::try_from(c.contype).unwrap_or(ConstrType::Undefined);
        if is_not_enforced(c) {
            note(NOT_ENFORCED);
            return Some(Vec::new());
        }
        if c.fk_with_period {
            note("left out: the target knows no PERIOD of foreign keys");
            return Some(Vec::new());
        }
        let partitioned = self.partitioned.contains_key(table);
        if kind == ConstrType::ConstrForeign && c.skip_validation && partitioned {
            note("left out: it is NOT VALID, which the target does not know of partitioned tables; add it there once all rows satisfy it");
            return Some(Vec::new());
        }
        // 17 knows them, but attaches none of the partitions' to them.
        if partitioned && (c.without_overlaps || kind == ConstrType::ConstrExclusion) {
            self.rootless.insert(TableName::new(&table.schema, &c.conname));
            note("of its partitions only: before PostgreSQL 18 none can be put together from theirs, and new partitions get none by themselves");
            return Some(Vec::new());
        }
        let sql = match kind {
            ConstrType::ConstrPrimary | ConstrType::ConstrUnique if c.without_overlaps => {
                note("an exclusion constraint on the target, which knows no WITHOUT OVERLAPS: it does not refuse empty ranges");
                without_overlaps(table, c)
            }
            ConstrType::ConstrNotnull => {
                if c.skip_validation {
                    note("a check constraint on the target: its NOT NULL is not valid yet");
                }
                not_null(table, c, texts_of(&c.keys).into_iter().next()?)
            }
            _ => return None,
        };
        Adapted::parsed(sql, None).map(|form| vec![form])
    }

    /// A comment on a constraint that is not made, or has no name of its own on the target.
    fn is_left_out(&self, s: &CommentStmt) -> bool {
        s.objtype == ObjectType::ObjectTabconstraint as i32
            && match qualified_name(s.object.as_deref())[..] {
                [schema, table, name] => !self.constraints.contains(&(TableName::new(schema, table), name.to_owned())),
                _ => false,
            }
    }

    fn privileges(&self, s: &mut GrantStmt, object: &ObjectRef, notes: &mut Vec<Note>) -> Privileges {
        let all = s.privileges.len();
        if self.target < versions::MAINTAIN {
            s.privileges.retain(|p| !matches!(&p.node, Some(NodeEnum::AccessPriv(p)) if p.priv_name == "maintain"));
        }
        if s.privileges.len() == all {
            return Privileges::All;
        }
        notes.push(Note::new(object.clone(), "without MAINTAIN, which the target does not know"));
        if s.privileges.is_empty() { Privileges::None } else { Privileges::Some }
    }
}

enum Privileges {
    All,
    Some,
    None,
}

/// A key whose last column is a range that must not overlap: what PostgreSQL 18 makes of it, an exclusion constraint.
fn without_overlaps(table: &TableName, c: &Constraint) -> String {
    let mut columns: Vec<String> = texts_of(&c.keys).into_iter().map(|column| format!("{} with =", ident(column))).collect();
    if let Some(range) = columns.last_mut() {
        *range = range.replace(" with =", " with &&");
    }
    let including = texts_of(&c.including);
    let including = if including.is_empty() { String::new() } else { format!(" include ({})", idents(including)) };
    let deferrable = if c.deferrable { " deferrable" } else { "" };
    let deferred = if c.initdeferred { " initially deferred" } else { "" };
    let (name, columns) = (ident(&c.conname), columns.join(", "));
    format!("alter table only {} add constraint {name} exclude using gist ({columns}){including}{deferrable}{deferred}", table.sql())
}

/// The sequence of an identity by itself, and as the column's default once the partitions are attached.
fn sequence_of(table: &TableName, command: &AlterTableCmd, c: &Constraint, data_type: Option<&TypeName>) -> Option<Vec<Adapted>> {
    let mut options = c.options.clone();
    let named = options.iter().position(|o| matches!(&o.node, Some(NodeEnum::DefElem(e)) if e.defname == "sequence_name"))?;
    let Some(NodeEnum::DefElem(named)) = options.remove(named).node else { return None };
    let [schema, name] = qualified_name(named.arg.as_deref())[..] else { return None };
    let sequence = TableName::new(schema, name);
    let relation = pg_query::protobuf::RangeVar {
        schemaname: sequence.schema.clone(),
        relname: sequence.name.clone(),
        inh: true,
        relpersistence: "p".into(),
        ..pg_query::protobuf::RangeVar::default()
    };
    let node = NodeEnum::CreateSeqStmt(pg_query::protobuf::CreateSeqStmt { sequence: Some(relation), options, ..Default::default() });
    let of_type = data_type.and_then(|t| texts_of(&t.names).pop()).map_or_else(String::new, |t| format!(" as {}", ident(t)));
    let create = deparse(&node).ok()? + &of_type;
    let column = format!("{}.{}", table.sql(), ident(&command.name));
    let default =
        format!("alter table {} alter column {} set default nextval({}::regclass)", table.sql(), ident(&command.name), literal(&sequence.sql()));
    [
        Adapted::parsed(create, None),
        Adapted::parsed(format!("alter sequence {} owned by {column}", sequence.sql()), None),
        Adapted::parsed(default, Some(Phase::PostIndex)),
    ]
    .into_iter()
    .collect()
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

fn column_note(table: &TableName, column: &str, reason: &str) -> Note {
    Note::new(ObjectRef::new(ObjectKind::Column, format!("{table}.{column}")), reason)
}

fn constraint_note(table: &TableName, constraint: &str, reason: &str) -> Note {
    Note::new(ObjectRef::new(ObjectKind::Constraint, format!("{constraint} of {table}")), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pg::dump::{classify::classify, statement::Target},
        plan::Plan,
    };

    fn adapted(sql: &str, target: u32) -> (Vec<(Phase, String)>, Vec<Note>) {
        let schema = classify(&sql.into(), &Plan::default(), Target { major: target, timescale: false }).unwrap();
        (schema.statements.into_iter().map(|s| (s.phase, s.sql)).collect(), schema.notes)
    }

    /// A dump, what a target of this version gets, and how many notes there are.
    fn check(target: u32, sql: &str, expected: &[&str], noted: usize) {
        let (found, notes) = adapted(sql, target);
        assert_eq!((found.iter().map(|(_, sql)| sql.as_str()).collect::<Vec<_>>(), notes.len()), (expected.to_vec(), noted), "{sql}: {notes:?}");
        let (newest, none) = adapted(sql, 18);
        let statements: Vec<String> = newest.into_iter().map(|(_, sql)| sql).filter(|sql| !sql.ends_with("set generated always")).collect();
        assert!(statements.len() == sql.matches(';').count().max(1) && none.is_empty(), "18 knows it all: {statements:?}");
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
                &["alter table \"public\".\"t\" add constraint \"n\" check (\"a\" is not null) not valid"],
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
            (
                "ALTER TABLE ONLY public.t ADD CONSTRAINT k PRIMARY KEY (id, \"V\" WITHOUT OVERLAPS)",
                &["alter table only \"public\".\"t\" add constraint \"k\" exclude using gist (\"id\" with =, \"V\" with &&)"],
                1,
            ),
            ("ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a, PERIOD v) REFERENCES public.u(id, PERIOD v)", &[], 1),
        ] {
            check(15, sql, before_18, notes);
            assert!(adapted(sql, 18).0[0].1.starts_with(sql));
        }
        assert_eq!(adapted("ALTER TABLE public.t ADD CONSTRAINT n NOT NULL a NOT VALID", 15).0[0].0, Phase::Cutover);
    }

    #[test]
    fn comments_go_with_the_constraints_that_an_older_target_lacks() {
        let dump = "CREATE TABLE public.t (a integer CONSTRAINT a_set NOT NULL, CONSTRAINT l CHECK ((a > 1)));
COMMENT ON CONSTRAINT a_set ON public.t IS 'no constraint there'; COMMENT ON CONSTRAINT l ON public.t IS 'there';
ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) NOT ENFORCED; COMMENT ON CONSTRAINT f ON public.t IS 'left out';";
        let (found, _) = adapted(dump, 17);
        let comments: Vec<&str> = found.iter().map(|(_, sql)| sql.as_str()).filter(|sql| sql.starts_with("COMMENT")).collect();
        assert_eq!(comments, ["COMMENT ON CONSTRAINT l ON public.t IS 'there'"]);
    }

    #[test]
    fn an_identity_of_a_partitioned_table_is_a_default_before_17() {
        let table = "CREATE TABLE public.p (id bigint NOT NULL, k smallint) PARTITION BY HASH (id)";
        let identity = "ALTER TABLE public.p ALTER COLUMN k ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.\"P k\" START WITH 5 INCREMENT BY 10 NO MINVALUE MAXVALUE 1000 CACHE 1 CYCLE)";
        let expected = [
            table,
            "CREATE SEQUENCE public.\"P k\" START 5 INCREMENT 10 NO MINVALUE MAXVALUE 1000 CACHE 1 CYCLE as \"int2\"",
            "alter sequence \"public\".\"P k\" owned by \"public\".\"p\".\"k\"",
            "alter table \"public\".\"p\" alter column \"k\" set default nextval('\"public\".\"P k\"'::regclass)",
        ];
        let dump = format!("{table};\n{identity};");
        check(16, &dump, &expected, 1);
        assert_eq!(adapted(&dump, 16).0[3].0, Phase::PostIndex);
        let (found, notes) = adapted(&dump, 17);
        assert!(found.len() == 3 && notes.is_empty(), "{found:?}");
    }

    #[test]
    fn partitions_keep_their_exclusion_constraints_where_their_root_can_have_none() {
        let dump = "CREATE TABLE public.p (id integer, r int4range) PARTITION BY LIST (id);
ALTER TABLE ONLY public.p ADD CONSTRAINT x EXCLUDE USING gist (id WITH =, r WITH &&);
ALTER TABLE ONLY public.p_1 ADD CONSTRAINT x_1 EXCLUDE USING gist (id WITH =, r WITH &&);
ALTER INDEX public.x ATTACH PARTITION public.x_1;
ALTER TABLE public.p ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES public.t(id) NOT VALID;";
        let lines: Vec<&str> = dump.lines().map(|line| line.trim_end_matches(';')).collect();
        check(16, dump, &[lines[0], lines[2]], 2);
    }

    #[test]
    fn maintain_is_taken_off_before_17() {
        check(16, "GRANT SELECT,MAINTAIN ON TABLE public.t TO r;", &["GRANT select ON public.t TO r"], 1);
        check(16, "GRANT MAINTAIN ON TABLE public.t TO r;", &[], 1);
        check(17, "GRANT MAINTAIN ON TABLE public.t TO r;", &["GRANT MAINTAIN ON TABLE public.t TO r"], 0);
        let default = "ALTER DEFAULT PRIVILEGES FOR ROLE o IN SCHEMA public GRANT SELECT,MAINTAIN ON TABLES TO r;";
        let (found, _) = adapted(default, 15);
        assert!(found[0].1.contains("select ON TABLES") && !found[0].1.to_lowercase().contains("maintain"), "{found:?}");
    }
}
