//! Statements that bring an object of the target to what the source's schema says of it now, where they can be derived.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, ConstrType, Constraint, CreateDomainStmt, CreateEnumStmt, CreateStmt, DropBehavior,
        List, ObjectType, RangeVar,
    },
};
use std::collections::BTreeMap;

use super::{
    ast::{deparse, parse_one, table_of, text_of},
    statement::Statement,
};
use crate::{
    name::{TableName, ident, literal},
    pg::object::{ObjectKind, ObjectRef},
};

/// A way to repair one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub object: ObjectRef,
    /// To be tried one after the other, each in one transaction, until one succeeds.
    pub attempts: Vec<String>,
    /// It removes rows or values of the target, as the source has done.
    pub destroys: bool,
    /// It makes the object, which the target does not have.
    pub makes: bool,
}

impl Repair {
    pub fn new(object: &ObjectRef, attempts: impl IntoIterator<Item = String>) -> Self {
        Self {
            object: object.clone(),
            attempts: attempts.into_iter().map(|sql| sql.trim_end_matches(';').to_owned()).collect(),
            destroys: false,
            makes: false,
        }
    }

    /// Whether it only allows more than before: replay may need it before it has come to the place of the change.
    pub fn relaxes(&self) -> bool {
        const WORDS: [&str; 11] = [
            " rename to ", " set schema ", "DROP TABLE ", " DROP CONSTRAINT ", " DROP NOT NULL", " ADD VALUE ", "DROP INDEX ", " DROP EXPRESSION",
            " DROP IDENTITY", "CREATE TABLE ", " ATTACH PARTITION ",
        ];
        !self.destroys && self.attempts.iter().all(|sql| WORDS.iter().any(|words| sql.contains(words)) && !sql.contains(';'))
    }

    /// Whether it makes or extends what columns may need: a schema, an extension, a type, a function.
    pub fn needs_no_table(&self) -> bool {
        const WORDS: [&str; 10] = [
            "CREATE SCHEMA ", "CREATE EXTENSION ", "CREATE COLLATION ", "CREATE TYPE ", "CREATE DOMAIN ", "CREATE FUNCTION ",
            "CREATE OR REPLACE FUNCTION ", "CREATE AGGREGATE ", "CREATE OPERATOR ", "ALTER TYPE ",
        ];
        !self.destroys && self.attempts.first().is_some_and(|sql| WORDS.iter().any(|words| sql.starts_with(words)))
    }

    fn destroying(self) -> Self {
        Self { destroys: true, ..self }
    }
}

/// A statement in one form, however it was printed. The columns of a table may come in another order, because one that was added is the last.
pub fn normalized(sql: &str) -> String {
    let plain = || sql.trim().trim_end_matches(';').to_owned();
    let Some(mut node) = parse_one(sql) else { return plain() };
    if let NodeEnum::CreateStmt(s) = &mut node {
        s.table_elts.sort_by_key(|element| match &element.node {
            Some(NodeEnum::ColumnDef(c)) => c.colname.clone(),
            Some(NodeEnum::Constraint(c)) => c.conname.clone(),
            _ => String::new(),
        });
    }
    deparse(&node).unwrap_or_else(|_| plain())
}

/// The table that a statement creates.
pub fn table_of_statement(sql: &str) -> Option<TableName> {
    match parse_one(sql)? {
        NodeEnum::CreateStmt(s) => table_of(s.relation.as_ref()),
        _ => None,
    }
}

/// An index that can be built without a lock on its table that keeps others from writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrentIndex {
    pub table: TableName,
    pub index: TableName,
    /// Cannot run in a transaction.
    pub sql: String,
}

/// The concurrent form of a statement that creates one index and nothing else.
pub fn concurrent_index(sql: &str) -> Option<ConcurrentIndex> {
    if sql.trim_end().trim_end_matches(';').contains(";\n") {
        return None;
    }
    let NodeEnum::IndexStmt(mut s) = parse_one(sql)? else { return None };
    let table = table_of(s.relation.as_ref())?;
    let index = TableName::new(&table.schema, &s.idxname);
    s.concurrent = true;
    let only = s.relation.as_ref().is_some_and(|r| !r.inh);
    let sql = deparse(&NodeEnum::IndexStmt(s)).ok()?;
    (!index.name.is_empty() && !only).then_some(ConcurrentIndex { table, index, sql })
}

