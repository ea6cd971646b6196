//! The schema as pg_dump prints it, taken apart statement by statement and understood with PostgreSQL's own parser.

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableStmt, AlterTableType, ConstrType, Constraint, RangeVar},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{path::PathBuf, process::Stdio};

use super::conninfo::Conninfo;
use crate::{
    error::{Error, Result},
    name::TableName,
    plan::{KeyChoice, Plan},
};

/// When a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Before the copy: types, functions, tables, sequences, views.
    PreData,
    /// After a table's copy: its indexes, primary key, unique and exclusion constraints.
    Index,
    /// After all indexes: what builds on them (statistics, comments, clustering, views that need a key).
    PostIndex,
    /// At the cutover: foreign keys, triggers, rules, policies, event triggers.
    Cutover,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::Index => "index",
            Self::PostIndex => "post-index",
            Self::Cutover => "cutover",
        }
    }
}

/// One statement of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub phase: Phase,
    /// For people: `INDEX public.orders_created_idx`.
    pub object: String,
    /// The table an index or constraint belongs to.
    pub table: Option<TableName>,
    /// Name of the index or constraint that it makes.
    pub makes: Option<String>,
    pub sql: String,
    /// For a foreign key that was made NOT VALID: the statement that validates it after the cutover.
    pub validate: Option<String>,
}

impl Statement {
    /// SHA-256 of the text, hexadecimal: the ledger knows a statement by it.
    pub fn digest(&self) -> String {
        let hash = Sha256::digest(self.sql.as_bytes());
        hash.iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// A pg_dump program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgDump {
    pub path: PathBuf,
    pub major: u32,
}

/// All pg_dump programs of this machine, the lowest version first.
pub async fn installed() -> Vec<PgDump> {
    let mut candidates: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin/pg_dump")).filter(|p| p.exists()).collect())
        .unwrap_or_default();
    candidates.push("pg_dump".into());
    let mut found: Vec<PgDump> = Vec::new();
    for path in candidates {
        let Ok(output) = tokio::process::Command::new(&path).arg("--version").stderr(Stdio::null()).output().await else { continue };
        // "pg_dump (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split(") ").nth(1).and_then(|v| v.split(['.', ' ', 'b', 'r']).next()).and_then(|v| v.trim().parse().ok());
        if let Some(major) = version
            && !found.iter().any(|f| f.major == major)
        {
            found.push(PgDump { path, major });
        }
    }
    found.sort_by_key(|p| p.major);
    found
}

/// The oldest one that can dump a server of this major version.
pub fn choose(installed: &[PgDump], major: u32) -> Option<&PgDump> {
    installed.iter().find(|p| p.major >= major)
}

/// A section of the dump of the schema, cleaned of psql's meta commands.
async fn run(program: &PgDump, source: &Conninfo, section: &str) -> Result<String> {
    let output = tokio::process::Command::new(&program.path)
        .args([
            "--schema-only", "--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions", "--no-tablespaces", "--no-security-labels",
        ])
        .args(["--lock-wait-timeout=30s", "--section", section, "--exclude-schema=_hyperlift"])
        .env_clear()
        .envs(std::env::vars().filter(|(k, _)| matches!(k.as_str(), "PATH" | "HOME" | "LANG" | "LC_ALL" | "TZ")))
        .envs(source.child_env())
        .env("PGAPPNAME", "hyperlift/pg_dump")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::failed(format!("cannot run {}: {e}", program.path.display())).hint("install the PostgreSQL client programs"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|l| l.contains("error:")).unwrap_or_else(|| text.lines().next().unwrap_or("it said nothing"));
        return Err(Error::failed(format!("pg_dump of the source failed: {}", line.trim_start_matches("pg_dump: error: ")))
            .hint("the schema is dumped with the source's own user: it must be able to read every table's definition"));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| Error::failed("pg_dump printed text that is not UTF-8").hint("set client_encoding of the source database to UTF8"))?;
    Ok(clean(&text))
}

/// Takes out psql's meta commands: `\restrict TOKEN` of the header and the `\unrestrict` of the same token. Other lines that look like
/// them stand in texts and bodies of functions; pg_dump writes no others.
fn clean(text: &str) -> String {
    let mut header = text.lines().take_while(|l| l.is_empty() || l.starts_with("--") || l.starts_with('\\'));
    let token = header.find_map(|l| l.strip_prefix("\\restrict ")).map(str::trim);
    let command = |line: &str| token.is_some_and(|t| ["\\restrict ", "\\unrestrict "].iter().any(|c| line.strip_prefix(c).map(str::trim) == Some(t)));
    // Line ends stay as they are: a function's body may have carriage returns.
    text.split_inclusive('\n').filter(|l| !command(l)).collect()
}

