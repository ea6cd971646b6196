//! The tables that are migrated: columns, keys, sizes.

use std::collections::HashMap;

use super::versions;
use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{client::Client, own::in_user_schemas},
    sqlstate,
};

/// A unique index of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    pub name: String,
    pub primary: bool,
    pub columns: Vec<String>,
    /// Unique, immediate, valid, not partial, no expression, all columns NOT NULL and none of them generated (I10).
    pub usable: bool,
    /// Has an expression.
    pub expression: bool,
    /// Some foreign key refers to it.
    pub referenced: bool,
    /// The query of some view or function groups by it, or names it.
    pub in_query: bool,
    /// Name of the constraint it belongs to, if any.
    pub constraint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As `format_type` prints it.
    pub data_type: String,
    pub not_null: bool,
    pub generated: bool,
    pub identity: bool,
}

/// Where the rows of a table of the source are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the table itself. Statements name it with ONLY, because tables that inherit from it are relations of their own. A part of its rows
    /// can be read by their blocks or by ranges of a key.
    Heap,
    /// In the leaves of a partition root. Statements name the root without ONLY, and each leaf may be read under its own name. The leaves
    /// have indexes and replica identities of their own, also those that are added later. Their changes are in the stream under their
    /// names.
    Partitions {
        /// On all levels, those that hold no rows among them.
        count: u32,
    },
}

impl Storage {
    /// `only ` where a statement must not take other tables with it.
    pub fn only(&self) -> &'static str {
        match self {
            Self::Heap => "only ",
            Self::Partitions { .. } => "",
        }
    }

    pub fn is_partitioned(&self) -> bool {
        matches!(self, Self::Partitions { .. })
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        match self {
            Self::Heap => 0,
            Self::Partitions { count } => *count,
        }
    }
}

/// A table of the source that is migrated: plain, or a partition root with all its leaves.
#[derive(Clone, Debug)]
pub struct SourceRelation {
    pub oid: u32,
    pub table: TableName,
    pub storage: Storage,
    pub unlogged: bool,
    /// Heap and TOAST, of all leaves; bytes.
    pub bytes: u64,
    /// By the planner's statistics; 0 when it was never analysed.
    pub rows: u64,
    /// `relreplident`: d, n, f, i
    pub identity: char,
    /// The index of `REPLICA IDENTITY USING INDEX`.
    pub identity_index: Option<String>,
    pub indexes: Vec<UniqueIndex>,
    pub columns: Vec<Column>,
    /// Inherits, or is inherited from, without being partitioned.
    pub inherits: bool,
    pub has_rules: bool,
    pub owned: bool,
    /// REPLICA IDENTITY FULL would not make its updates fail.
    pub full_is_possible: bool,
    /// A leaf without a usable replica identity: the root's is of no use to it.
    pub bare_leaf: Option<TableName>,
    /// A leaf whose key lacks a column by which the rows are divided: another leaf may have a row of the same key.
    pub repeating_leaf: Option<TableName>,
    /// By the cumulative statistics: a table that is changed often.
    pub updated_rows: u64,
    pub deleted_rows: u64,
}

impl SourceRelation {
    pub fn index(&self, name: &str) -> Option<&UniqueIndex> {
        self.indexes.iter().find(|i| i.name == name)
    }

    pub fn primary_key(&self) -> Option<&UniqueIndex> {
        self.indexes.iter().find(|i| i.primary)
    }
}

/// All user tables, the largest first. Leaves are part of their root; tables of extensions are left out.
pub async fn relations(client: &Client) -> Result<Vec<SourceRelation>> {
    read_relations(client, None).await
}

/// Those of these tables that are still there. They may be leaves.
pub async fn relations_of(client: &Client, oids: &[u32]) -> Result<Vec<SourceRelation>> {
    read_relations(client, Some(oids)).await
}

