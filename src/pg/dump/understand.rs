//! Understanding a dump: its statements, with the phase of each, edited where the order of a live migration needs another form.

use pg_query::{NodeEnum, protobuf::RangeVar};

use super::{
    Phase, Statement,
    alter::{alter_table, index_column, index_element, is_plain_index, qualified_name},
};
use crate::{
    error::{Error, Result},
    name::TableName,
    plan::{KeyChoice, Plan},
};

/// Splits a section and sorts its statements into phases; `default` is the phase of what needs no other.
pub(super) fn understand(text: &str, default: Phase, plan: &Plan) -> Result<Vec<Statement>> {
    let parts = match pg_query::split_with_parser(text) {
        Ok(parts) => parts,
        // One statement that the parser does not know must not hide the others.
        Err(_) => pg_query::split_with_scanner(text).map_err(|e| Error::failed(format!("cannot split the dump of the schema: {e}")))?,
    };
    let mut statements = Vec::new();
    let mut header = None;
    let mut end = 0;
    for part in parts {
        // The parts are slices of the text; pg_dump's comment before one names what it belongs to, and what follows it, too.
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        header = text[end..start + part.len()].lines().rfind(|l| l.starts_with("-- Name: ")).or(header);
        end = start + part.len();
        let sql = strip_comments(part);
        if sql.is_empty() {
            continue;
        }
        let label = header.map_or_else(|| sql.split_whitespace().take(5).collect::<Vec<_>>().join(" "), label);
        let parsed =
            pg_query::parse(sql, pg_query::ParserOptions::default()).map_err(|e| Error::failed(format!("cannot understand {label}: {e}")))?;
        let Some(node) = parsed.protobuf.stmts.first().and_then(|s| s.stmt.as_ref()).and_then(|s| s.node.clone()) else { continue };
        sort(&mut statements, node, sql, label, default, plan)?;
    }
    Ok(statements)
}

/// `-- Name: orders_pkey; Type: CONSTRAINT; Schema: public; Owner: -` as `CONSTRAINT public.orders_pkey`.
fn label(header: &str) -> String {
    let field = |name: &str| header.split("; ").find_map(|f| f.trim_start_matches("-- ").strip_prefix(name)).unwrap_or_default();
    let (name, kind, schema) = (field("Name: "), field("Type: "), field("Schema: "));
    if schema.is_empty() || schema == "-" { format!("{kind} {name}") } else { format!("{kind} {schema}.{name}") }
}

/// The statement without the comment lines that pg_dump puts before it.
fn strip_comments(part: &str) -> &str {
    let mut rest = part.trim();
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    rest
}

pub(super) fn table_of(relation: Option<&RangeVar>) -> Option<TableName> {
    relation.map(|r| TableName::new(&r.schemaname, &r.relname))
}

pub(super) fn deparse(node: &NodeEnum) -> Result<String> {
    node.deparse(pg_query::DeparseOptions::default()).map_err(|e| Error::failed(format!("cannot print an edited statement: {e}")))
}

