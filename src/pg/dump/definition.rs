//! How the definition of an object is read back from a database, so that two databases can be compared.

use pg_query::{
    NodeEnum, ParserOptions,
    protobuf::{AlterTableStmt, AlterTableType, ObjectType, RangeVar},
};

use super::ast::{table_of, texts_of};
use crate::{
    name::{TableName, ident, literal},
    pg::object::ObjectRef,
};

/// The query for the definition of the object that a statement of the dump creates, as one text; NULL where there is none. `None` for kinds
/// of objects whose definition PostgreSQL does not print.
pub fn definition_query(object: &ObjectRef, sql: &str) -> Option<String> {
    let parsed = pg_query::parse(sql, ParserOptions::default()).ok()?;
    parsed.protobuf.stmts.into_iter().filter_map(|s| s.stmt?.node).find_map(|node| query_for(object, &node))
}

fn query_for(object: &ObjectRef, node: &NodeEnum) -> Option<String> {
    let expression = match node {
        NodeEnum::IndexStmt(s) => {
            let index = TableName::new(&s.relation.as_ref()?.schemaname, &s.idxname);
            // An invalid one is as good as none, but that of a partitioned table is valid only with its last part.
            format!(
                "(select pg_get_indexdef(c.oid) from pg_index i join pg_class c on c.oid = i.indexrelid
                   where c.oid = {} and (i.indisvalid or c.relkind = 'I'))",
                regclass(&index)
            )
        }
        NodeEnum::AlterTableStmt(s) => {
            let (table, name) = (regclass(&table_of(s.relation.as_ref())?), literal(&added_constraint(s)?));
            // Whether it is validated is another statement's matter.
            let definition = "replace(pg_get_constraintdef(oid), ' NOT VALID', '')";
            format!("(select {definition} from pg_constraint where conrelid = {table} and conname = {name})")
        }
        NodeEnum::ViewStmt(s) => view(s.view.as_ref()?),
        NodeEnum::CreateTableAsStmt(s) if s.objtype == ObjectType::ObjectMatview as i32 => view(s.into.as_ref()?.rel.as_ref()?),
        NodeEnum::CreateFunctionStmt(s) => {
            let &[schema, _] = &texts_of(&s.funcname)[..] else { return None };
            // pg_dump names it with the types of its arguments.
            let (_, signature) = object.name.split_once(&format!("{schema}."))?;
            format!("pg_get_functiondef(to_regprocedure({}))", literal(&format!("{}.{signature}", ident(schema))))
        }
        NodeEnum::CreateTrigStmt(s) => {
            let table = regclass(&table_of(s.relation.as_ref())?);
            format!(
                "(select pg_get_triggerdef(oid) from pg_trigger where tgrelid = {table} and tgname = {} and not tgisinternal)",
                literal(&s.trigname)
            )
        }
        NodeEnum::RuleStmt(s) => {
            let table = regclass(&table_of(s.relation.as_ref())?);
            format!("(select pg_get_ruledef(oid) from pg_rewrite where ev_class = {table} and rulename = {})", literal(&s.rulename))
        }
        NodeEnum::CreateStatsStmt(s) => {
            let &[schema, name] = &texts_of(&s.defnames)[..] else { return None };
            let (schema, name) = (literal(schema), literal(name));
            format!(
                "(select pg_get_statisticsobjdef(oid) from pg_statistic_ext where stxnamespace = to_regnamespace(quote_ident({schema})) and stxname = {name})"
            )
        }
        NodeEnum::CreatePolicyStmt(s) => {
            let table = regclass(&table_of(s.table.as_ref())?);
            format!(
                "(select row(polcmd, polpermissive, array(select rolname from pg_roles where oid = any(polroles) order by 1),
                             pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))::text
                    from pg_policy where polrelid = {table} and polname = {})",
                literal(&s.policy_name)
            )
        }
        _ => return None,
    };
    Some(format!("select {expression} as definition"))
}

fn view(relation: &RangeVar) -> String {
    let oid = regclass(&TableName::new(&relation.schemaname, &relation.relname));
    format!("(select relkind::text || pg_get_viewdef(oid) from pg_class where oid = {oid} and relkind in ('v', 'm'))")
}

fn regclass(name: &TableName) -> String {
    format!("to_regclass({})", literal(&name.sql()))
}

fn added_constraint(s: &AlterTableStmt) -> Option<String> {
    let Some(NodeEnum::AlterTableCmd(command)) = &s.cmds.first()?.node else { return None };
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::Constraint(c) if command.subtype == AlterTableType::AtAddConstraint as i32 => Some(c.conname.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_has_the_query_of_its_object() {
        for (object, sql, part) in [
            ("INDEX s.i", "CREATE UNIQUE INDEX i ON s.\"T t\" USING btree (a)", "to_regclass('\"s\".\"i\"')"),
            ("CONSTRAINT s.t k", "ALTER TABLE ONLY s.t ADD CONSTRAINT k PRIMARY KEY (a)", "conrelid = to_regclass('\"s\".\"t\"') and conname = 'k'"),
            ("CONSTRAINT s.t k", "ALTER TABLE s.t ADD CONSTRAINT k PRIMARY KEY USING INDEX k", "conname = 'k'"),
            ("MATERIALIZED VIEW s.m", "CREATE MATERIALIZED VIEW s.m AS SELECT 1 WITH NO DATA", "pg_get_viewdef"),
            ("VIEW s.v", "CREATE OR REPLACE VIEW s.v AS SELECT 1", "to_regclass('\"s\".\"v\"')"),
            (
                "FUNCTION s.f(integer, text)",
                "CREATE FUNCTION s.f(a integer, b text) RETURNS int LANGUAGE sql AS $$ select 1 $$",
                "to_regprocedure('\"s\".f(integer, text)')",
            ),
            ("TRIGGER s.t g", "CREATE TRIGGER g BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f()", "tgname = 'g'"),
            ("RULE s.t r", "CREATE RULE r AS ON INSERT TO s.t DO INSTEAD NOTHING", "rulename = 'r'"),
            ("STATISTICS s.st", "CREATE STATISTICS s.st ON a, b FROM s.t", "stxname = 'st'"),
            ("POLICY s.t p", "CREATE POLICY p ON s.t USING (true)", "polname = 'p'"),
        ] {
            let query = definition_query(&object.into(), sql).unwrap_or_default();
            assert!(query.contains(part), "{sql}: {query}");
        }
        assert_eq!(definition_query(&"TABLE s.t".into(), "CREATE TABLE s.t (a integer)"), None);
        assert_eq!(definition_query(&"TABLE ATTACH s.p".into(), "ALTER TABLE ONLY s.t ATTACH PARTITION s.p DEFAULT"), None);
    }
}