/// For an object that is new.
pub fn made(statement: &Statement) -> Repair {
    let alone = statement.sql.clone();
    // Sequences follow at the cutover, but one that belongs to a column is part of its table.
    let with_sequence = match parse_one(&alone) {
        Some(NodeEnum::AlterSeqStmt(s)) => table_of(s.sequence.as_ref()).map(|name| format!("CREATE SEQUENCE {};\n{alone}", name.sql())),
        _ => None,
    };
    Repair { makes: true, ..Repair::new(&statement.object, [Some(alone), with_sequence].into_iter().flatten()) }
}

/// For an object that was dropped; `None` where its name is not known for sure.
pub fn dropped(statement: &Statement) -> Option<Repair> {
    let object = &statement.object;
    let drop = Repair::new(object, [drop_statement(statement)?]);
    // A partition that is detached keeps its rows.
    let destroys = matches!(object.kind, ObjectKind::Table | ObjectKind::Column | ObjectKind::Extension) || object.to_string().starts_with("SCHEMA ");
    Some(if destroys { drop.destroying() } else { drop })
}

/// For an object that was altered: each part for itself. Empty where nothing can be derived.
pub fn altered(was: &Statement, is: &Statement) -> Vec<Repair> {
    let object = &is.object;
    match (parse_one(&was.sql), parse_one(&is.sql)) {
        (Some(NodeEnum::CreateStmt(was)), Some(NodeEnum::CreateStmt(is))) => table(object, &was, &is).unwrap_or_default(),
        (Some(NodeEnum::CreateEnumStmt(was)), Some(NodeEnum::CreateEnumStmt(is))) => enum_values(object, &was, &is),
        (Some(NodeEnum::CreateDomainStmt(was)), Some(NodeEnum::CreateDomainStmt(is))) => domain(object, &was, &is),
        (Some(NodeEnum::CreateFunctionStmt(_) | NodeEnum::ViewStmt(_)), Some(_)) => {
            let again = drop_statement(was).map(|drop| format!("{drop};\n{}", is.sql));
            vec![Repair::new(object, [Some(or_replace(&is.sql)), again].into_iter().flatten())]
        }
        _ => match drop_statement(was) {
            Some(drop) if object.kind != ObjectKind::Table => vec![Repair::new(object, [format!("{drop};\n{}", is.sql)])],
            // A default, a comment, a setting: the new statement takes the place of the old one.
            None => vec![Repair::new(object, [is.sql.clone()])],
            Some(_) => Vec::new(),
        },
    }
}

fn or_replace(sql: &str) -> String {
    for kind in ["FUNCTION", "PROCEDURE", "VIEW"] {
        if let Some(rest) = sql.strip_prefix(&format!("CREATE {kind} ")) {
            return format!("CREATE OR REPLACE {kind} {rest}");
        }
    }
    sql.to_owned()
}

