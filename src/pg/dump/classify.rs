//! The statements of a dump, each with its phase, edited where the target or the order of a live migration needs another form.

use pg_query::{
    NodeEnum,
    protobuf::{AConst, CommentStmt, IndexStmt, ObjectType, VariableSetStmt, a_const},
};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;

use super::{
    alter_table::{add_check, alter_table, attached, attaches_table, identity_sequence, take_checks},
    ast::{deparse, index_column, index_element, qualified_name, table_of, text_of},
    downgrade::{Adapted, Downgrade},
    lost::{Lost, NOT_UNIQUE, is_left_out, trigger_of_chunks},
    phase::{begins_post_data, is_privilege, phase_of, phase_of_comment},
    privileges::{map_roles, member_of},
    publications::{self, publication_of},
    statement::{Dump, Note, Phase, Schema, Statement, Target, hex},
    toc,
};
use crate::{
    error::{Error, Result},
    name::{TableName, ident, literal},
    pg::{
        catalog::{CreationOrder, exclusion::ObjectId},
        object::ObjectRef,
    },
    plan::{KeyChoice, Plan},
};

/// Splits a dump and sorts its statements into phases.
pub(super) fn classify(dump: &Dump, plan: &Plan, target: Target) -> Result<Schema> {
    let text = &*dump.text;
    let parts = match pg_query::split_with_parser(text) {
        Ok(parts) => parts,
        // One statement that the parser does not know must not hide the others.
        Err(_) => pg_query::split_with_scanner(text).map_err(|e| Error::failed(format!("cannot split the dump of the schema: {e}")))?,
    };
    let mut reader = Reader {
        plan,
        target,
        order: &dump.order,
        own_publications: publications::own(&parts),
        downgrade: Downgrade::new(target.major),
        statements: Vec::new(),
        notes: Vec::new(),
        hash: Sha256::new(),
        whole_hash: Sha256::new(),
        section: Phase::PreData,
        access_method: None,
        grantor: None,
        unpublished: HashSet::new(),
        foreign_tables: HashSet::new(),
        lost: Lost::default(),
        checks_at_cutover: HashSet::new(),
        tables: Vec::new(),
        sequences: Vec::new(),
    };
    let (mut header, mut id) = (None, None);
    let mut end = 0;
    for part in parts {
        // The parts are slices of the text. pg_dump's comment before one names what it and those that follow belong to.
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        let sql = strip_comments(part);
        let body = start + (sql.as_ptr() as usize - part.as_ptr() as usize);
        let comments = &text[end..body];
        if let Some(name) = comments.lines().rfind(|l| l.starts_with("-- Name: ")) {
            (header, id) = (Some(name), toc::object_of(comments));
        }
        end = start + part.len();
        if sql.is_empty() {
            continue;
        }
        let object = header.map_or_else(|| sql.split_whitespace().take(5).collect::<Vec<_>>().join(" "), label);
        reader.read(sql, object.into(), id)?;
    }
    let Reader { statements, hash, whole_hash, notes, tables, sequences, .. } = reader;
    Ok(Schema { statements, digest: hex(hash), whole_digest: hex(whole_hash), notes, tables, sequences })
}

