//! Publications and subscriptions of a dump, where they are requested: without what hypertables and older targets do not allow, and without
//! the slot of a subscription, which the source's own subscription still reads.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterPublicationStmt, CreatePublicationStmt, CreateSubscriptionStmt, DefElem, DefElemAction, ObjectType, PublicationObjSpec,
        PublicationObjSpecType,
    },
};

use std::collections::HashSet;

use super::{
    ast::{deparse, parse_one, string_node, table_of},
    statement::{Note, Target},
};
use crate::{
    error::Result,
    name::{TableName, plain_ident},
    pg::{
        catalog::versions,
        object::{ObjectKind, ObjectRef},
        own::OWN_PUBLICATION,
    },
    plan::Plan,
};

/// The publication that a statement creates, alters or comments on.
pub(super) fn publication_of(node: &NodeEnum) -> Option<&str> {
    let (object_type, object) = match node {
        NodeEnum::CreatePublicationStmt(s) => return Some(&s.pubname),
        NodeEnum::AlterPublicationStmt(s) => return Some(&s.pubname),
        NodeEnum::AlterOwnerStmt(s) => (s.object_type, s.object.as_deref()),
        NodeEnum::CommentStmt(s) => (s.objtype, s.object.as_deref()),
        _ => return None,
    };
    match object?.node.as_ref()? {
        NodeEnum::String(name) if object_type == ObjectType::ObjectPublication as i32 => Some(&name.sval),
        _ => None,
    }
}

/// The names of publications that migrations made: their comments say so.
pub(super) fn own(statements: &[&str]) -> HashSet<String> {
    let comments = statements.iter().filter(|sql| sql.contains("COMMENT ON PUBLICATION ") && sql.contains("hyperlift"));
    let own = |sql: &&&str| match parse_one(sql)? {
        NodeEnum::CommentStmt(s) if s.comment == OWN_PUBLICATION => publication_of(&NodeEnum::CommentStmt(s)).map(str::to_owned),
        _ => None,
    };
    comments.filter_map(|sql| own(&sql)).collect()
}

/// The statement that creates the publication on the target; `None` for one that must not exist there.
pub(super) fn create(mut s: CreatePublicationStmt, sql: &str, target: Target, notes: &mut Vec<Note>) -> Result<Option<String>> {
    let object = ObjectRef::new(ObjectKind::Publication, plain_ident(&s.pubname));
    if s.for_all_tables && target.timescale {
        let reason = format!(
            "not created: with TimescaleDB it would publish TimescaleDB's own tables, too, and forbid new hypertables; \
             create publication {} for tables in schema … there",
            plain_ident(&s.pubname)
        );
        notes.push(Note::new(object, reason));
        return Ok(None);
    }
    let before = s.options.len();
    s.options.retain(|o| option_name(o) != Some("publish_generated_columns") || target.major >= versions::PUBLISHES_GENERATED);
    if s.options.len() == before {
        return Ok(Some(sql.to_owned()));
    }
    notes.push(Note::new(object, "without generated columns, which the target does not publish"));
    deparse(&NodeEnum::CreatePublicationStmt(s)).map(Some)
}

/// Whether the target's publication may have what this statement adds. Rows of a hypertable are published under the names of its chunks,
/// which no subscriber has, and only for chunks that exist when the hypertable is added.
pub(super) fn may_add(s: &AlterPublicationStmt, plan: &Plan, notes: &mut Vec<Note>) -> bool {
    let name = plain_ident(&s.pubname);
    let publication = ObjectRef::new(ObjectKind::Publication, &name);
    let chunks = "rows of a hypertable are in its chunks, which are published under names of their own";
    let mut may = true;
    for object in s.pubobjects.iter().filter_map(|o| if let Some(NodeEnum::PublicationObjSpec(o)) = &o.node { Some(o) } else { None }) {
        if let Some(table) = table_in(object).filter(|t| plan.hypertable(t).is_some()) {
            let reason = format!(
                "without {table}: {chunks}; if subscribers want those: alter publication {name} add table {table} for the chunks that are there, \
                 timescaledb.enable_chunk_auto_publication = on for those to come"
            );
            notes.push(Note::new(publication.clone(), reason));
            may = false;
        } else if object.pubobjtype == PublicationObjSpecType::PublicationobjTablesInSchema as i32 {
            let inside = plan.hypertables.iter().filter(|h| h.table.schema == object.name);
            let tables: Vec<String> = inside.map(|h| h.table.to_string()).collect();
            if !tables.is_empty() {
                notes.push(Note::new(publication.clone(), format!("publishes nothing of {}: {chunks}", tables.join(", "))));
            }
        }
    }
    may
}