/// What takes back a statement of the dump.
fn drop_statement(statement: &Statement) -> Option<String> {
    match parse_one(&statement.sql)? {
        NodeEnum::CreateStmt(s) => Some(format!("DROP TABLE {}", table_of(s.relation.as_ref())?.sql())),
        NodeEnum::ViewStmt(s) => Some(format!("DROP VIEW {}", table_of(s.view.as_ref())?.sql())),
        NodeEnum::CreateTableAsStmt(s) => Some(format!("DROP MATERIALIZED VIEW {}", table_of(s.into.as_ref()?.rel.as_ref())?.sql())),
        NodeEnum::IndexStmt(s) => Some(format!("DROP INDEX {}", TableName::new(&s.relation.as_ref()?.schemaname, &s.idxname).sql())),
        NodeEnum::CreateStatsStmt(s) => Some(format!("DROP STATISTICS {}", name(&s.defnames))),
        NodeEnum::CreateEnumStmt(s) => Some(format!("DROP TYPE {}", name(&s.type_name))),
        NodeEnum::CompositeTypeStmt(s) => Some(format!("DROP TYPE {}", table_of(s.typevar.as_ref())?.sql())),
        NodeEnum::CreateRangeStmt(s) => Some(format!("DROP TYPE {}", name(&s.type_name))),
        NodeEnum::CreateDomainStmt(s) => Some(format!("DROP DOMAIN {}", name(&s.domainname))),
        NodeEnum::CreateSchemaStmt(s) => Some(format!("DROP SCHEMA {}", ident(&s.schemaname))),
        NodeEnum::CreateExtensionStmt(s) => Some(format!("DROP EXTENSION {}", ident(&s.extname))),
        // pg_dump names a function with the types of its arguments.
        NodeEnum::CreateFunctionStmt(_) => {
            let text = statement.object.to_string();
            let (kind, name) = text.split_once(' ')?;
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.(), []\"".contains(c));
            (plain && matches!(kind, "FUNCTION" | "PROCEDURE")).then(|| format!("DROP {kind} {name}"))
        }
        NodeEnum::CommentStmt(mut s) => {
            s.comment.clear();
            deparse(&NodeEnum::CommentStmt(s)).ok()
        }
        NodeEnum::AlterTableStmt(s) => alter_table(&s),
        NodeEnum::AlterSeqStmt(s) => Some(format!("ALTER SEQUENCE {} OWNED BY NONE", table_of(s.sequence.as_ref())?.sql())),
        _ => None,
    }
}