/// The whole schema, in the order of the dump; with a digest by which a changed schema is noticed.
pub async fn schema(program: &PgDump, source: &Conninfo, plan: &Plan) -> Result<Schema> {
    let mut statements = Vec::new();
    let mut hash = Sha256::new();
    for (section, phase) in [("pre-data", Phase::PreData), ("post-data", Phase::PostIndex)] {
        let text = run(program, source, section).await?;
        hash.update(text.as_bytes());
        let plan = plan.clone();
        let part = tokio::task::spawn_blocking(move || understand(&text, phase, &plan)).await.expect("parsing does not panic")?;
        statements.extend(part);
    }
    let digest = hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    Ok(Schema { statements, digest })
}

pub struct Schema {
    pub statements: Vec<Statement>,
    pub digest: String,
}

/// Splits a section and sorts its statements into phases; `default` is the phase of what needs no other.
fn understand(text: &str, default: Phase, plan: &Plan) -> Result<Vec<Statement>> {
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

fn table_of(relation: Option<&RangeVar>) -> Option<TableName> {
    relation.map(|r| TableName::new(&r.schemaname, &r.relname))
}

fn deparse(node: &NodeEnum) -> Result<String> {
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

fn index_column(node: &pg_query::Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::IndexElem(e) if !e.name.is_empty() => Some(&e.name),
        _ => None,
    }
}

fn index_element(column: &str) -> pg_query::Node {
    use pg_query::protobuf::{IndexElem, SortByDir, SortByNulls};
    let element = IndexElem {
        name: column.to_owned(),
        ordering: SortByDir::SortbyDefault as i32,
        nulls_ordering: SortByNulls::SortbyNullsDefault as i32,
        ..IndexElem::default()
    };
    pg_query::Node { node: Some(NodeEnum::IndexElem(Box::new(element))) }
}

fn string_node(text: &str) -> pg_query::Node {
    pg_query::Node { node: Some(NodeEnum::String(pg_query::protobuf::String { sval: text.to_owned() })) }
}

/// `ALTER TABLE`: keys, foreign keys, identities, triggers' states. ONLY is refused on hypertables (H-1).
fn alter_table(out: &mut Vec<Statement>, mut s: AlterTableStmt, mut statement: Statement, plan: &Plan) -> Result<()> {
    statement.table = table_of(s.relation.as_ref());
    let hypertable = statement.table.as_ref().and_then(|t| plan.hypertable(t));
    let mut edited = false;
    // pg_dump writes ONLY for every table but a partitioned one.
    let partitioned = s.relation.as_ref().is_some_and(|r| r.inh);
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
                        if !c.skip_validation && !partitioned {
                            c.skip_validation = true;
                            c.initially_valid = false;
                            let only = if hypertable.is_some() { "" } else { "only " };
                            statement.validate =
                                Some(format!("alter table {only}{} validate constraint {}", table.sql(), crate::name::ident(&c.conname)));
                            edited = true;
                        }
                    }
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
                out.push(Statement {
                    phase: Phase::Cutover,
                    object: format!("IDENTITY {table}.{}", command.name),
                    table: None,
                    makes: None,
                    sql: format!("alter table {} alter column {column} set generated always", table.sql()),
                    validate: None,
                });
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
fn replica_index(command: &pg_query::protobuf::AlterTableCmd) -> Option<&str> {
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::ReplicaIdentityStmt(r) if !r.name.is_empty() => Some(&r.name),
        _ => None,
    }
}

/// The parts of a name such as schema, table and constraint.
fn qualified_name(object: Option<&pg_query::Node>) -> Vec<&str> {
    let Some(NodeEnum::List(list)) = object.and_then(|o| o.node.as_ref()) else { return Vec::new() };
    list.items.iter().filter_map(|n| if let Some(NodeEnum::String(s)) = &n.node { Some(s.sval.as_str()) } else { None }).collect()
}

/// Whether this key of the source has become an index that is not unique.
fn is_plain_index(statements: &[Statement], table: &TableName, name: &str) -> bool {
    let makes = |s: &&Statement| s.phase == Phase::Index && s.table.as_ref() == Some(table) && s.makes.as_deref() == Some(name);
    statements.iter().find(makes).is_some_and(|s| s.sql.to_lowercase().starts_with("create index "))
}

/// A key that cannot be unique on the hypertable, as an index of its name.
fn plain_index(table: Option<&TableName>, c: &Constraint) -> String {
    let columns: Vec<&str> =
        c.keys.iter().filter_map(|k| if let Some(NodeEnum::String(s)) = &k.node { Some(s.sval.as_str()) } else { None }).collect();
    format!("create index {} on {} ({})", crate::name::ident(&c.conname), table.map(TableName::sql).unwrap_or_default(), crate::name::idents(columns))
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
    fn meta_commands_are_taken_out_and_only_they() {
        let function = "select 1;\ncreate function f() as $$\n\\restrict x\n\\connect other\r\n\\unrestrict other\n$$;\n";
        assert_eq!(clean(&format!("--\n-- dump\n--\n\n\\restrict abc\n{function}\\unrestrict abc\n")), format!("--\n-- dump\n--\n\n{function}"));
        assert_eq!(clean(function), function);
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