/// `-- Name: orders_pkey; Type: CONSTRAINT; Schema: public; Owner: -` as `CONSTRAINT public.orders_pkey`.
fn label(header: &str) -> String {
    // From the right: a name may look like what follows it.
    let (rest, schema) = header.rsplit_once("; Owner: ").map_or(header, |(rest, _)| rest).rsplit_once("; Schema: ").unwrap_or((header, ""));
    let (name, kind) = rest.rsplit_once("; Type: ").unwrap_or((rest, ""));
    let name = name.strip_prefix("-- Name: ").unwrap_or(name);
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

/// Reads the statements of a dump in their order.
struct Reader<'a> {
    plan: &'a Plan,
    target: Target,
    order: &'a CreationOrder,
    /// Of this and other migrations.
    own_publications: HashSet<String>,
    downgrade: Downgrade,
    statements: Vec<Statement>,
    notes: Vec<Note>,
    /// Of the statements of the application that are run before the copy.
    hash: Sha256,
    /// Of all statements of the application.
    whole_hash: Sha256,
    /// The phase of statements that need no other one: pg_dump writes its section "post-data" after "pre-data".
    section: Phase,
    /// `SET default_table_access_method`, where it is not the usual one.
    access_method: Option<String>,
    /// `SET SESSION AUTHORIZATION`: who grants.
    grantor: Option<String>,
    /// Publications that are not made on the target.
    unpublished: HashSet<String>,
    foreign_tables: HashSet<TableName>,
    lost: Lost,
    /// Checks that are not part of their table's statement any more.
    checks_at_cutover: HashSet<(TableName, String)>,
    tables: Vec<(TableName, Phase)>,
    sequences: Vec<TableName>,
}

