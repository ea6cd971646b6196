//! Reading, making and printing nodes of PostgreSQL's parse tree.

use pg_query::{
    DeparseOptions, Node, NodeEnum, ParserOptions,
    protobuf::{IndexElem, RangeVar, SortByDir, SortByNulls},
};

use crate::{
    error::{Error, Result},
    name::TableName,
};

/// The first statement of a text; `None` when the parser does not know it.
pub(super) fn parse_one(sql: &str) -> Option<NodeEnum> {
    pg_query::parse(sql, ParserOptions::default()).ok()?.protobuf.stmts.into_iter().next()?.stmt?.node
}

pub(super) fn deparse(node: &NodeEnum) -> Result<String> {
    node.deparse(DeparseOptions::default()).map_err(|e| Error::failed(format!("cannot print an edited statement: {e}")))
}

pub(super) fn table_of(relation: Option<&RangeVar>) -> Option<TableName> {
    relation.map(|r| TableName::new(&r.schemaname, &r.relname))
}

pub(super) fn text_of(node: &Node) -> Option<&str> {
    if let Some(NodeEnum::String(s)) = &node.node { Some(&s.sval) } else { None }
}

/// The strings of a list of nodes, such as the columns of a key.
pub(super) fn texts_of(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(text_of).collect()
}

/// The parts of a name, such as schema, table and constraint.
pub(super) fn qualified_name(object: Option<&Node>) -> Vec<&str> {
    if let Some(NodeEnum::List(list)) = object.and_then(|o| o.node.as_ref()) { texts_of(&list.items) } else { Vec::new() }
}

pub(super) fn string_node(text: &str) -> Node {
    Node { node: Some(NodeEnum::String(pg_query::protobuf::String { sval: text.to_owned() })) }
}

/// The name of a plain column of an index; `None` for an expression.
pub(super) fn index_column(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::IndexElem(e) if !e.name.is_empty() => Some(&e.name),
        _ => None,
    }
}

/// A plain column as an element of an index.
pub(super) fn index_element(column: &str) -> Node {
    let element = IndexElem {
        name: column.to_owned(),
        ordering: SortByDir::SortbyDefault as i32,
        nulls_ordering: SortByNulls::SortbyNullsDefault as i32,
        ..IndexElem::default()
    };
    Node { node: Some(NodeEnum::IndexElem(Box::new(element))) }
}
