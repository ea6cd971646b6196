//! Which relations a statement names: tables, indexes, views and sequences, wherever they are in its parse tree.

use pg_query::{NodeEnum, ParserOptions};
use serde_json::Value;
use std::collections::HashSet;

use super::ast::{qualified_name, table_of};
use crate::name::TableName;

/// What a statement is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The view, or the table from a query, that it makes.
    pub makes: Option<TableName>,
    /// All relations that it names, that one among them.
    pub relations: HashSet<TableName>,
}

/// The relations that a text of one or more statements names; `None` when the parser does not know it.
pub fn named_relations(sql: &str) -> Option<Named> {
    let parsed = pg_query::parse(sql, ParserOptions::default()).ok()?;
    let mut named = Named::default();
    for node in parsed.protobuf.stmts.into_iter().filter_map(|s| s.stmt?.node) {
        match &node {
            NodeEnum::ViewStmt(s) => named.makes = table_of(s.view.as_ref()),
            NodeEnum::CreateTableAsStmt(s) => named.makes = s.into.as_ref().and_then(|into| table_of(into.rel.as_ref())),
            // It has a list of strings: schema, table, and perhaps a name within the table.
            NodeEnum::CommentStmt(s) => {
                if let [schema, relation, ..] = qualified_name(s.object.as_deref())[..] {
                    named.relations.insert(TableName::new(schema, relation));
                }
            }
            _ => {}
        }
        // A tree of any depth, in bodies of functions, too: as JSON all kinds of nodes are walked in one way.
        collect(&serde_json::to_value(&node).unwrap_or_default(), &mut named.relations);
    }
    Some(named)
}

fn collect(value: &Value, found: &mut HashSet<TableName>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::String(schema)), Some(Value::String(name))) = (fields.get("schemaname"), fields.get("relname")) {
                found.insert(TableName::new(schema, name));
            }
            fields.values().for_each(|field| collect(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_statement_names_its_tables() {
        let t = TableName::new("public", "T t");
        for sql in [
            "ALTER TABLE ONLY public.\"T t\" ADD CONSTRAINT k PRIMARY KEY (id)",
            "ALTER TABLE ONLY public.other ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.\"T t\"(id) NOT VALID",
            "CREATE INDEX i ON public.\"T t\" USING btree (a)",
            "CREATE TRIGGER g BEFORE INSERT ON public.\"T t\" FOR EACH ROW EXECUTE FUNCTION public.f()",
            "CREATE RULE r AS ON INSERT TO public.other DO ALSO INSERT INTO public.\"T t\" DEFAULT VALUES",
            "CREATE POLICY p ON public.other USING ((EXISTS ( SELECT 1 FROM public.\"T t\")))",
            "CREATE STATISTICS public.s ON a, b FROM public.\"T t\"",
            "COMMENT ON TRIGGER g ON public.\"T t\" IS 'x'",
            "COMMENT ON COLUMN public.\"T t\".a IS 'x'",
            "CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.\"T t\"; END",
            "set local role a;\nGRANT SELECT ON public.\"T t\" TO b;\nset local role none",
        ] {
            let named = named_relations(sql).unwrap();
            assert!(named.relations.contains(&t) && named.makes.is_none(), "{sql}: {named:?}");
        }
        for sql in [
            "CREATE VIEW public.v AS SELECT id, count(*) FROM public.\"T t\" GROUP BY id",
            "CREATE MATERIALIZED VIEW public.v AS WITH x AS (SELECT * FROM public.\"T t\") SELECT * FROM x WITH NO DATA",
        ] {
            let named = named_relations(sql).unwrap();
            assert!(named.relations.contains(&t) && named.makes == Some(TableName::new("public", "v")), "{sql}: {named:?}");
        }
        assert_eq!(named_relations("NOT A STATEMENT"), None);
    }
}