async fn read_relations(client: &Client, only: Option<&[u32]>) -> Result<Vec<SourceRelation>> {
    let full_refuses_generated = full_refuses_generated(client);
    let sql = in_user_schemas(include_str!("relations.sql"));
    // pg_table_size waits for a table that somebody has locked exclusively.
    client.batch_execute("set lock_timeout = '5s'").await?;
    let rows = client.query(&sql, &[&only]).await.map_err(|e| {
        let e = Error::from(e);
        if e.has_code(sqlstate::LOCK_NOT_AVAILABLE) {
            e.hint("a table is locked exclusively (select * from pg_locks where mode = 'AccessExclusiveLock'): start again once the lock is released")
        } else {
            e
        }
    });
    client.batch_execute("set lock_timeout = 0").await?;
    let mut relations: Vec<SourceRelation> = rows?.iter().map(relation_of).collect();
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let place: HashMap<u32, usize> = oids.iter().enumerate().map(|(i, o)| (*o, i)).collect();
    for r in client.query(COLUMNS, &[&oids]).await? {
        let relation = &mut relations[place[&r.get::<_, u32>("oid")]];
        relation.full_is_possible &= !(full_refuses_generated && r.get::<_, bool>("generated"));
        relation.columns.push(Column {
            name: r.get("name"),
            data_type: r.get("data_type"),
            not_null: r.get("not_null"),
            generated: r.get("generated"),
            identity: r.get("identity"),
        });
    }
    for r in client.query(include_str!("unique_indexes.sql"), &[&oids]).await? {
        let relation = &mut relations[place[&r.get::<_, u32>("oid")]];
        let name: String = r.get("name");
        if r.get("replica_identity") {
            relation.identity_index = Some(name.clone());
        }
        relation.indexes.push(UniqueIndex {
            name,
            primary: r.get("is_primary"),
            columns: r.get("columns"),
            usable: r.get("usable"),
            expression: r.get("expression"),
            referenced: r.get("referenced"),
            in_query: r.get("in_query"),
            constraint: r.get("constraint_name"),
        });
    }
    let roots: Vec<u32> = relations.iter().filter(|r| r.storage.is_partitioned()).map(|r| r.oid).collect();
    for leaf in leaf_identities(client, &roots).await? {
        let relation = &mut relations[place[&leaf.root]];
        let first = if leaf.bare { &mut relation.bare_leaf } else { &mut relation.repeating_leaf };
        first.get_or_insert(leaf.table);
    }
    Ok(relations)
}

/// A leaf whose replica identity deserves a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafIdentity {
    /// OID of its root.
    pub root: u32,
    pub table: TableName,
    /// It has no usable one; otherwise another leaf may have a row of the same key.
    pub bare: bool,
}

/// The leaves of these roots whose replica identity is not usable, or may repeat in another leaf.
pub async fn leaf_identities(client: &Client, roots: &[u32]) -> Result<Vec<LeafIdentity>> {
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.query(include_str!("leaf_identities.sql"), &[&roots, &full_refuses_generated(client)]).await?;
    let leaf = |r: &tokio_postgres::Row| LeafIdentity {
        root: r.get("root"),
        table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
        bare: r.get("bare"),
    };
    Ok(rows.iter().map(leaf).collect())
}

fn full_refuses_generated(client: &Client) -> bool {
    client.version() / 10_000 >= versions::FULL_REFUSES_GENERATED
}

/// A relation without its columns and indexes.
fn relation_of(r: &tokio_postgres::Row) -> SourceRelation {
    SourceRelation {
        oid: r.get("oid"),
        table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
        storage: if r.get("partitioned") { Storage::Partitions { count: r.get::<_, i64>("partitions") as u32 } } else { Storage::Heap },
        unlogged: r.get("unlogged"),
        bytes: r.get::<_, i64>("bytes") as u64,
        rows: r.get::<_, i64>("rows") as u64,
        identity: r.get::<_, &str>("identity").chars().next().unwrap_or('d'),
        identity_index: None,
        indexes: Vec::new(),
        columns: Vec::new(),
        inherits: r.get("inherits"),
        has_rules: r.get("has_rules"),
        owned: r.get("owned"),
        full_is_possible: true,
        bare_leaf: None,
        repeating_leaf: None,
        updated_rows: r.get::<_, i64>("updated") as u64,
        deleted_rows: r.get::<_, i64>("deleted") as u64,
    }
}

const COLUMNS: &str = "
    select a.attrelid as oid, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as data_type, a.attnotnull as not_null,
           a.attgenerated <> '' as generated, a.attidentity <> '' as identity
      from pg_attribute a
     where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
     order by a.attrelid, a.attnum";
