//! `ALTER TABLE` of a dump: the forms that a hypertable accepts, and what has to wait for the cutover.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterTableCmd, AlterTableStmt, AlterTableType, ConstrType, Constraint, CreateStmt, DropBehavior, IndexStmt, ObjectType, RangeVar, Token,
    },
};

use super::{
    ast::{deparse, index_element, qualified_name, string_node, table_of, text_of, texts_of},
    lost::{EXCLUDES_NOTHING, Lost, NOT_UNIQUE, trigger_state},
    statement::{Note, Phase, Statement},
};
use crate::{
    error::Result,
    name::{TableName, ident, idents},
    pg::object::{ObjectKind, ObjectRef},
    plan::{Hypertable, KeyChoice, Plan},
};

/// Adds an `ALTER TABLE` of the dump. `ONLY` is taken off for hypertables, which refuse it.
pub(super) fn alter_table(
    out: &mut Vec<Statement>,
    lost: &mut Lost,
    notes: &mut Vec<Note>,
    mut s: AlterTableStmt,
    mut statement: Statement,
    plan: &Plan,
) -> Result<()> {
    let table = table_of(s.relation.as_ref()).unwrap_or_default();
    statement.table = s.relation.is_some().then(|| table.clone());
    let hypertable = plan.hypertable(&table);
    // pg_dump writes ONLY for every table but a partitioned one.
    let partitioned = s.relation.as_ref().is_some_and(|r| r.inh) && !plan.is_one_table(&table);
    let mut edited = hypertable.is_some() && take_off_only(&mut s);
    let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first_mut().and_then(|c| c.node.as_mut()) else {
        out.push(statement);
        return Ok(());
    };
    let kind = AlterTableType::try_from(command.subtype).unwrap_or(AlterTableType::Undefined);
    let constraint = command.def.as_mut().and_then(|d| d.node.as_mut());
    match (kind, constraint) {
        (AlterTableType::AtAddConstraint, Some(NodeEnum::Constraint(c))) => {
            match add_constraint(&mut statement, c, hypertable, partitioned, edited) {
                Form::AsItIs => {}
                Form::Edited => edited = true,
                Form::PlainIndex(reason) => {
                    statement.sql = plain_index(&table, c)?;
                    lost.plain_indexes.extend(statement.index_name().map(|index| (index, table.clone())));
                    notes.push(Note::of_hypertable(&table, statement.object.clone(), reason));
                    out.push(statement);
                    return Ok(());
                }
            }
        }
        (AlterTableType::AtDisableTrig | AlterTableType::AtEnableReplicaTrig | AlterTableType::AtEnableAlwaysTrig, _) if hypertable.is_some() => {
            if kind != AlterTableType::AtEnableAlwaysTrig {
                // pg_dump writes the state after the trigger, as one entry.
                out.retain(|s| s.object != statement.object);
                notes.retain(|n| n.object != statement.object);
                lost.triggers.insert((table.clone(), command.name.clone()));
            }
            notes.push(Note::of_hypertable(&table, statement.object, trigger_state(kind)));
            return Ok(());
        }
        // BY DEFAULT while replay writes the source's values; ALWAYS again at the cutover.
        (AlterTableType::AtAddIdentity, Some(NodeEnum::Constraint(c))) if c.generated_when == "a" => {
            c.generated_when = "d".into();
            // In the text, because the parser's printer does not know every option of the sequence.
            statement.sql = by_default(&statement.sql);
            out.push(Statement::new(
                Phase::Cutover,
                ObjectRef::new(ObjectKind::Identity, format!("{table}.{}", command.name)),
                &format!("alter table {} alter column {} set generated always", table.sql(), ident(&command.name)),
            ));
        }
        // An index that is not unique on the target cannot be an identity there.
        (AlterTableType::AtReplicaIdentity, Some(NodeEnum::ReplicaIdentityStmt(r)))
            if !r.name.is_empty() && lost.plain_indexes.contains_key(&TableName::new(&table.schema, &r.name)) =>
        {
            return Ok(());
        }
        // A replica identity that the plan chose for this migration does not belong to the application.
        (AlterTableType::AtReplicaIdentity, _) if plan.identity(&table).is_some() => return Ok(()),
        _ => {}
    }
    statement.object = setting(kind, &table, &command.name).unwrap_or(statement.object);
    if edited {
        statement.sql = deparse(&NodeEnum::AlterTableStmt(s))?;
    }
    out.push(statement);
    Ok(())
}