/// What takes back an `ALTER TABLE` of the dump: a constraint, a default, an identity, a partition.
fn alter_table(s: &AlterTableStmt) -> Option<String> {
    let table = table_of(s.relation.as_ref())?.sql();
    let Some(NodeEnum::AlterTableCmd(command)) = &s.cmds.first()?.node else { return None };
    let def = command.def.as_ref().and_then(|d| d.node.as_ref());
    match (AlterTableType::try_from(command.subtype).ok()?, def) {
        (AlterTableType::AtAddConstraint, Some(NodeEnum::Constraint(c))) if !c.conname.is_empty() => {
            Some(format!("ALTER TABLE {table} DROP CONSTRAINT {}", ident(&c.conname)))
        }
        (AlterTableType::AtColumnDefault, Some(_)) => Some(format!("ALTER TABLE {table} ALTER COLUMN {} DROP DEFAULT", ident(&command.name))),
        (AlterTableType::AtAddIdentity, _) => Some(format!("ALTER TABLE {table} ALTER COLUMN {} DROP IDENTITY", ident(&command.name))),
        (AlterTableType::AtAttachPartition, Some(NodeEnum::PartitionCmd(p))) => {
            Some(format!("ALTER TABLE {table} DETACH PARTITION {}", table_of(p.name.as_ref())?.sql()))
        }
        (AlterTableType::AtReplicaIdentity, _) => Some(format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT")),
        (AlterTableType::AtClusterOn, _) => Some(format!("ALTER TABLE {table} SET WITHOUT CLUSTER")),
        (AlterTableType::AtSetStatistics, _) => Some(format!("ALTER TABLE {table} ALTER COLUMN {} SET STATISTICS -1", ident(&command.name))),
        (AlterTableType::AtSetOptions, Some(NodeEnum::List(l))) => {
            let names = l.items.iter().filter_map(|n| if let Some(NodeEnum::DefElem(e)) = &n.node { Some(ident(&e.defname)) } else { None });
            let names = names.collect::<Vec<_>>().join(", ");
            Some(format!("ALTER TABLE {table} ALTER COLUMN {} RESET ({names})", ident(&command.name)))
        }
        (AlterTableType::AtSetCompression, _) => Some(format!("ALTER TABLE {table} ALTER COLUMN {} SET COMPRESSION default", ident(&command.name))),
        (AlterTableType::AtEnableRowSecurity, _) => Some(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")),
        (AlterTableType::AtForceRowSecurity, _) => Some(format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")),
        _ => None,
    }
}

/// A name of several parts.
fn name(parts: &[Node]) -> String {
    parts.iter().filter_map(text_of).map(ident).collect::<Vec<_>>().join(".")
}

/// New values of an enum, each before the next one that is known. Values that were renamed or are gone cannot be repaired.
fn enum_values(object: &ObjectRef, was: &CreateEnumStmt, is: &CreateEnumStmt) -> Vec<Repair> {
    let values = |s: &CreateEnumStmt| s.vals.iter().filter_map(text_of).map(ToOwned::to_owned).collect::<Vec<_>>();
    let (mut known, wanted) = (values(was), values(is));
    if known.iter().any(|value| !wanted.contains(value)) {
        return Vec::new();
    }
    let mut repairs = Vec::new();
    for (at, value) in wanted.iter().enumerate().filter(|(_, value)| !values(was).contains(value)) {
        let next = wanted[at + 1..].iter().find(|next| known.contains(next));
        let place = next.map_or_else(String::new, |next| format!(" BEFORE {}", literal(next).trim_start()));
        repairs.push(Repair::new(
            object,
            [format!("ALTER TYPE {} ADD VALUE IF NOT EXISTS {}{place}", name(&is.type_name), literal(value).trim_start())],
        ));
        known.push(value.clone());
    }
    repairs
}

/// Constraints of a domain, its default, and NOT NULL.
fn domain(object: &ObjectRef, was: &CreateDomainStmt, is: &CreateDomainStmt) -> Vec<Repair> {
    let constraints = |s: &CreateDomainStmt| {
        let mut found = BTreeMap::new();
        for c in s.constraints.iter().filter_map(|n| if let Some(NodeEnum::Constraint(c)) = &n.node { Some(c) } else { None }) {
            if !c.conname.is_empty() {
                found.insert(c.conname.clone(), add_constraint(&TableName::new("", "x"), c).unwrap_or_default());
            }
        }
        found
    };
    let (before, now) = (constraints(was), constraints(is));
    let domain = name(&is.domainname);
    let mut repairs = Vec::new();
    for name in before.keys().filter(|name| now.get(*name) != before.get(*name)) {
        repairs.push(Repair::new(object, [format!("ALTER DOMAIN {domain} DROP CONSTRAINT {}", ident(name))]));
    }
    for (name, sql) in now.iter().filter(|(name, sql)| before.get(*name) != Some(sql)) {
        let Some((_, definition)) = sql.split_once(" ADD ") else { continue };
        repairs.push(Repair::new(object, [format!("ALTER DOMAIN {domain} ADD {definition}")]));
        let _ = name;
    }
    repairs
}

/// What can be said of a column apart from its name.
struct Column<'a> {
    definition: &'a ColumnDef,
    data_type: String,
    /// The statement that sets it.
    default: Option<String>,
    not_null: bool,
    /// The statement that adds the column, for a generated one.
    generated: Option<String>,
}

/// Columns, defaults, NOT NULL and constraints of a table. A column that was renamed counts as dropped and added.
fn table(object: &ObjectRef, was: &CreateStmt, is: &CreateStmt) -> Option<Vec<Repair>> {
    let table = table_of(is.relation.as_ref())?;
    let (before, now) = (columns(&table, was), columns(&table, is));
    let alter = |what: String| Repair::new(object, [format!("ALTER TABLE {} {what}", table.sql())]);
    let added: Vec<_> = now.iter().filter(|(name, _)| !before.contains_key(*name)).collect();
    let gone: Vec<_> = before.iter().filter(|(name, _)| !now.contains_key(*name)).collect();
    let mut repairs = Vec::new();
    let persistence = |s: &CreateStmt| s.relation.as_ref().map(|r| r.relpersistence.clone());
    if persistence(was) != persistence(is) {
        let logged = persistence(is).is_some_and(|p| p == "p");
        repairs.push(alter(if logged { "SET LOGGED" } else { "SET UNLOGGED" }.into()));
    }
    let (constraints_before, constraints_now) = (constraints(&table, was), constraints(&table, is));
    for name in constraints_before.keys().filter(|name| constraints_now.get(*name) != constraints_before.get(*name)) {
        repairs.push(alter(format!("DROP CONSTRAINT {}", ident(name))));
    }
    for (_, column) in added {
        repairs.push(Repair::new(object, [add_column(&table, column.definition)?]));
    }
    for (name, _) in gone {
        repairs.push(alter(format!("DROP COLUMN {}", ident(name))).destroying());
    }
    for (name, column) in &now {
        let Some(old) = before.get(name) else { continue };
        let quoted = ident(name);
        if old.data_type != column.data_type && column.generated.is_none() {
            let data_type = type_of(&table, column.definition)?;
            if old.default.is_some() {
                repairs.push(alter(format!("ALTER COLUMN {quoted} DROP DEFAULT")));
            }
            repairs.push(alter(format!("ALTER COLUMN {quoted} TYPE {data_type} USING {quoted}::{data_type}")));
            repairs.extend(column.default.iter().map(|sql| Repair::new(object, [sql.clone()])));
        } else if old.default != column.default {
            repairs.push(match &column.default {
                Some(sql) => Repair::new(object, [sql.clone()]),
                None => alter(format!("ALTER COLUMN {quoted} DROP DEFAULT")),
            });
        }
        match (&old.generated, &column.generated) {
            (Some(_), None) => repairs.push(alter(format!("ALTER COLUMN {quoted} DROP EXPRESSION"))),
            (before, Some(now)) if before.as_ref() != Some(now) || old.data_type != column.data_type => {
                let again = Repair::new(object, [format!("ALTER TABLE {} DROP COLUMN {quoted};\n{now}", table.sql())]);
                repairs.push(if before.is_some() { again } else { again.destroying() });
                continue;
            }
            _ => {}
        }
        if old.not_null != column.not_null {
            repairs.push(alter(format!("ALTER COLUMN {quoted} {} NOT NULL", if column.not_null { "SET" } else { "DROP" })));
        }
    }
    for (_, sql) in constraints_now.iter().filter(|(name, sql)| constraints_before.get(*name) != Some(sql)) {
        repairs.push(Repair::new(object, [sql.clone()]));
    }
    repairs.extend(options(&table, &was.options, &is.options).into_iter().map(|sql| Repair::new(object, [sql])));
    Some(repairs)
}

/// The statements that set and reset storage parameters.
fn options(table: &TableName, was: &[Node], is: &[Node]) -> Vec<String> {
    let name = |node: &Node| if let Some(NodeEnum::DefElem(e)) = &node.node { e.defname.clone() } else { String::new() };
    let list = |items: Vec<Node>| (!items.is_empty()).then_some(Node { node: Some(NodeEnum::List(List { items })) });
    let text = |node: &Node| alter_command(table, AlterTableType::AtSetRelOptions, "", list(vec![node.clone()]));
    let reset = was.iter().filter(|w| is.iter().all(|i| name(i) != name(w))).map(|w| ident(&name(w))).collect::<Vec<_>>();
    let set = is.iter().filter(|i| was.iter().all(|w| text(w) != text(i))).cloned().collect::<Vec<_>>();
    let reset = (!reset.is_empty()).then(|| format!("ALTER TABLE {} RESET ({})", table.sql(), reset.join(", ")));
    let set = list(set).and_then(|set| alter_command(table, AlterTableType::AtSetRelOptions, "", Some(set)));
    reset.into_iter().chain(set).collect()
}

fn columns<'a>(table: &TableName, s: &'a CreateStmt) -> BTreeMap<String, Column<'a>> {
    let mut found = BTreeMap::new();
    for element in &s.table_elts {
        let Some(NodeEnum::ColumnDef(definition)) = &element.node else { continue };
        let mut bare = (**definition).clone();
        bare.constraints.clear();
        let constraint = |kind: ConstrType| {
            definition.constraints.iter().find_map(|n| match &n.node {
                Some(NodeEnum::Constraint(c)) if c.contype == kind as i32 => Some(c),
                _ => None,
            })
        };
        let set_default = |c: &Constraint| alter_command(table, AlterTableType::AtColumnDefault, &definition.colname, c.raw_expr.as_deref().cloned());
        found.insert(
            definition.colname.clone(),
            Column {
                definition,
                data_type: add_column(table, &bare).unwrap_or_default(),
                default: constraint(ConstrType::ConstrDefault).and_then(|c| set_default(c)),
                not_null: constraint(ConstrType::ConstrNotnull).is_some(),
                generated: constraint(ConstrType::ConstrGenerated).and_then(|_| add_column(table, definition)),
            },
        );
    }
    found
}

