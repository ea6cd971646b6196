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
mod tests;