/// The object of a setting, which pg_dump has in the entry of the table or of its index. They may stay as they are when it is altered.
fn setting(kind: AlterTableType, table: &TableName, column: &str) -> Option<ObjectRef> {
    let what = match kind {
        AlterTableType::AtReplicaIdentity => "REPLICA IDENTITY",
        AlterTableType::AtClusterOn => return Some(ObjectRef::new(ObjectKind::Other, format!("CLUSTER {table}"))),
        AlterTableType::AtSetStatistics => "PLANNER STATISTICS",
        AlterTableType::AtSetStorage => "STORAGE",
        AlterTableType::AtSetCompression => "COMPRESSION",
        AlterTableType::AtSetOptions => "OPTIONS",
        _ => return None,
    };
    let of_column = if column.is_empty() { String::new() } else { format!(".{column}") };
    Some(ObjectRef::new(ObjectKind::Other, format!("{what} {table}{of_column}")))
}

/// The table that an `ATTACH PARTITION` makes a partition.
pub(super) fn attached(s: &AlterTableStmt) -> Option<TableName> {
    let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first()?.node.as_ref() else { return None };
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::PartitionCmd(p) if command.subtype == AlterTableType::AtAttachPartition as i32 => table_of(p.name.as_ref()),
        _ => None,
    }
}

/// `GENERATED ALWAYS` as `GENERATED BY DEFAULT`.
fn by_default(sql: &str) -> String {
    let tokens = pg_query::scan(sql).map(|found| found.tokens).unwrap_or_default();
    let always = tokens.windows(2).find(|pair| pair[0].token == Token::Generated as i32 && pair[1].token == Token::Always as i32);
    always.map_or_else(|| sql.to_owned(), |pair| format!("{}BY DEFAULT{}", &sql[..pair[1].start as usize], &sql[pair[1].end as usize..]))
}

/// The sequence of the identity that a statement gives a column.
pub(super) fn identity_sequence(s: &AlterTableStmt) -> Option<TableName> {
    let Some(NodeEnum::AlterTableCmd(command)) = &s.cmds.first()?.node else { return None };
    let Some(NodeEnum::Constraint(c)) = command.def.as_ref()?.node.as_ref().filter(|_| command.subtype == AlterTableType::AtAddIdentity as i32)
    else {
        return None;
    };
    c.options.iter().find_map(|option| match &option.node {
        Some(NodeEnum::DefElem(e)) if e.defname == "sequence_name" => match qualified_name(e.arg.as_deref())[..] {
            [schema, name] => Some(TableName::new(schema, name)),
            _ => None,
        },
        _ => None,
    })
}

/// Whether a statement makes a table a partition; an index may become one as well.
pub(super) fn attaches_table(node: &NodeEnum) -> bool {
    let NodeEnum::AlterTableStmt(s) = node else { return false };
    let attaches = |c: &Node| matches!(&c.node, Some(NodeEnum::AlterTableCmd(c)) if c.subtype == AlterTableType::AtAttachPartition as i32);
    s.objtype == ObjectType::ObjectTable as i32 && s.cmds.iter().any(attaches)
}

/// Takes checks out of the statement that creates a table.
pub(super) fn take_checks(s: &mut CreateStmt, is_taken: impl Fn(&str) -> bool) -> Vec<Constraint> {
    let is_check = |c: &Constraint| c.contype == ConstrType::ConstrCheck as i32 && c.is_enforced;
    let is_taken = |e: &Node| matches!(&e.node, Some(NodeEnum::Constraint(c)) if is_check(c) && is_taken(&c.conname));
    let (taken, kept) = std::mem::take(&mut s.table_elts).into_iter().partition(is_taken);
    s.table_elts = kept;
    taken.into_iter().filter_map(|e| if let Some(NodeEnum::Constraint(c)) = e.node { Some(*c) } else { None }).collect()
}

/// The statement that adds a check at the cutover. It is validated after it, so that the downtime stays short. Tables that inherit from this
/// one get the check from it.
pub(super) fn add_check(table: &TableName, mut check: Constraint) -> Result<Statement> {
    let (object, name) = (ObjectRef::new(ObjectKind::CheckConstraint, format!("{table} {}", check.conname)), ident(&check.conname));
    check.skip_validation = true;
    check.initially_valid = false;
    let command = AlterTableCmd {
        subtype: AlterTableType::AtAddConstraint as i32,
        def: Some(Box::new(Node { node: Some(NodeEnum::Constraint(Box::new(check))) })),
        behavior: DropBehavior::DropRestrict as i32,
        ..AlterTableCmd::default()
    };
    let relation =
        RangeVar { schemaname: table.schema.clone(), relname: table.name.clone(), inh: true, relpersistence: "p".into(), ..RangeVar::default() };
    let node = NodeEnum::AlterTableStmt(AlterTableStmt {
        relation: Some(relation),
        cmds: vec![Node { node: Some(NodeEnum::AlterTableCmd(Box::new(command))) }],
        objtype: ObjectType::ObjectTable as i32,
        missing_ok: false,
    });
    let mut statement = Statement::new(Phase::Cutover, object, &deparse(&node)?);
    statement.table = Some(table.clone());
    statement.validate = Some(format!("alter table {} validate constraint {name}", table.sql()));
    Ok(statement)
}