fn table_in(object: &PublicationObjSpec) -> Option<TableName> {
    table_of(object.pubtable.as_ref()?.relation.as_ref())
}

/// The subscription without its slot, and so disabled: `DROP SUBSCRIPTION` would drop a slot that it names, which the source's own
/// subscription reads.
pub(super) fn without_slot(mut s: CreateSubscriptionStmt, target: Target) -> Result<String> {
    s.options.retain(|o| match option_name(o) {
        Some("slot_name") => false,
        Some("failover") => target.major >= versions::SUBSCRIPTION_FAILOVER,
        Some("origin" | "password_required" | "run_as_owner") => target.major >= versions::SUBSCRIPTION_ORIGIN,
        _ => true,
    });
    for option in &mut s.options {
        if let Some(NodeEnum::DefElem(e)) = &mut option.node
            && e.defname == "streaming"
            && target.major < versions::SUBSCRIPTION_ORIGIN
            // The parser reads a word that is no key word as the name of a type.
            && let Some(NodeEnum::TypeName(word)) = e.arg.as_ref().and_then(|arg| arg.node.as_ref())
            && word.names.iter().any(|n| matches!(&n.node, Some(NodeEnum::String(s)) if s.sval == "parallel"))
        {
            e.arg = Some(Box::new(string_node("on")));
        }
    }
    let none = DefElem {
        defname: "slot_name".into(),
        arg: Some(Box::new(string_node("none"))),
        defaction: DefElemAction::DefelemUnspec as i32,
        ..DefElem::default()
    };
    s.options.push(Node { node: Some(NodeEnum::DefElem(Box::new(none))) });
    deparse(&NodeEnum::CreateSubscriptionStmt(s))
}

