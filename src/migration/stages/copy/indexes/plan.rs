//! In which order the indexes and keys of a relation are built, and what may be built at the same time. Pure.
//!
//! CREATE INDEX takes a SHARE lock, which other SHARE locks do not conflict with. ADD CONSTRAINT takes ACCESS EXCLUSIVE, which waits for
//! all of them and blocks those that come later. So the two never run at the same time on one table, and a key of a plain table is built
//! as an index, which the constraint then takes over.

use std::collections::{HashMap, VecDeque};

use crate::{
    name::TableName,
    pg::{
        dump::{
            Phase, Statement,
            index_build::{self, Build},
        },
        ledger,
    },
};

/// One statement as it is run, and its entry in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildStep {
    /// For people: `CONSTRAINT public.orders orders_pkey`.
    pub object: String,
    /// Name of the index that it builds; `None` for a constraint that takes over an index that exists.
    pub index: Option<String>,
    pub table: Option<TableName>,
    pub sql: String,
    /// The ledger identifies the statement by it.
    pub digest: String,
    /// Digest of the statement that needs this one. When this one is skipped, that one is skipped, too.
    pub needed_by: Option<String>,
}

impl BuildStep {
    pub fn new(statement: &Statement) -> Self {
        Self {
            object: statement.object.to_string(),
            index: Some(statement.makes.clone().unwrap_or_else(|| statement.object.to_string())),
            table: statement.table.clone(),
            sql: statement.sql.trim_end_matches(';').to_owned(),
            digest: statement.digest(),
            needed_by: None,
        }
    }

    /// Divides a key into its index and the constraint that takes the index over. The ledger knows the constraint by the digest of the
    /// dump's statement.
    fn split(statement: &Statement, index: String, take_over: String) -> (Self, Self) {
        let constraint = Self { index: None, sql: take_over, ..Self::new(statement) };
        let made = Statement { sql: index, ..statement.clone() };
        (Self { needed_by: Some(constraint.digest.clone()), ..Self::new(&made) }, constraint)
    }

    /// The statement with its entry in the ledger, for one transaction.
    pub fn recorded(&self) -> String {
        format!("{};\n{}", self.sql, ledger::record_ddl(Phase::Index.as_str(), &self.object, &self.digest))
    }

    /// The statement that records the step as skipped by the operator, and the step that needs it.
    pub fn skipped(&self, reason: &str) -> String {
        let entry = |digest: &String| ledger::skip_ddl(Phase::Index.as_str(), &self.object, digest, &format!("skipped by the operator: {reason}"));
        std::iter::once(&self.digest).chain(&self.needed_by).map(entry).collect::<Vec<_>>().join(";\n")
    }
}

/// Steps that may run at the same time.
pub type BuildWave = Vec<BuildStep>;

/// The waves of each table of a relation (itself, or its leaves). The waves of one table run one after the other, those of different tables
/// independently. The statements keep their order where possible. `divided`: a hypertable or a partition root, which cannot take over an
/// index that exists (H-2).
pub fn waves(relation: &TableName, statements: &[Statement], divided: bool) -> Vec<VecDeque<BuildWave>> {
    let mut tables: Vec<(&Option<TableName>, Vec<&Statement>)> = Vec::new();
    let mut places = HashMap::new();
    for s in statements {
        let place = *places.entry(&s.table).or_insert(tables.len());
        match tables.get_mut(place) {
            Some((_, own)) => own.push(s),
            None => tables.push((&s.table, vec![s])),
        }
    }
    tables.iter().map(|(table, own)| table_waves(own, divided && table.as_ref() == Some(relation))).collect()
}

/// Whether ANALYZE may run before these statements, because none is an index on an expression. A statement that is not understood may be
/// one.
pub fn allow_analyze_first(statements: &[Statement]) -> bool {
    statements.iter().all(|s| matches!(index_build::build_of(&s.sql), Build::Index { on_expressions: false } | Build::Key { .. }))
}

/// Puts the statements of a relation, and of its leaves, in the order in which they are built.
pub fn identity_first(mut statements: Vec<Statement>, identity_index: Option<&str>) -> Vec<Statement> {
    // A stable sort: the identity's index first, the order of the dump otherwise.
    statements.sort_by_key(|s| s.makes.as_deref() != identity_index || identity_index.is_none());
    statements
}