/// Takes `ONLY` off; whether it was there.
fn take_off_only(s: &mut AlterTableStmt) -> bool {
    let Some(relation) = s.relation.as_mut().filter(|r| !r.inh) else { return false };
    relation.inh = true;
    true
}

/// What becomes of a constraint.
enum Form {
    AsItIs,
    /// Its node was edited.
    Edited,
    /// An index of its name that is not unique, or excludes nothing; with the words for the report.
    PlainIndex(&'static str),
}

/// `edited`: the statement is printed from its node anyway.
fn add_constraint(statement: &mut Statement, c: &mut Constraint, hypertable: Option<&Hypertable>, partitioned: bool, edited: bool) -> Form {
    match ConstrType::try_from(c.contype).unwrap_or(ConstrType::Undefined) {
        ConstrType::ConstrPrimary | ConstrType::ConstrUnique => {
            statement.makes = Some(c.conname.clone());
            match hypertable.filter(|h| !c.keys.iter().any(|k| text_of(k) == Some(&h.time_column))) {
                Some(h) if h.key == KeyChoice::Extend => {
                    c.keys.push(string_node(&h.time_column));
                    return Form::Edited;
                }
                Some(_) => return Form::PlainIndex(NOT_UNIQUE),
                None => {}
            }
        }
        ConstrType::ConstrExclusion => {
            statement.makes = Some(c.conname.clone());
            if hypertable.is_some_and(|h| h.key == KeyChoice::PlainIndex && !excludes_by(c, &h.time_column)) {
                return Form::PlainIndex(EXCLUDES_NOTHING);
            }
        }
        // NOT VALID keeps the downtime short. A partitioned table does not accept it before PostgreSQL 18.
        ConstrType::ConstrForeign if !c.skip_validation && c.is_enforced && !partitioned => {
            let only = if hypertable.is_some() { "" } else { "only " };
            let table = statement.table.as_ref().map(TableName::sql).unwrap_or_default();
            statement.validate = Some(format!("alter table {only}{table} validate constraint {}", ident(&c.conname)));
            if !edited {
                statement.sql.push_str(" NOT VALID");
                return Form::AsItIs;
            }
            c.skip_validation = true;
            c.initially_valid = false;
            return Form::Edited;
        }
        // Existing rows need not satisfy it.
        ConstrType::ConstrCheck if c.skip_validation => statement.phase = Phase::Cutover,
        _ => {}
    }
    Form::AsItIs
}

/// Whether an exclusion constraint compares this column with `=`: then rows that exclude each other are in one chunk.
fn excludes_by(c: &Constraint, column: &str) -> bool {
    c.exclusions.iter().filter_map(exclusion).any(|(element, operator)| {
        matches!(&element.node, Some(NodeEnum::IndexElem(e)) if e.name == column) && operator.last().is_some_and(|operator| *operator == "=")
    })
}

/// What a part of an exclusion constraint compares, and the name of the operator.
fn exclusion(part: &Node) -> Option<(&Node, Vec<&str>)> {
    let Some(NodeEnum::List(pair)) = &part.node else { return None };
    let [element, operator] = &pair.items[..] else { return None };
    Some((element, qualified_name(Some(operator))))
}

/// A constraint that a hypertable cannot have, as an index of its name.
fn plain_index(table: &TableName, c: &Constraint) -> Result<String> {
    if c.exclusions.is_empty() {
        return Ok(format!("create index {} on {} ({})", ident(&c.conname), table.sql(), idents(texts_of(&c.keys))));
    }
    let relation =
        RangeVar { schemaname: table.schema.clone(), relname: table.name.clone(), inh: true, relpersistence: "p".into(), ..RangeVar::default() };
    let index = IndexStmt {
        idxname: c.conname.clone(),
        relation: Some(relation),
        access_method: c.access_method.clone(),
        index_params: c.exclusions.iter().filter_map(exclusion).map(|(element, _)| element.clone()).collect(),
        index_including_params: texts_of(&c.including).into_iter().map(index_element).collect(),
        options: c.options.clone(),
        where_clause: c.where_clause.clone(),
        ..IndexStmt::default()
    };
    deparse(&NodeEnum::IndexStmt(Box::new(index)))
}
