//! `ALTER TABLE` and the keys of a dump: the forms that a hypertable accepts, and what has to wait for the cutover.

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableStmt, AlterTableType, ConstrType, Constraint},
};

use super::{
    Phase, Statement,
    classify::{deparse, table_of},
};
use crate::{
    error::Result,
    name::TableName,
    plan::{KeyChoice, Plan},
};

pub(super) fn index_column(node: &pg_query::Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::IndexElem(e) if !e.name.is_empty() => Some(&e.name),
        _ => None,
    }
}

pub(super) fn index_element(column: &str) -> pg_query::Node {
    use pg_query::protobuf::{IndexElem, SortByDir, SortByNulls};
    let element = IndexElem {
        name: column.to_owned(),
        ordering: SortByDir::SortbyDefault as i32,
        nulls_ordering: SortByNulls::SortbyNullsDefault as i32,
        ..IndexElem::default()
    };
    pg_query::Node { node: Some(NodeEnum::IndexElem(Box::new(element))) }
}

pub(super) fn string_node(text: &str) -> pg_query::Node {
    pg_query::Node { node: Some(NodeEnum::String(pg_query::protobuf::String { sval: text.to_owned() })) }
}

/// `ALTER TABLE`: keys, foreign keys, identities, triggers' states. ONLY is refused on hypertables (H-1).
pub(super) fn alter_table(out: &mut Vec<Statement>, mut s: AlterTableStmt, mut statement: Statement, plan: &Plan) -> Result<()> {
    statement.table = table_of(s.relation.as_ref());
    let hypertable = statement.table.as_ref().and_then(|t| plan.hypertable(t));
    let mut edited = false;
    // pg_dump writes ONLY for every table but a partitioned one.
    let partitioned = s.relation.as_ref().is_some_and(|r| r.inh) && !statement.table.as_ref().is_some_and(|t| plan.is_one_table(t));
    if hypertable.is_some()
        && let Some(relation) = s.relation.as_mut()
        && !relation.inh
    {
        relation.inh = true;
        edited = true;
    }
    let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first_mut().and_then(|c| c.node.as_mut()) else {
        out.push(statement);
        return Ok(());
    };
    let kind = AlterTableType::try_from(command.subtype).unwrap_or(AlterTableType::Undefined);
    match kind {
        AlterTableType::AtAddConstraint => {
            if let Some(NodeEnum::Constraint(c)) = command.def.as_mut().and_then(|d| d.node.as_mut()) {
                match ConstrType::try_from(c.contype).unwrap_or(ConstrType::Undefined) {
                    ConstrType::ConstrPrimary | ConstrType::ConstrUnique => {
                        statement.phase = Phase::Index;
                        statement.makes = Some(c.conname.clone());
                        if let Some(h) = hypertable
                            && !c.keys.iter().any(|k| matches!(&k.node, Some(NodeEnum::String(s)) if s.sval == h.time_column))
                        {
                            if h.key == KeyChoice::Extend {
                                c.keys.push(string_node(&h.time_column));
                                edited = true;
                            } else {
                                statement.sql = plain_index(statement.table.as_ref(), c);
                                out.push(statement);
                                return Ok(());
                            }
                        }
                    }
                    ConstrType::ConstrExclusion => {
                        statement.phase = Phase::Index;
                        statement.makes = Some(c.conname.clone());
                    }
                    ConstrType::ConstrForeign => {
                        statement.phase = Phase::Cutover;
                        let table = statement.table.clone().unwrap_or_default();
                        // NOT VALID keeps the downtime short; a partitioned table does not accept it before PostgreSQL 18.
                        if !c.skip_validation && c.is_enforced && !partitioned {
                            let only = if hypertable.is_some() { "" } else { "only " };
                            statement.validate =
                                Some(format!("alter table {only}{} validate constraint {}", table.sql(), crate::name::ident(&c.conname)));
                            if edited {
                                c.skip_validation = true;
                                c.initially_valid = false;
                            } else {
                                statement.sql.push_str(" NOT VALID");
                            }
                        }
                    }
                    // Rows that were there before need not satisfy it.
                    ConstrType::ConstrCheck if c.skip_validation => statement.phase = Phase::Cutover,
                    _ => {}
                }
            }
        }
        AlterTableType::AtAddIdentity => {
            // BY DEFAULT while replay writes the source's values; ALWAYS again at the cutover (B-3).
            if let Some(NodeEnum::Constraint(c)) = command.def.as_mut().and_then(|d| d.node.as_mut())
                && c.generated_when == "a"
            {
                c.generated_when = "d".into();
                edited = true;
                let table = statement.table.clone().unwrap_or_default();
                let column = crate::name::ident(&command.name);
                out.push(Statement::new(
                    Phase::Cutover,
                    format!("IDENTITY {table}.{}", command.name),
                    &format!("alter table {} alter column {column} set generated always", table.sql()),
                ));
            }
        }
        AlterTableType::AtEnableTrig
        | AlterTableType::AtEnableAlwaysTrig
        | AlterTableType::AtEnableReplicaTrig
        | AlterTableType::AtDisableTrig
        | AlterTableType::AtEnableTrigAll
        | AlterTableType::AtDisableTrigAll
        | AlterTableType::AtEnableTrigUser
        | AlterTableType::AtDisableTrigUser
        | AlterTableType::AtEnableRule
        | AlterTableType::AtEnableAlwaysRule
        | AlterTableType::AtEnableReplicaRule
        | AlterTableType::AtDisableRule
        | AlterTableType::AtEnableRowSecurity
        | AlterTableType::AtDisableRowSecurity
        | AlterTableType::AtForceRowSecurity
        | AlterTableType::AtNoForceRowSecurity => statement.phase = Phase::Cutover,
        // An index that is no longer unique on the target cannot be an identity there.
        AlterTableType::AtReplicaIdentity
            if statement.table.as_ref().is_some_and(|t| replica_index(command).is_some_and(|i| is_plain_index(out, t, i))) =>
        {
            return Ok(());
        }
        // The source's replica identity serves this migration only.
        AlterTableType::AtReplicaIdentity if statement.table.as_ref().is_some_and(|t| plan.identity(t).is_some()) => return Ok(()),
        _ => {}
    }
    if edited {
        statement.sql = deparse(&NodeEnum::AlterTableStmt(s))?;
    }
    out.push(statement);
    Ok(())
}