fn table_waves(statements: &[&Statement], direct: bool) -> VecDeque<BuildWave> {
    let (mut shared, mut take_overs, mut alone) = (BuildWave::new(), Vec::new(), Vec::new());
    let splits = !direct && statements.len() > 1;
    for s in statements {
        match index_build::build_of(&s.sql) {
            Build::Index { .. } => shared.push(BuildStep::new(s)),
            Build::Key { index, take_over } if splits => {
                let (index, constraint) = BuildStep::split(s, index, take_over);
                shared.push(index);
                take_overs.push(vec![constraint]);
            }
            Build::Key { .. } | Build::Constraint => alone.push(vec![BuildStep::new(s)]),
        }
    }
    // The identity's index comes first: it is one of the keys, if there are keys.
    let waves: Vec<BuildWave> =
        if direct { alone.into_iter().chain([shared]).collect() } else { std::iter::once(shared).chain(take_overs).chain(alone).collect() };
    waves.into_iter().filter(|wave| !wave.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(table: &str, name: &str, sql: &str) -> Statement {
        Statement {
            phase: Phase::Index,
            object: format!("X {name}").into(),
            table: Some(TableName::new("s", table)),
            makes: Some(name.into()),
            sql: sql.replace("$T", &format!("s.{table}")).replace("$N", name),
            validate: None,
            roles: Vec::new(),
            member_of: Vec::new(),
            secret: false,
        }
    }

    fn key(table: &str, name: &str) -> Statement {
        statement(table, name, "ALTER TABLE ONLY $T ADD CONSTRAINT $N PRIMARY KEY (a);")
    }

    fn index(table: &str, name: &str) -> Statement {
        statement(table, name, "CREATE INDEX $N ON $T USING btree (b);")
    }

    fn exclusion(table: &str, name: &str) -> Statement {
        statement(table, name, "ALTER TABLE ONLY $T ADD CONSTRAINT $N EXCLUDE USING gist (c WITH &&);")
    }

    /// `i:name` builds an index, `k:name` only takes one over, `|` separates waves.
    fn shown(statements: &[Statement], divided: bool) -> Vec<String> {
        let step = |s: &BuildStep| s.index.as_ref().map_or_else(|| format!("k:{}", &s.object[2..]), |i| format!("i:{i}"));
        let wave = |w: &BuildWave| w.iter().map(step).collect::<Vec<_>>().join(" ");
        let table = |waves: &VecDeque<BuildWave>| waves.iter().map(wave).collect::<Vec<_>>().join(" | ");
        waves(&TableName::new("s", "t"), statements, divided).iter().map(table).collect()
    }

    #[test]
    fn indexes_of_a_plain_table_are_built_together_and_its_keys_take_them_over() {
        let all = [key("t", "k"), index("t", "i"), exclusion("t", "x"), index("t", "j")];
        assert_eq!(shown(&all, false), ["i:k i:i i:j | k:k | i:x"]);
        // A single key is not divided.
        assert_eq!(shown(&all[..1], false), ["i:k"]);
        assert_eq!(waves(&TableName::new("s", "t"), &all[..1], false)[0][0][0].sql, all[0].sql.trim_end_matches(';'));
    }

    #[test]
    fn h_2_keys_of_hypertables_and_partition_roots_are_made_directly_and_first() {
        assert_eq!(shown(&[key("t", "k"), index("t", "i"), index("t", "j")], true), ["i:k | i:i i:j"]);
        let partitioned = [key("t", "k"), index("t", "i"), key("leaf", "lk"), index("leaf", "li"), key("other", "ok")];
        assert_eq!(shown(&partitioned, true), ["i:k | i:i", "i:lk i:li | k:lk", "i:ok"]);
    }

    #[test]
    fn analyze_may_run_before_indexes_that_have_no_statistics() {
        let expression = statement("t", "e", "CREATE INDEX $N ON $T USING btree (lower(b));");
        let cases = [(vec![], true), (vec![key("t", "k"), index("t", "i")], true), (vec![expression], false), (vec![exclusion("t", "x")], false)];
        for (statements, expected) in cases {
            assert_eq!(allow_analyze_first(&statements), expected, "{statements:?}");
        }
    }

    #[test]
    fn the_ledger_knows_a_key_by_the_statement_of_the_dump() {
        let statements = [key("t", "k"), index("t", "i")];
        let table = &waves(&TableName::new("s", "t"), &statements, false)[0];
        assert_eq!(table[1][0].digest, statements[0].digest());
        assert_ne!(table[0][0].digest, statements[0].digest());
        // Without its index the key is skipped, too.
        assert!(table[0][0].skipped("").contains(&statements[0].digest()));
    }
}
