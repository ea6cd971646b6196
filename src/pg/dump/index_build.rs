//! A primary key or unique constraint in two statements: its index, which may be built at the same time as others of the table, and the constraint
//! that takes it over, which is only an entry in the catalog (PostgreSQL documentation, ALTER TABLE, ADD table_constraint_using_index).

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableStmt, ConstrType, Constraint, IndexStmt},
};

use super::ast::{deparse, index_element, parse_one, texts_of};

/// How an index or constraint of a schema dump may be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Build {
    /// CREATE INDEX: locks the table against writers only, so several may be built at the same time. Where it has expressions, ANALYZE
    /// gathers statistics of them once it exists.
    Index { on_expressions: bool },
    /// A key, as its index and what makes it the key's.
    Key { index: String, take_over: String },
    /// A constraint that builds its own index, such as an exclusion constraint: locks the table against everything.
    Constraint,
}

/// What a statement of the dump builds, and how.
pub fn build_of(sql: &str) -> Build {
    match parse_one(sql) {
        Some(NodeEnum::IndexStmt(s)) => Build::Index { on_expressions: s.index_params.iter().any(is_expression) },
        Some(NodeEnum::AlterTableStmt(s)) => split(s).unwrap_or(Build::Constraint),
        // Its locks are not known.
        _ => Build::Constraint,
    }
}

fn split(mut s: AlterTableStmt) -> Option<Build> {
    let [command] = &mut s.cmds[..] else { return None };
    let Some(NodeEnum::AlterTableCmd(command)) = command.node.as_mut() else { return None };
    let Some(NodeEnum::Constraint(c)) = command.def.as_mut().and_then(|d| d.node.as_mut()) else { return None };
    let is_key = [ConstrType::ConstrPrimary, ConstrType::ConstrUnique].iter().any(|t| *t as i32 == c.contype);
    if !is_key || c.without_overlaps || c.keys.is_empty() {
        return None;
    }
    let mut relation = s.relation.clone()?;
    relation.inh = true;
    let index = IndexStmt {
        idxname: c.conname.clone(),
        relation: Some(relation),
        access_method: "btree".into(),
        index_params: texts_of(&c.keys).into_iter().map(index_element).collect(),
        index_including_params: texts_of(&c.including).into_iter().map(index_element).collect(),
        options: std::mem::take(&mut c.options),
        unique: true,
        nulls_not_distinct: c.nulls_not_distinct,
        ..IndexStmt::default()
    };
    **c = Constraint {
        contype: c.contype,
        conname: c.conname.clone(),
        indexname: c.conname.clone(),
        deferrable: c.deferrable,
        initdeferred: c.initdeferred,
        is_enforced: c.is_enforced,
        initially_valid: c.initially_valid,
        ..Constraint::default()
    };
    let index = deparse(&NodeEnum::IndexStmt(Box::new(index))).ok()?;
    Some(Build::Key { index, take_over: deparse(&NodeEnum::AlterTableStmt(s)).ok()? })
}

fn is_expression(element: &pg_query::Node) -> bool {
    matches!(&element.node, Some(NodeEnum::IndexElem(e)) if e.expr.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_index_and_a_constraint_that_takes_it_over() {
        let split = |constraint: &str| match build_of(&format!("ALTER TABLE ONLY public.\"T t\" ADD CONSTRAINT k {constraint};")) {
            Build::Key { index, take_over } => format!("{index} | {take_over}"),
            other => format!("{other:?}"),
        };
        let cases = [
            (
                "PRIMARY KEY (id, \"B b\")",
                "CREATE UNIQUE INDEX k ON public.\"T t\" USING btree (id, \"B b\") | ALTER TABLE ONLY public.\"T t\" ADD CONSTRAINT k PRIMARY KEY USING INDEX k",
            ),
            (
                "UNIQUE NULLS NOT DISTINCT (a) INCLUDE (b, c) WITH (fillfactor=70) DEFERRABLE INITIALLY DEFERRED",
                "CREATE UNIQUE INDEX k ON public.\"T t\" USING btree (a) INCLUDE (b, c) NULLS NOT DISTINCT WITH (fillfactor=70) | ALTER TABLE ONLY public.\"T t\" ADD CONSTRAINT k UNIQUE USING INDEX k DEFERRABLE INITIALLY DEFERRED",
            ),
            ("EXCLUDE USING gist (c WITH &&)", "Constraint"),
            ("CHECK (a > 0)", "Constraint"),
        ];
        for (constraint, expected) in cases {
            assert_eq!(split(constraint), expected);
        }
        let on_expressions =
            |columns: &str| build_of(&format!("CREATE UNIQUE INDEX i ON public.t USING btree ({columns}) WHERE (s = 'it''s'::text)"));
        assert_eq!(on_expressions("a, b DESC"), Build::Index { on_expressions: false });
        assert_eq!(on_expressions("a, lower(b)"), Build::Index { on_expressions: true });
    }
}
