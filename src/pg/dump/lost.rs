//! What hypertables do not have as the tables of the source have it: keys, and triggers.

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableType, CreateTrigStmt, ObjectType},
};
use std::collections::{HashMap, HashSet};

use super::{
    ast::{qualified_name, table_of, texts_of},
    statement::{Note, Statement},
};
use crate::{name::TableName, plan::Plan};

/// What becomes of a key that `plain-index` keeps as an index.
pub(super) const NOT_UNIQUE: &str = "an index that is not unique on the target, as key = \"plain-index\" says";
/// What becomes of an exclusion constraint then.
pub(super) const EXCLUDES_NOTHING: &str = "an index on the target that excludes no rows, as key = \"plain-index\" says";

/// What hypertables do not have as the tables of the source have it.
#[derive(Default)]
pub(super) struct Lost {
    /// Keys that became indexes which are not unique, and exclusion constraints that became indexes, with their tables.
    pub plain_indexes: HashMap<TableName, TableName>,
    /// Triggers that are left out, by their table and name.
    pub triggers: HashSet<(TableName, String)>,
}

/// Whether a statement is about a trigger that is left out.
pub(super) fn is_left_out(node: &NodeEnum, lost: &Lost) -> bool {
    match node {
        NodeEnum::CommentStmt(s) if s.objtype == ObjectType::ObjectTrigger as i32 => match qualified_name(s.object.as_deref())[..] {
            [schema, table, trigger] => lost.triggers.contains(&(TableName::new(schema, table), trigger.to_owned())),
            _ => false,
        },
        NodeEnum::AlterObjectDependsStmt(s) => {
            let trigger = qualified_name(s.object.as_deref()).last().map(ToString::to_string);
            table_of(s.relation.as_ref()).zip(trigger).is_some_and(|trigger| lost.triggers.contains(&trigger))
        }
        _ => false,
    }
}

/// Why a trigger of a hypertable does not keep its state: TimescaleDB makes the triggers of a new chunk as ordinary ones, whatever the state
/// of the hypertable's own.
pub(super) fn trigger_state(kind: AlterTableType) -> &'static str {
    match kind {
        AlterTableType::AtDisableTrig => {
            "left out, because it is disabled, and TimescaleDB would enable it in every chunk that is made later; create it on the target when it is to fire"
        }
        AlterTableType::AtEnableReplicaTrig => {
            "left out, because it fires only where session_replication_role is replica, and TimescaleDB would let it fire everywhere in every \
             chunk that is made later"
        }
        _ => {
            "an ordinary trigger on the target, because TimescaleDB does not keep ENABLE ALWAYS in chunks that are made later: it does not fire \
             where session_replication_role is replica"
        }
    }
}

/// A note about a row trigger of a hypertable whose function asks for the name of its table: it gets that of the chunk. `before`: the
/// statements before the trigger, with its function.
pub(super) fn trigger_of_chunks(trigger: &CreateTrigStmt, statement: &Statement, before: &[Statement], plan: &Plan) -> Option<Note> {
    let table = table_of(trigger.relation.as_ref()).filter(|table| trigger.row && plan.hypertable(table).is_some())?;
    let function = format!("FUNCTION {}()", texts_of(&trigger.funcname).join("."));
    let body = before.iter().find(|s| s.object.to_string() == function)?.sql.to_lowercase();
    let asks = ["tg_table_name", "tg_table_schema", "tg_relid", "tg_relname"].into_iter().find(|name| body.contains(name))?;
    let reason = format!("its function reads {}, which in a hypertable is that of the chunk of the row", asks.to_uppercase());
    Some(Note::of_hypertable(&table, statement.object.clone(), reason))
}