/// The index of `REPLICA IDENTITY USING INDEX`.
pub(super) fn replica_index(command: &pg_query::protobuf::AlterTableCmd) -> Option<&str> {
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::ReplicaIdentityStmt(r) if !r.name.is_empty() => Some(&r.name),
        _ => None,
    }
}

/// The parts of a name such as schema, table and constraint.
pub(super) fn qualified_name(object: Option<&pg_query::Node>) -> Vec<&str> {
    let Some(NodeEnum::List(list)) = object.and_then(|o| o.node.as_ref()) else { return Vec::new() };
    list.items.iter().filter_map(|n| if let Some(NodeEnum::String(s)) = &n.node { Some(s.sval.as_str()) } else { None }).collect()
}

/// Whether this key of the source has become an index that is not unique.
pub(super) fn is_plain_index(statements: &[Statement], table: &TableName, name: &str) -> bool {
    let makes = |s: &&Statement| s.phase == Phase::Index && s.table.as_ref() == Some(table) && s.makes.as_deref() == Some(name);
    statements.iter().find(makes).is_some_and(|s| s.sql.to_lowercase().starts_with("create index "))
}

/// A key that cannot be unique on the hypertable, as an index of its name.
pub(super) fn plain_index(table: Option<&TableName>, c: &Constraint) -> String {
    let columns: Vec<&str> =
        c.keys.iter().filter_map(|k| if let Some(NodeEnum::String(s)) = &k.node { Some(s.sval.as_str()) } else { None }).collect();
    format!("create index {} on {} ({})", crate::name::ident(&c.conname), table.map(TableName::sql).unwrap_or_default(), crate::name::idents(columns))
}
