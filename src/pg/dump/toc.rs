//! The entries of a verbose dump. Each is headed by the OIDs of its object, so objects are left out whatever their names are.

use pg_query::{
    NodeEnum,
    protobuf::{AlterSeqStmt, RangeVar},
};
use std::collections::HashSet;

use super::ast::{qualified_name, table_of};
use crate::{
    name::TableName,
    pg::catalog::exclusion::{Excluded, ObjectId, PG_CLASS},
};

/// How pg_dump's `--verbose` heads an entry (`_printTocEntry` of pg_backup_archiver.c): `-- TOC entry 215 (class 1259 OID 16385)`, and in
/// the next line what it depends on, where that is known.
const HEAD: &str = "--\n-- TOC entry ";
const DEPENDENCIES: &str = "-- Dependencies:";
/// How the dump heads an entry afterwards, for [`object_of`].
const OBJECT: &str = "-- Object: ";

/// The object of an entry: the OIDs of its catalog and its row, among the comments before a statement. Without them it is a part of another
/// object, such as a comment.
pub(super) fn object_of(comments: &str) -> Option<ObjectId> {
    let (class, oid) = comments.lines().rev().find_map(|line| line.strip_prefix(OBJECT))?.split_once(' ')?;
    Some((class.parse().ok()?, oid.parse().ok()?))
}

/// The dump without the entries of what is left out, and without what differs from dump to dump.
pub(super) fn in_scope(text: &str, excluded: &Excluded) -> String {
    let mut left_out: HashSet<&str> = HashSet::new();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    if let Some(start) = text.find(HEAD) {
        kept.extend(text[..start].split_inclusive('\n').filter(|l| !l.starts_with("-- Started on ")));
        rest = &text[start..];
    }
    while let Some(entry) = rest.strip_prefix(HEAD) {
        let end = entry.find(&format!("\n{HEAD}")).map_or(entry.len(), |n| n + 1);
        rest = &entry[end..];
        let (head, body) = entry[..end].split_once('\n').unwrap_or((&entry[..end], ""));
        let numbers: Vec<&str> = head.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect();
        let &[id, class, oid] = &numbers[..] else {
            kept.push_str(HEAD);
            kept.push_str(&entry[..end]);
            continue;
        };
        let (depends_on, body) = match body.strip_prefix(DEPENDENCIES).and_then(|b| b.split_once('\n')) {
            Some((list, body)) => (list, body),
            None => ("", body),
        };
        let object = (class.parse().unwrap_or(0), oid.parse().unwrap_or(0));
        let is_out = match object {
            // A comment, or a part of something: what it depends on decides, or what it names.
            (0, 0) => depends_on.split_whitespace().any(|d| left_out.contains(d)) || names_left_out(body, excluded),
            // Row security of a table.
            (0, table) => excluded.has((PG_CLASS, table)),
            object => excluded.has(object),
        };
        if is_out {
            left_out.insert(id);
            kept.push_str(settings_at_the_end(body));
            continue;
        }
        kept.push_str("--\n");
        if object.0 != 0 {
            kept.extend([OBJECT, class, " ", oid, "\n"]);
        }
        kept.extend(body.split_inclusive('\n').filter(|l| !l.starts_with("-- Completed on ")));
    }
    kept + rest
}

/// pg_dump sets tablespace and access method before the head of the entry that needs them, which is at the end of the one before.
fn settings_at_the_end(body: &str) -> &str {
    let mut start = body.len();
    for line in body.split_inclusive('\n').rev() {
        if !line.trim().is_empty() && !line.starts_with("SET default_") {
            break;
        }
        start -= line.len();
    }
    &body[start..]
}

/// Attaching a partition to a table or an index, or a sequence to a column of a table.
fn names_left_out(sql: &str, excluded: &Excluded) -> bool {
    if excluded.is_empty() {
        return false;
    }
    let Ok(parsed) = pg_query::parse(sql, pg_query::ParserOptions::default()) else { return false };
    parsed.protobuf.stmts.iter().filter_map(|s| s.stmt.as_ref()?.node.as_ref()).any(|node| match node {
        NodeEnum::AlterTableStmt(s) => {
            let is_out = |r: &RangeVar| table_of(Some(r)).is_some_and(|table| excluded.has_relation(&table));
            s.relation.as_ref().is_some_and(is_out) || s.cmds.iter().filter_map(attached).any(is_out)
        }
        NodeEnum::AlterSeqStmt(s) => owner(s).is_some_and(|table| excluded.has_relation(&table)),
        _ => false,
    })
}