/// Named constraints of a table, each with the statement that adds it.
fn constraints(table: &TableName, s: &CreateStmt) -> BTreeMap<String, String> {
    let of_table = s.table_elts.iter().chain(&s.constraints);
    let named = of_table.filter_map(|n| if let Some(NodeEnum::Constraint(c)) = &n.node { Some(c) } else { None });
    named.filter(|c| !c.conname.is_empty()).filter_map(|c| Some((c.conname.clone(), add_constraint(table, c)?))).collect()
}

fn add_constraint(table: &TableName, c: &Constraint) -> Option<String> {
    alter_command(table, AlterTableType::AtAddConstraint, "", Some(Node { node: Some(NodeEnum::Constraint(Box::new(c.clone()))) }))
}

fn add_column(table: &TableName, definition: &ColumnDef) -> Option<String> {
    alter_command(table, AlterTableType::AtAddColumn, "", Some(Node { node: Some(NodeEnum::ColumnDef(Box::new(definition.clone()))) }))
}

/// The type of a column, with its modifier, and without its collation.
fn type_of(table: &TableName, definition: &ColumnDef) -> Option<String> {
    let bare = ColumnDef { constraints: Vec::new(), coll_clause: None, ..definition.clone() };
    let added = add_column(table, &bare)?;
    let (_, column) = added.split_once(" ADD COLUMN ")?;
    // The name may have spaces, and is printed as it is elsewhere.
    let named = add_column(table, &ColumnDef { colname: "x".into(), ..bare })?;
    let (_, of_x) = named.split_once(" ADD COLUMN x ")?;
    column.ends_with(of_x).then(|| of_x.to_owned())
}