impl Reader<'_> {
    fn read(&mut self, sql: &str, object: ObjectRef, id: Option<ObjectId>) -> Result<()> {
        let parsed = match pg_query::parse(sql, pg_query::ParserOptions::default()) {
            Ok(parsed) => parsed,
            Err(e) => {
                // Newer than the parser: it is sent as it was printed.
                tracing::warn!("{object} is not known to the parser: {e}");
                self.statements.push(Statement::new(self.section, object, sql));
                self.hash(sql, self.statements.len() - 1);
                return Ok(());
            }
        };
        let Some(node) = parsed.protobuf.stmts.into_iter().next().and_then(|s| s.stmt).and_then(|s| s.node) else { return Ok(()) };
        // They are not the application's.
        if publication_of(&node).is_some_and(|name| self.own_publications.contains(name)) {
            return Ok(());
        }
        if begins_post_data(&node) {
            self.section = Phase::PostIndex;
        }
        let before = self.statements.len();
        self.read_node(node, sql, &object, id)?;
        self.hash(sql, before);
        Ok(())
    }

    /// Adds the text of a statement to the digests. `before`: how many statements there were before it.
    fn hash(&mut self, sql: &str, before: usize) {
        self.whole_hash.update(sql);
        // A statement may also take back those before it.
        let made = self.statements.get(before..).unwrap_or_default();
        let is_restored = |s: &Statement| matches!(s.phase, Phase::PreData | Phase::Subscription);
        if made.iter().any(is_restored) || (made.is_empty() && self.section == Phase::PreData) {
            self.hash.update(sql);
        }
    }

    fn read_node(&mut self, node: NodeEnum, sql: &str, object: &ObjectRef, id: Option<ObjectId>) -> Result<()> {
        match node {
            NodeEnum::VariableSetStmt(ref s) => self.set(s)?,
            // The session's settings are hyperlift's own; views are refreshed after the cutover.
            NodeEnum::SelectStmt(_) | NodeEnum::RefreshMatViewStmt(_) => {}
            node if publication_of(&node).is_some_and(|name| self.unpublished.contains(name)) => {}
            node => {
                for Adapted { node, sql, phase } in self.downgrade.adapt(node, sql, object, &mut self.notes)? {
                    let before = self.statements.len();
                    self.add(node, &sql, object.clone(), id)?;
                    self.statements.iter_mut().skip(before).for_each(|s| s.phase = phase.unwrap_or(s.phase));
                }
            }
        }
        Ok(())
    }

    /// What a setting of the dump means for the statements after it.
    fn set(&mut self, s: &VariableSetStmt) -> Result<()> {
        let value = s.args.first().and_then(|a| match &a.node {
            Some(NodeEnum::AConst(AConst { val: Some(a_const::Val::Sval(text)), .. })) => Some(text.sval.clone()),
            _ => None,
        });
        match s.name.as_str() {
            "default_table_access_method" => self.access_method = value.filter(|v| v != "heap" && !v.is_empty()),
            "session_authorization" => self.grantor = value,
            // Every backslash in a string constant would mean something else on the target.
            "standard_conforming_strings" if value.as_deref() != Some("on") => {
                return Err(Error::refused("the source printed its schema with standard_conforming_strings = off")
                    .hint("connect to the source directly: what is between does not pass the settings of a session on"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds one statement, edited where the target or the order of a live migration needs another form.
    fn add(&mut self, mut node: NodeEnum, sql: &str, object: ObjectRef, id: Option<ObjectId>) -> Result<()> {
        let mut statement = Statement::new(self.placed(&node, id), object, sql);
        let (roles, mapped) = map_roles(&mut node, &self.plan.roles);
        statement.roles = roles;
        if mapped {
            statement.sql = deparse(&node)?;
        }
        if is_privilege(&node) {
            self.add_privilege(node, statement);
            return Ok(());
        }
        match node {
            NodeEnum::CreateSchemaStmt(mut s) => {
                s.if_not_exists = true;
                statement.sql = deparse(&NodeEnum::CreateSchemaStmt(s))?;
            }
            NodeEnum::CreateStmt(_) | NodeEnum::CreateTableAsStmt(_) => return self.table(statement, node, id),
            NodeEnum::CreateSeqStmt(ref s) => self.sequences.extend(table_of(s.sequence.as_ref())),
            NodeEnum::CreateExtensionStmt(ref s) if matches!(s.extname.as_str(), "plpgsql" | "timescaledb") => return Ok(()),
            ref node if is_left_out(node, &self.lost) => return Ok(()),
            NodeEnum::CommentStmt(ref s) => self.comment(s, &mut statement),
            NodeEnum::IndexStmt(s) => {
                if let Some((index, table, note)) = index(&mut statement, *s, self.plan)? {
                    self.lost.plain_indexes.insert(index, table);
                    self.notes.push(note);
                }
            }
            NodeEnum::CreateForeignTableStmt(ref s) => {
                self.foreign_tables.extend(s.base_stmt.as_ref().and_then(|s| table_of(s.relation.as_ref())));
            }
            // Until the cutover no statement about the root reaches the foreign server: neither a TRUNCATE nor a change that is replayed.
            NodeEnum::AlterTableStmt(ref s) if attached(s).is_some_and(|partition| self.foreign_tables.contains(&partition)) => {
                statement.phase = Phase::Cutover;
            }
            NodeEnum::AlterTableStmt(s) => {
                self.sequences.extend(identity_sequence(&s));
                return alter_table(&mut self.statements, &mut self.lost, &mut self.notes, s, statement, self.plan);
            }
            NodeEnum::CreateTrigStmt(ref s) => self.notes.extend(trigger_of_chunks(s, &statement, &self.statements, self.plan)),
            NodeEnum::CreatePublicationStmt(s) => {
                let name = s.pubname.clone();
                let Some(sql) = publications::create(s, sql, self.target, &mut self.notes)? else {
                    self.unpublished.insert(name);
                    return Ok(());
                };
                statement.sql = sql;
            }
            NodeEnum::AlterPublicationStmt(s) if !publications::may_add(&s, self.plan, &mut self.notes) => return Ok(()),
            NodeEnum::CreateSubscriptionStmt(s) => {
                statement.secret = true;
                statement.sql = publications::without_slot(s, self.target)?;
            }
            // Options may hold passwords, which no file and no screen may show (I13).
            NodeEnum::CreateUserMappingStmt(_) | NodeEnum::CreateForeignServerStmt(_) => statement.secret = true,
            _ => {}
        }
        self.statements.push(statement);
        Ok(())
    }

    /// The phase of a statement about this object.
    fn placed(&self, node: &NodeEnum, id: Option<ObjectId>) -> Phase {
        let phase = phase_of(node, self.section);
        match phase {
            Phase::Index | Phase::PostIndex if id.is_some_and(|id| self.order.is_before_copy(id)) => Phase::PreData,
            // A table is a partition before rows are copied into it.
            Phase::PostIndex if attaches_table(node) => Phase::PreData,
            Phase::Index if id.is_some_and(|id| self.order.is_after_copy(id)) => Phase::PostIndex,
            phase => phase,
        }
    }

    /// A table or a materialised view: without its partitions where the plan says so, without the checks that wait for the cutover, and with
    /// its access method.
    fn table(&mut self, mut statement: Statement, mut node: NodeEnum, id: Option<ObjectId>) -> Result<()> {
        let mut later = Vec::new();
        if let NodeEnum::CreateStmt(s) = &mut node {
            let table = table_of(s.relation.as_ref()).unwrap_or_default();
            let merged = s.partspec.is_some() && self.plan.is_one_table(&table);
            if merged {
                s.partspec = None;
            }
            let checks = id.map_or_else(Vec::new, |id| take_checks(s, |name| self.order.is_check_at_cutover(id, name)));
            let edited = merged || !checks.is_empty();
            for check in checks {
                self.checks_at_cutover.insert((table.clone(), check.conname.clone()));
                later.push(add_check(&table, check)?);
            }
            self.tables.push((table, statement.phase));
            if edited {
                statement.sql = deparse(&node)?;
            }
        }
        if let Some(method) = &self.access_method {
            let setting = "set local default_table_access_method =";
            statement.sql = format!("{setting} {};\n{};\n{setting} heap", ident(method), statement.sql);
        }
        self.statements.push(statement);
        self.statements.extend(later);
        Ok(())
    }

    /// An owner or a grant, by the role that gave it.
    fn add_privilege(&mut self, mut node: NodeEnum, mut statement: Statement) {
        statement.member_of = member_of(&mut node);
        if !matches!(node, NodeEnum::GrantStmt(_) | NodeEnum::AlterDefaultPrivilegesStmt(_)) {
            statement.object = statement.object.owner_of();
        }
        if let Some(grantor) = &self.grantor {
            let grantor = self.plan.roles.get(grantor).unwrap_or(grantor);
            statement.sql = format!("set local role {};\n{};\nset local role none", ident(grantor), statement.sql);
            statement.roles.push(grantor.clone());
            statement.member_of.push(grantor.clone());
        }
        self.statements.push(statement);
    }

    fn comment(&self, s: &CommentStmt, statement: &mut Statement) {
        statement.phase = phase_of_comment(s.objtype, self.section);
        let on_constraint = match qualified_name(s.object.as_deref())[..] {
            [schema, table, name] if s.objtype == ObjectType::ObjectTabconstraint as i32 => Some((TableName::new(schema, table), name)),
            _ => None,
        };
        if s.objtype == ObjectType::ObjectExtension as i32 {
            // Its own comment comes with it. To set another one its owner is needed.
            let name = s.object.as_ref().and_then(|o| text_of(o)).map(literal).unwrap_or_default();
            let comment = literal(&s.comment);
            statement.sql = format!(
                "do {} ",
                literal(&format!(
                    "begin if obj_description((select oid from pg_extension where extname = {name}), 'pg_extension') is distinct from {comment} \
                     then\n{};\nend if; end",
                    statement.sql
                ))
            );
        } else if let Some((table, name)) = on_constraint {
            let index = TableName::new(&table.schema, name);
            // Another table may have a constraint of the same name.
            if self.lost.plain_indexes.get(&index) == Some(&table) {
                statement.phase = self.section;
                statement.sql = format!("comment on index {} is {}", index.sql(), literal(&s.comment));
            } else if self.checks_at_cutover.contains(&(table, name.to_owned())) {
                statement.phase = Phase::Cutover;
            }
        }
    }
}

/// An index. A unique one of a hypertable gets its time column, or is not unique any more: then it is returned with its table and a note.
fn index(statement: &mut Statement, mut s: IndexStmt, plan: &Plan) -> Result<Option<(TableName, TableName, Note)>> {
    statement.table = table_of(s.relation.as_ref());
    statement.makes = Some(s.idxname.clone());
    if let (Some(table), Some(relation)) = (&statement.table, s.relation.as_mut())
        && !relation.inh
        && plan.is_one_table(table)
    {
        // pg_dump writes ONLY for a partitioned table, because the indexes of its partitions are attached later. Here it has none.
        relation.inh = true;
        statement.sql = deparse(&NodeEnum::IndexStmt(Box::new(s.clone())))?;
    }
    let Some(hypertable) = statement.table.as_ref().and_then(|t| plan.hypertable(t)).filter(|_| s.unique) else { return Ok(None) };
    if s.index_params.iter().filter_map(index_column).any(|c| c == hypertable.time_column) {
        return Ok(None);
    }
    match hypertable.key {
        KeyChoice::Extend => s.index_params.push(index_element(&hypertable.time_column)),
        KeyChoice::PlainIndex | KeyChoice::Refuse => s.unique = false,
    }
    let plain = statement.index_name().filter(|_| !s.unique);
    let note = |index| (index, hypertable.table.clone(), Note::of_hypertable(&hypertable.table, statement.object.clone(), NOT_UNIQUE));
    let plain = plain.map(note);
    statement.sql = deparse(&NodeEnum::IndexStmt(Box::new(s)))?;
    Ok(plain)
}

#[cfg(test)]
mod order_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hypertable;

    const TARGET: Target = Target { major: 18, timescale: true };

    fn plan(key: KeyChoice) -> Plan {
        let table = TableName::new("public", "events");
        Plan { hypertables: vec![Hypertable { table, time_column: "ts".into(), chunk_interval: "1 day".into(), key }], ..Plan::default() }
    }

    fn one(sql: &str, plan: &Plan) -> Vec<Statement> {
        classify(&Dump::from(sql), plan, TARGET).unwrap().statements
    }

    #[test]
    fn a_foreign_table_becomes_a_partition_at_the_cutover() {
        let dump = "CREATE TABLE public.log (id integer, part integer) PARTITION BY LIST (part);
CREATE TABLE public.log_1 (id integer, part integer);
CREATE FOREIGN TABLE public.log_0 (id integer, part integer) SERVER far;
ALTER TABLE ONLY public.log ATTACH PARTITION public.log_0 FOR VALUES IN (0);
ALTER TABLE ONLY public.log ATTACH PARTITION public.log_1 FOR VALUES IN (1);";
        let phases: Vec<Phase> = one(dump, &Plan::default()).iter().map(|s| s.phase).collect();
        assert_eq!(phases, [Phase::PreData, Phase::PreData, Phase::PreData, Phase::Cutover, Phase::PreData]);
    }

    #[test]
    fn an_event_trigger_comes_last_with_its_state_and_its_owner() {
        let dump = "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.f();
ALTER EVENT TRIGGER e DISABLE;
ALTER EVENT TRIGGER e OWNER TO app;
ALTER FUNCTION public.f() OWNER TO app;
COMMENT ON EVENT TRIGGER e IS 'x';";
        let phases: Vec<Phase> = one(dump, &Plan { owners: true, ..Plan::default() }).iter().map(|s| s.phase).collect();
        let last = Phase::EventTrigger;
        assert_eq!(phases, [last, last, last, Phase::Handover, last]);
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
        let found: Vec<(Phase, String)> = one(sql, &Plan::default()).into_iter().map(|s| (s.phase, s.object.to_string())).collect();
        let phases: Vec<Phase> = found.iter().map(|f| f.0).collect();
        let (i, p, c) = (Phase::Index, Phase::PostIndex, Phase::Cutover);
        assert_eq!(phases, [i, i, c, c, c, c, c, p, p]);
        assert_eq!(found[0].1, "CONSTRAINT public.t_pkey");
    }

    #[test]
    fn what_waits_for_the_cutover_among_pre_data_does_not_end_the_pre_data() {
        let sql = "
CREATE TABLE public.t (a integer, CONSTRAINT c CHECK ((a > 0)));
ALTER TABLE ONLY public.t FORCE ROW LEVEL SECURITY;
COMMENT ON CONSTRAINT c ON public.t IS 'inline';
ALTER TABLE public.t OWNER TO somebody;
CREATE VIEW public.v AS SELECT 1;
ALTER TABLE public.t ADD CONSTRAINT later CHECK ((a > 1)) NOT VALID;
COMMENT ON CONSTRAINT later ON public.t IS 'later';
COMMENT ON INDEX public.i IS 'as its index';";
        let phases: Vec<Phase> = one(sql, &Plan::default()).into_iter().map(|s| s.phase).collect();
        let (d, p, c, h) = (Phase::PreData, Phase::PostIndex, Phase::Cutover, Phase::Handover);
        assert_eq!(phases, [d, c, d, h, d, c, c, p]);
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
    fn h_15_a_partitioned_table_is_made_without_partitions_where_the_plan_says_so() {
        let dump = "CREATE TABLE public.events (\n    id integer NOT NULL,\n    ts date DEFAULT now()\n)\nPARTITION BY RANGE (ts);\nCREATE INDEX i ON ONLY public.events USING btree (id);\nALTER TABLE public.events ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES public.u(id);";
        let merged = one(dump, &Plan { one_table: [TableName::new("public", "events")].into(), ..Plan::default() });
        assert_eq!(merged[0].sql, "CREATE TABLE public.events (id int NOT NULL, ts date DEFAULT now())");
        assert_eq!(merged[1].sql, "CREATE INDEX i ON public.events USING btree (id)");
        assert!(merged[2].sql.ends_with("NOT VALID") && merged[2].validate.is_some());
        assert_eq!(one(dump, &plan(KeyChoice::Extend))[..2], merged[..2], "a hypertable has no other partitions");
        let kept = one(dump, &Plan::default());
        assert!(kept[0].sql.ends_with("PARTITION BY RANGE (ts)") && kept[1].sql.contains("ONLY") && kept[2].validate.is_none());
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
    fn h_3_a_comment_stays_with_the_constraint_of_its_own_table() {
        let sql = "
ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);
ALTER TABLE ONLY public.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES public.u(id);
COMMENT ON CONSTRAINT k ON public.t IS 'a foreign key';";
        let found = one(sql, &plan(KeyChoice::PlainIndex));
        assert_eq!((found[2].phase, found[2].sql.as_str()), (Phase::Cutover, "COMMENT ON CONSTRAINT k ON public.t IS 'a foreign key'"));
    }

    #[test]
    fn b_3_an_identity_is_by_default_until_the_cutover() {
        let sql = "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.t_id_seq START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1);";
        let found = one(sql, &Plan::default());
        assert_eq!(found[0].phase, Phase::Cutover);
        assert!(found[0].sql.ends_with("set generated always"));
        assert_eq!(found[1].sql, sql.trim_end_matches(';').replace("ALWAYS", "BY DEFAULT"));
        // Words that the printer of the parser does not know stay, and names are no key words.
        let sql = "ALTER TABLE public.\"GENERATED ALWAYS\" ALTER COLUMN generated ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.s
    UNLOGGED
)";
        assert_eq!(one(sql, &Plan::default())[1].sql, sql.replace("ADD GENERATED ALWAYS", "ADD GENERATED BY DEFAULT"));
    }

    #[test]
    fn a_foreign_key_is_not_valid_first_and_validated_later() {
        let found = one("ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) ON DELETE CASCADE;", &Plan::default());
        assert!(found[0].sql.ends_with("NOT VALID") && found[0].sql.contains("CASCADE"), "{}", found[0].sql);
        assert_eq!(found[0].validate.as_deref(), Some("alter table only \"public\".\"t\" validate constraint \"f\""));
    }

    #[test]
    fn h_3_an_exclusion_constraint_becomes_an_index_where_the_plan_says_so() {
        let dump = "ALTER TABLE ONLY public.events
    ADD CONSTRAINT x EXCLUDE USING gist (room WITH =, during WITH &&) WHERE ((room > 3));
COMMENT ON CONSTRAINT x ON public.events IS 'a rule';";
        let schema = classify(&Dump::from(dump), &plan(KeyChoice::PlainIndex), TARGET).unwrap();
        let found: Vec<&str> = schema.statements.iter().map(|s| s.sql.as_str()).collect();
        assert_eq!(
            found,
            ["CREATE INDEX x ON public.events USING gist (room, during) WHERE room > 3", "comment on index \"public\".\"x\" is 'a rule'"]
        );
        assert_eq!(schema.notes.iter().map(|n| n.hypertable.as_ref().unwrap().to_string()).collect::<Vec<_>>(), ["public.events"]);
        assert!(one(dump, &plan(KeyChoice::Extend))[0].sql.contains("EXCLUDE"));
        let by_time = "ALTER TABLE ONLY public.events ADD CONSTRAINT x EXCLUDE USING gist (room WITH =, ts WITH =);";
        assert!(one(by_time, &plan(KeyChoice::PlainIndex))[0].sql.contains("EXCLUDE"), "rows that exclude each other are in one chunk");
    }

    #[test]
    fn h_22_triggers_of_hypertables_have_no_state() {
        let dump = "
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ begin raise notice '%', TG_TABLE_NAME; return new; end $$;
-- Name: events off; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER off BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events DISABLE TRIGGER off;
-- Name: TRIGGER off ON events; Type: COMMENT; Schema: public; Owner: -
COMMENT ON TRIGGER off ON public.events IS 'off';
ALTER TRIGGER off ON public.events DEPENDS ON EXTENSION citext;
-- Name: events always; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER always BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events ENABLE ALWAYS TRIGGER always;
-- Name: events replica; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER replica BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events ENABLE REPLICA TRIGGER replica;";
        let schema = classify(&Dump::from(dump), &plan(KeyChoice::Extend), TARGET).unwrap();
        let made: Vec<String> = schema.statements.iter().map(|s| s.object.to_string()).collect();
        assert_eq!(made, ["FUNCTION public.f()", "TRIGGER public.events always"]);
        let noted: Vec<String> = schema.notes.iter().map(|n| format!("{}: {}", n.object, n.reason.split(',').next().unwrap())).collect();
        let of_chunk = "TRIGGER public.events always: its function reads TG_TABLE_NAME";
        let ordinary = "TRIGGER public.events always: an ordinary trigger on the target";
        assert_eq!(noted, ["TRIGGER public.events off: left out", of_chunk, ordinary, "TRIGGER public.events replica: left out"]);
        assert_eq!(one(dump, &Plan::default()).len(), 9, "a plain table keeps them all");
    }

    #[test]
    fn the_digest_is_of_what_is_made_before_the_copy() {
        let digest = |sql: &str, plan: &Plan| classify(&Dump::from(sql), plan, TARGET).unwrap().digest;
        let (table, key) = ("CREATE TABLE public.events (id integer, ts date);", "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);");
        let trigger = "CREATE TRIGGER g BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();";
        let (with, without) = (format!("{table}{key}{trigger}"), format!("{table}{key}"));
        assert_eq!(digest(&with, &Plan::default()), digest(&without, &plan(KeyChoice::Extend)));
        assert_ne!(digest(&with, &Plan::default()), digest(&with.replace("integer", "bigint"), &Plan::default()));
        let schema = classify(&Dump::from(with.as_str()), &Plan::default(), TARGET).unwrap();
        assert!(schema.has_digest(&schema.whole_digest) && !schema.has_digest("another"));
    }
}