/// The partition of `ATTACH PARTITION`.
fn attached(command: &pg_query::Node) -> Option<&RangeVar> {
    let Some(NodeEnum::AlterTableCmd(command)) = &command.node else { return None };
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::PartitionCmd(partition) => partition.name.as_ref(),
        _ => None,
    }
}

/// The table of `OWNED BY schema.table.column`.
fn owner(s: &AlterSeqStmt) -> Option<TableName> {
    s.options.iter().find_map(|option| {
        let Some(NodeEnum::DefElem(element)) = &option.node else { return None };
        match qualified_name(element.arg.as_deref())[..] {
            [schema, table, _] if element.defname == "owned_by" => Some(TableName::new(schema, table)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--
-- PostgreSQL database dump
--

-- Started on 2026-11-23 06:29:49 UTC

SET client_encoding = 'UTF8';

--
-- TOC entry 217 (class 1259 OID 50)
-- Name: t; Type: TABLE; Schema: s; Owner: -
--

CREATE TABLE s.\"a; \"\"b\" (id integer);


SET default_table_access_method = other;

--
-- TOC entry 3387 (class 0 OID 0)
-- Dependencies: 217
-- Name: TABLE t; Type: COMMENT; Schema: s; Owner: -
--

COMMENT ON TABLE s.\"a; \"\"b\" IS 'c';


--
-- TOC entry 215 (class 1259 OID 51)
-- Name: q; Type: SEQUENCE; Schema: s; Owner: -
--

CREATE SEQUENCE s.q;


--
-- TOC entry 3388 (class 0 OID 0)
-- Dependencies: 215
-- Name: q; Type: SEQUENCE OWNED BY; Schema: s; Owner: -
--

ALTER SEQUENCE s.q OWNED BY s.\"a; \"\"b\".id;


--
-- TOC entry 3216 (class 0 OID 0)
-- Name: p1; Type: TABLE ATTACH; Schema: s; Owner: -
--

ALTER TABLE ONLY s.\"a; \"\"b\" ATTACH PARTITION s.p1 FOR VALUES FROM (1) TO (10);


--
-- TOC entry 3380 (class 0 OID 50)
-- Dependencies: 217
-- Name: c; Type: ROW SECURITY; Schema: s; Owner: -
--

ALTER TABLE s.\"a; \"\"b\" ENABLE ROW LEVEL SECURITY;


-- Completed on 2026-11-23 06:29:49 UTC

--
-- PostgreSQL database dump complete
--
";

    #[test]
    fn n_1_what_belongs_to_a_table_that_is_left_out_goes_with_it_whatever_its_name() {
        let statements = |text: &str| text.lines().filter(|l| !l.is_empty() && !l.starts_with("--")).map(str::to_owned).collect::<Vec<_>>();
        let all = in_scope(DUMP, &Excluded::default());
        assert_eq!(statements(&all), statements(DUMP));
        assert!(!all.contains("2026") && !all.contains("TOC entry") && !all.contains("Dependencies"), "{all}");
        let table = Excluded::from_objects(&[(PG_CLASS, 50)], &[TableName::new("s", "a; \"b")]);
        assert_eq!(
            statements(&in_scope(DUMP, &table)),
            ["SET client_encoding = 'UTF8';", "SET default_table_access_method = other;", "CREATE SEQUENCE s.q;"]
        );
        let sequence = Excluded::from_objects(&[(PG_CLASS, 51)], &[TableName::new("s", "q")]);
        let left = in_scope(DUMP, &sequence);
        assert!(!left.contains("SEQUENCE") && left.contains("COMMENT ON TABLE") && left.contains("ATTACH") && left.contains("ENABLE ROW"), "{left}");
    }
}