/// `ALTER TABLE … command`, printed.
fn alter_command(table: &TableName, kind: AlterTableType, column: &str, def: Option<Node>) -> Option<String> {
    let command = AlterTableCmd {
        subtype: kind as i32,
        name: column.to_owned(),
        def: def.map(Box::new),
        behavior: DropBehavior::DropRestrict as i32,
        ..AlterTableCmd::default()
    };
    let relation =
        RangeVar { schemaname: table.schema.clone(), relname: table.name.clone(), inh: true, relpersistence: "p".into(), ..RangeVar::default() };
    let statement = AlterTableStmt {
        relation: Some(relation),
        cmds: vec![Node { node: Some(NodeEnum::AlterTableCmd(Box::new(command))) }],
        objtype: ObjectType::ObjectTable as i32,
        missing_ok: false,
    };
    deparse(&NodeEnum::AlterTableStmt(statement)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::dump::Phase;

    fn statement(object: &str, sql: &str) -> Statement {
        Statement::new(Phase::PreData, ObjectRef::from(object), sql)
    }

    fn repaired(object: &str, was: &str, is: &str) -> Vec<String> {
        altered(&statement(object, was), &statement(object, is)).into_iter().flat_map(|r| r.attempts).collect()
    }

    #[test]
    fn a_table_is_altered_part_by_part() {
        let was =
            "CREATE TABLE public.item (\n    id integer NOT NULL,\n    code text,\n    n integer DEFAULT 1,\n    CONSTRAINT old CHECK ((n < 9))\n)";
        let is = "CREATE TABLE public.item (\n    id integer NOT NULL,\n    code text NOT NULL,\n    n integer DEFAULT 7,\n    total integer GENERATED ALWAYS AS ((n * 10)) STORED,\n    CONSTRAINT item_n CHECK ((n >= 0))\n)";
        let sql = repaired("TABLE public.item", was, is);
        for part in ["DROP CONSTRAINT", "ADD COLUMN total int GENERATED ALWAYS AS", "SET NOT NULL", "SET DEFAULT 7", "ADD CONSTRAINT item_n CHECK"] {
            assert_eq!(sql.iter().filter(|s| s.contains(part)).count(), 1, "{part}: {sql:#?}");
        }
        assert_eq!(sql.len(), 5, "{sql:#?}");
        let retyped = repaired("TABLE public.item", is, &is.replace("n integer DEFAULT 7", "n numeric(10,2) DEFAULT 7"));
        let wanted = [r#"ALTER COLUMN "n" DROP DEFAULT"#, r#"ALTER COLUMN "n" TYPE numeric(10, 2) USING "n"::numeric(10, 2)"#, "SET DEFAULT 7"];
        assert!(retyped.iter().zip(wanted).all(|(sql, part)| sql.contains(part)) && retyped.len() == 3, "{retyped:#?}");
    }

    #[test]
    fn printing_and_order_of_columns_make_no_difference() {
        let printed = "CREATE TABLE public.t (\n    a integer NOT NULL,\n    b text DEFAULT 'x'::text,\n    CONSTRAINT c CHECK ((a > 0))\n);";
        let deparsed = "CREATE TABLE public.t (b text DEFAULT 'x'::text, a int NOT NULL, CONSTRAINT c CHECK (a > 0))";
        assert_eq!(normalized(printed), normalized(deparsed));
        assert_ne!(normalized(printed), normalized(&deparsed.replace("text DEFAULT", "varchar DEFAULT")));
        assert_eq!(normalized("no sql;"), "no sql");
    }

    #[test]
    fn an_index_alone_has_a_concurrent_form() {
        let found = concurrent_index("CREATE UNIQUE INDEX i ON public.t USING btree (a);").unwrap();
        assert_eq!((found.table, found.index), (TableName::new("public", "t"), TableName::new("public", "i")));
        assert!(found.sql.starts_with("CREATE UNIQUE INDEX CONCURRENTLY i ON public.t"), "{}", found.sql);
        for other in
            ["CREATE INDEX i ON ONLY public.t USING btree (a)", "DROP INDEX i;\nCREATE INDEX i ON public.t (a)", "CREATE TABLE public.t (a int)"]
        {
            assert_eq!(concurrent_index(other), None, "{other}");
        }
    }

    #[test]
    fn what_destroys_values_says_so() {
        let (wide, narrow) = ("CREATE TABLE public.t (\n    a integer,\n    b text\n)", "CREATE TABLE public.t (\n    a integer\n)");
        let repairs = altered(&statement("TABLE public.t", wide), &statement("TABLE public.t", narrow));
        assert!(matches!(&repairs[..], [one] if one.destroys && one.attempts[0].contains("DROP COLUMN")), "{repairs:?}");
        assert!(dropped(&statement("TABLE public.t", wide)).unwrap().destroys);
        assert!(!dropped(&statement("INDEX public.i", "CREATE INDEX i ON public.t USING btree (a)")).unwrap().destroys);
    }

    #[test]
    fn objects_are_made_again_replaced_or_extended() {
        let index = repaired("INDEX public.i", "CREATE INDEX i ON public.t USING btree (a)", "CREATE INDEX i ON public.t USING btree (b)");
        assert_eq!(index, ["DROP INDEX \"public\".\"i\";\nCREATE INDEX i ON public.t USING btree (b)"]);
        let view = repaired("VIEW public.v", "CREATE VIEW public.v AS SELECT 1", "CREATE VIEW public.v AS SELECT 2");
        assert_eq!(view, ["CREATE OR REPLACE VIEW public.v AS SELECT 2", "DROP VIEW \"public\".\"v\";\nCREATE VIEW public.v AS SELECT 2"]);
        let values = repaired("TYPE public.e", "CREATE TYPE public.e AS ENUM ('a', 'c')", "CREATE TYPE public.e AS ENUM ('a', 'b', 'c', 'd')");
        assert_eq!(
            values,
            ["ALTER TYPE \"public\".\"e\" ADD VALUE IF NOT EXISTS 'b' BEFORE 'c'", "ALTER TYPE \"public\".\"e\" ADD VALUE IF NOT EXISTS 'd'"]
        );
        let domain = repaired(
            "DOMAIN public.d",
            "CREATE DOMAIN public.d AS text CONSTRAINT short CHECK ((length(VALUE) < 5))",
            "CREATE DOMAIN public.d AS text CONSTRAINT long CHECK ((length(VALUE) < 50))",
        );
        assert!(domain[0].ends_with("DROP CONSTRAINT \"short\"") && domain[1].contains("ADD CONSTRAINT long CHECK"), "{domain:?}");
        let comment = dropped(&statement("COMMENT TABLE t", "COMMENT ON TABLE public.t IS 'x'")).unwrap();
        assert_eq!(comment.attempts, ["COMMENT ON TABLE public.t IS NULL"]);
    }
}