fn option_name(option: &Node) -> Option<&str> {
    if let Some(NodeEnum::DefElem(e)) = &option.node { Some(&e.defname) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pg::dump::{
            classify::classify,
            statement::{Phase, Statement},
        },
        plan::{Hypertable, KeyChoice},
    };

    const TIMESCALE: Target = Target { major: 15, timescale: true };
    const NEWEST: Target = Target { major: 18, timescale: false };

    fn understood(sql: &str, target: Target) -> (Vec<Statement>, Vec<Note>, String) {
        let table = TableName::new("app", "metrics");
        let hypertable = Hypertable { table, time_column: "ts".into(), chunk_interval: "1 day".into(), key: KeyChoice::Extend };
        let schema = classify(&sql.into(), &Plan { hypertables: vec![hypertable], ..Plan::default() }, target).unwrap();
        (schema.statements, schema.notes, schema.digest)
    }

    fn sql(statements: &[Statement]) -> Vec<&str> {
        statements.iter().map(|s| s.sql.as_str()).collect()
    }

    #[test]
    fn publications_come_last_and_without_hypertables() {
        let dump = "CREATE PUBLICATION p WITH (publish = 'insert');
COMMENT ON PUBLICATION p IS 'it''s';
ALTER PUBLICATION p ADD TABLE ONLY app.t (id, a) WHERE ((a > 5));
ALTER PUBLICATION p ADD TABLE ONLY app.metrics;
ALTER PUBLICATION p ADD TABLES IN SCHEMA app;
ALTER PUBLICATION p ADD TABLES IN SCHEMA other;";
        let (found, notes, _) = understood(dump, TIMESCALE);
        assert!(found.iter().all(|s| s.phase == Phase::Handover), "{found:?}");
        let kept: Vec<&str> = dump.split(';').map(str::trim).filter(|s| !s.is_empty() && !s.contains("metrics")).collect();
        assert_eq!(sql(&found), kept);
        let reasons: Vec<&str> = notes.iter().filter_map(|n| n.reason.split(':').next()).collect();
        assert_eq!(reasons, ["without app.metrics", "publishes nothing of app.metrics"]);
    }

    #[test]
    fn nothing_publishes_the_catalogs_of_timescaledb() {
        let dump = r#"CREATE PUBLICATION "All" FOR ALL TABLES WITH (publish = 'insert');
ALTER PUBLICATION "All" OWNER TO somebody;
COMMENT ON PUBLICATION "All" IS 'all';"#;
        let (found, notes, _) = understood(dump, TIMESCALE);
        assert_eq!((found.len(), notes.len(), notes[0].object.to_string()), (0, 1, "PUBLICATION \"All\"".to_owned()));
        let (found, notes, _) = understood(dump, NEWEST);
        assert_eq!((found.len(), notes.len()), (3, 0));
    }

    #[test]
    fn hyperlifts_own_publications_are_no_change_of_the_schema() {
        let dump = "CREATE TABLE app.t (a int);";
        let own = "CREATE PUBLICATION hyperlift_abcdef WITH (publish = 'insert');
ALTER PUBLICATION hyperlift_abcdef OWNER TO somebody; ALTER PUBLICATION hyperlift_abcdef ADD TABLE ONLY app.t;";
        let comment = format!("COMMENT ON PUBLICATION hyperlift_abcdef IS '{OWN_PUBLICATION}';");
        let before = understood(dump, NEWEST);
        assert_eq!(before, understood(&format!("{dump}{own}{comment}"), NEWEST));
        assert_eq!(understood(&format!("{dump}{own}"), NEWEST).0.len(), 4, "a name alone is nobody's");
        assert_ne!(before.2, understood("CREATE TABLE app.t (b int);", NEWEST).2);
    }

    #[test]
    fn a_subscription_names_no_slot_and_is_shown_nowhere() {
        let dump = r#"CREATE SUBSCRIPTION s CONNECTION 'host=h password=''it\''s''' PUBLICATION pa, "P b" WITH (connect = false, slot_name = 's', streaming = parallel, two_phase = on, run_as_owner = true, failover = true, origin = none);
COMMENT ON SUBSCRIPTION s IS 'c';"#;
        let (found, notes, _) = understood(dump, TIMESCALE);
        let (connection, options) = sql(&found)[0].split_once(" WITH ").unwrap();
        assert_eq!(connection, r#"CREATE SUBSCRIPTION s CONNECTION E'host=h password=''it\\''s''' PUBLICATION pa, "P b""#);
        assert_eq!(options, "(connect = false, streaming = on, two_phase = on, slot_name = NONE)");
        assert_eq!((found[0].phase, found[1].phase, notes.len()), (Phase::Subscription, Phase::Handover, 0));
        assert!(found[0].secret && !found[0].shown().contains("password="), "{}", found[0].shown());
        let (_, options) = dump.split_once(" WITH ").unwrap();
        let all = options.split_once(';').unwrap().0.replace("slot_name = 's', ", "").replace(')', ", slot_name = NONE)");
        let (found, ..) = understood(dump, NEWEST);
        assert_eq!(sql(&found)[0].split_once(" WITH ").unwrap().1.to_lowercase(), all.to_lowercase());
    }

    #[test]
    fn an_older_target_publishes_no_generated_columns() {
        let dump = "CREATE PUBLICATION p WITH (publish = 'insert', publish_generated_columns = stored)";
        let (found, notes, _) = understood(dump, TIMESCALE);
        assert_eq!((sql(&found)[0], notes.len()), ("CREATE PUBLICATION p WITH (publish = 'insert')", 1));
        assert_eq!(sql(&understood(dump, NEWEST).0), [dump]);
    }
}