/// Sorts one statement, edited where the target or the order of a live migration needs another form.
fn sort(out: &mut Vec<Statement>, node: NodeEnum, sql: &str, object: String, default: Phase, plan: &Plan) -> Result<()> {
    let mut statement = Statement { phase: default, object, table: None, makes: None, sql: sql.to_owned(), validate: None };
    match node {
        // The session's settings are hyperlift's own; views are refreshed after the cutover; nothing is published or subscribed unasked.
        NodeEnum::VariableSetStmt(_)
        | NodeEnum::SelectStmt(_)
        | NodeEnum::RefreshMatViewStmt(_)
        | NodeEnum::CreatePublicationStmt(_)
        | NodeEnum::CreateSubscriptionStmt(_) => return Ok(()),
        NodeEnum::CreateSchemaStmt(mut s) => {
            s.if_not_exists = true;
            statement.sql = deparse(&NodeEnum::CreateSchemaStmt(s))?;
        }
        NodeEnum::CreateExtensionStmt(ref s) if matches!(s.extname.as_str(), "plpgsql" | "timescaledb") => return Ok(()),
        NodeEnum::CommentStmt(ref s) if s.objtype == pg_query::protobuf::ObjectType::ObjectExtension as i32 => return Ok(()),
        NodeEnum::IndexStmt(ref s) => {
            statement.phase = Phase::Index;
            statement.table = table_of(s.relation.as_ref());
            statement.makes = Some(s.idxname.clone());
            let hypertable = statement.table.as_ref().and_then(|t| plan.hypertable(t));
            if let (Some(hypertable), true) = (hypertable, s.unique) {
                let columns: Vec<&str> = s.index_params.iter().filter_map(index_column).collect();
                if !columns.contains(&hypertable.time_column.as_str()) {
                    let mut s = s.clone();
                    match hypertable.key {
                        KeyChoice::Extend => s.index_params.push(index_element(&hypertable.time_column)),
                        KeyChoice::PlainIndex | KeyChoice::Refuse => s.unique = false,
                    }
                    statement.sql = deparse(&NodeEnum::IndexStmt(s))?;
                }
            }
        }
        NodeEnum::AlterTableStmt(s) => return alter_table(out, *Box::new(s), statement, plan),
        NodeEnum::CreateTrigStmt(_) | NodeEnum::CreateEventTrigStmt(_) | NodeEnum::AlterEventTrigStmt(_) | NodeEnum::CreatePolicyStmt(_) => {
            statement.phase = Phase::Cutover;
        }
        // A view's own rule belongs to the view; other rules would change what replay writes.
        NodeEnum::RuleStmt(ref r) if r.event != pg_query::protobuf::CmdType::CmdSelect as i32 => statement.phase = Phase::Cutover,
        NodeEnum::CommentStmt(ref s) if default == Phase::PostIndex => {
            use pg_query::protobuf::ObjectType as O;
            if s.objtype == O::ObjectTabconstraint as i32
                && let [schema, table, name] = qualified_name(s.object.as_deref())[..]
                && is_plain_index(out, &TableName::new(schema, table), name)
            {
                let index = TableName::new(schema, name);
                statement.sql = format!("comment on index {} is {}", index.sql(), crate::name::literal(&s.comment));
                out.push(statement);
                return Ok(());
            }
            let late = [O::ObjectTrigger, O::ObjectPolicy, O::ObjectRule, O::ObjectEventTrigger, O::ObjectTabconstraint];
            if late.iter().any(|o| *o as i32 == s.objtype) {
                statement.phase = Phase::Cutover;
            }
        }
        _ => {}
    }
    out.push(statement);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hypertable;

    fn plan(key: KeyChoice) -> Plan {
        let table = TableName::new("public", "events");
        Plan { hypertables: vec![Hypertable { table, time_column: "ts".into(), chunk_interval: "1 day".into(), key }], ..Plan::default() }
    }

    fn one(sql: &str, plan: &Plan) -> Vec<Statement> {
        understand(sql, Phase::PostIndex, plan).unwrap()
    }

    #[test]
    fn post_data_is_sorted_into_phases() {
        let sql = "
--
-- Name: t_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.t
    ADD CONSTRAINT t_pkey PRIMARY KEY (id);
CREATE INDEX i ON public.t USING btree (a) WHERE (s = 'x'::text);
ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id);
CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.t DISABLE TRIGGER g;
CREATE POLICY p ON public.t USING (true);
ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS public.s ON a, b FROM public.t;
ALTER TABLE public.t CLUSTER ON t_pkey;";
        let found: Vec<(Phase, String)> = one(sql, &Plan::default()).into_iter().map(|s| (s.phase, s.object)).collect();
        let phases: Vec<Phase> = found.iter().map(|f| f.0).collect();
        let (i, p, c) = (Phase::Index, Phase::PostIndex, Phase::Cutover);
        assert_eq!(phases, [i, i, c, c, c, c, c, p, p]);
        assert_eq!(found[0].1, "CONSTRAINT public.t_pkey");
    }

    #[test]
    fn n_2_an_unedited_statement_is_sent_as_it_was_printed() {
        let sql = "CREATE INDEX i ON public.t USING btree (a)   WHERE (s = 'it''s'::text)";
        assert_eq!(one(sql, &Plan::default())[0].sql, sql);
    }

    #[test]
    fn h_1_only_is_taken_off_for_hypertables_and_kept_for_others() {
        let sql = "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id, ts);";
        assert!(!one(sql, &plan(KeyChoice::Extend))[0].sql.to_uppercase().contains("ONLY"));
        assert!(one(sql, &Plan::default())[0].sql.contains("ONLY"));
    }

    #[test]
    fn h_3_a_key_without_the_time_column_is_extended_or_becomes_an_index() {
        let key = "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);";
        assert_eq!(one(key, &plan(KeyChoice::Extend))[0].sql, "ALTER TABLE public.events ADD CONSTRAINT k PRIMARY KEY (id, ts)");
        assert_eq!(one(key, &plan(KeyChoice::PlainIndex))[0].sql, "create index \"k\" on \"public\".\"events\" (\"id\")");
        let index = "CREATE UNIQUE INDEX i ON public.events USING btree (a, lower(b));";
        assert_eq!(one(index, &plan(KeyChoice::Extend))[0].sql, "CREATE UNIQUE INDEX i ON public.events USING btree (a, lower(b), ts)");
        assert_eq!(one(index, &plan(KeyChoice::PlainIndex))[0].sql, "CREATE INDEX i ON public.events USING btree (a, lower(b))");
    }

    #[test]
    fn h_3_what_refers_to_a_key_that_became_an_index_follows() {
        let sql = "
ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);
CREATE UNIQUE INDEX i ON public.events USING btree (a);
ALTER TABLE ONLY public.events REPLICA IDENTITY USING INDEX i;
COMMENT ON CONSTRAINT k ON public.events IS 'it''s a key';";
        let found: Vec<String> = one(sql, &plan(KeyChoice::PlainIndex)).into_iter().map(|s| s.sql).collect();
        assert_eq!(found[2..], ["comment on index \"public\".\"k\" is 'it''s a key'"]);
        let found: Vec<String> = one(sql, &plan(KeyChoice::Extend)).into_iter().map(|s| s.sql).collect();
        assert_eq!(
            found[2..],
            ["ALTER TABLE public.events REPLICA IDENTITY USING INDEX i", "COMMENT ON CONSTRAINT k ON public.events IS 'it''s a key'"]
        );
    }

    #[test]
    fn b_3_an_identity_is_by_default_until_the_cutover() {
        let sql = "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.t_id_seq START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1);";
        let found = understand(sql, Phase::PreData, &Plan::default()).unwrap();
        assert_eq!(found[0].phase, Phase::Cutover);
        assert!(found[0].sql.ends_with("set generated always"));
        assert!(found[1].sql.contains("BY DEFAULT") && found[1].sql.contains("t_id_seq"), "{}", found[1].sql);
    }

    #[test]
    fn a_foreign_key_is_not_valid_first_and_validated_later() {
        let found = one("ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) ON DELETE CASCADE;", &Plan::default());
        assert!(found[0].sql.ends_with("NOT VALID") && found[0].sql.contains("CASCADE"), "{}", found[0].sql);
        assert_eq!(found[0].validate.as_deref(), Some("alter table only \"public\".\"t\" validate constraint \"f\""));
    }
}
