//! The columns of one table, as one server describes them.

use tokio_postgres::Row;

use crate::{
    error::Result,
    name::{ident, literal},
    pg::client::Client,
};

/// All that a definition says of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// With its schema and modifier.
    data_type: String,
    /// The same without the schema of an extension, which may be another one on the target.
    compared_type: String,
    /// Where it is not that of the type.
    collation: Option<String>,
    /// `s`: generated and stored, `v`: generated and virtual.
    generated: String,
    /// `a`: generated always, `d`: by default.
    identity: String,
    /// A default, or what it is generated from.
    expression: Option<String>,
    pub not_null: bool,
    /// What sets storage, statistics, compression and options, where they are not those of the type.
    settings: Vec<String>,
    comment: Option<String>,
    /// Of the sequence of an identity, and of those that the default reads or that belong to the column.
    sequences: Vec<Sequence>,
    /// The partitions whose default is another one, or that allow no NULL where the root does: the actions, by name of the partition.
    pub on_leaves: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    name: String,
    /// `as bigint start with 1 …`
    options: String,
    is_identity: bool,
    is_owned: bool,
}

impl Column {
    /// Stored where it is virtual.
    pub fn stored(mut self) -> Self {
        if self.is_generated() {
            self.generated = "s".into();
        }
        self
    }

    pub fn is_generated(&self) -> bool {
        !self.generated.is_empty()
    }

    pub fn has_type_of(&self, other: &Self) -> bool {
        (&self.compared_type, &self.collation) == (&other.compared_type, &other.collation)
    }

    /// Whether it is computed as the other one is.
    pub fn is_generated_as(&self, other: &Self) -> bool {
        self.generated == other.generated && (!self.is_generated() || self.expression == other.expression)
    }

    /// Whether its type counts time, and not numbers.
    pub fn is_time(&self) -> bool {
        !self.data_type.contains("int")
    }

    fn type_clause(&self) -> String {
        let collation = self.collation.as_ref().map_or_else(String::new, |name| format!(" collate {name}"));
        format!("{}{collation}", self.data_type)
    }

    /// The action that adds it. Default and identity come later, because a table that has partitions takes no new column with an identity.
    pub fn add(&self) -> String {
        let (name, data_type) = (ident(&self.name), self.type_clause());
        let not_null = if self.not_null { " not null" } else { "" };
        let generated = self.expression.as_ref().filter(|_| self.is_generated()).map_or_else(String::new, |expression| {
            format!(" generated always as ({expression}) {}", if self.generated == "v" { "virtual" } else { "stored" })
        });
        format!("add column {name} {data_type}{generated}{not_null}")
    }

    /// The action that gives an empty column its type.
    pub fn retype(&self) -> String {
        format!("alter column {} type {} using null::{}", ident(&self.name), self.type_clause(), self.data_type)
    }

    /// The actions that take away what depends on its type: default and identity. `None`: the default may stay.
    pub fn without_default(&self) -> Option<String> {
        let name = ident(&self.name);
        match (&self.expression, self.identity.as_str()) {
            _ if self.is_generated() => None,
            (_, "a" | "d") => Some(format!("alter column {name} drop identity")),
            (Some(_), _) => Some(format!("alter column {name} drop default")),
            (None, _) => None,
        }
    }

    /// Whether default and identity are those of the other one.
    pub fn has_default_of(&self, other: &Self) -> bool {
        self.identity == other.identity && (self.is_generated() || self.expression == other.expression)
    }

    /// The statements that give it default or identity, where it has none.
    pub fn with_default(&self, table: &str) -> Vec<String> {
        let name = ident(&self.name);
        let mut statements = Vec::new();
        if !self.identity.is_empty() {
            let kind = if self.identity == "a" { "always" } else { "by default" };
            let Some(sequence) = self.sequences.iter().find(|s| s.is_identity) else { return statements };
            // The sequence of a default may have the name that the identity takes.
            statements.push(format!("drop sequence if exists {}", sequence.name));
            let options = sequence.options.split_once(" start").map_or("", |(_, rest)| rest);
            statements.push(format!(
                "alter table {table} alter column {name} add generated {kind} as identity (sequence name {} start{options})",
                sequence.name
            ));
        } else if let (false, Some(expression)) = (self.is_generated(), &self.expression) {
            statements.extend(self.sequences.iter().map(|s| format!("create sequence if not exists {} {}", s.name, s.options)));
            statements.push(format!("alter table {table} alter column {name} set default {expression}"));
            let owned = self.sequences.iter().filter(|s| s.is_owned);
            statements.extend(owned.map(|s| format!("alter sequence {} owned by {table}.{name}", s.name)));
        }
        statements
    }

    /// The sequences that would go with it, and that the other side still has.
    pub fn kept_sequences<'a>(&'a self, source: &'a [Self]) -> impl Iterator<Item = &'a str> {
        let there = |name: &str| source.iter().flat_map(|c| &c.sequences).any(|s| s.name == name && !s.is_identity);
        self.sequences.iter().filter(move |s| s.is_owned && there(&s.name)).map(|s| s.name.as_str())
    }

    /// The actions that set storage, statistics, compression and options where they differ from those of the column that is there.
    pub fn settings_unlike(&self, there: Option<&Self>) -> Vec<String> {
        let unlike = |action: &&String| there.is_none_or(|t| !t.settings.contains(action));
        self.settings.iter().filter(unlike).map(|action| format!("alter column {} {action}", ident(&self.name))).collect()
    }

    /// The statement for its comment, where it differs from that of the column that is there.
    pub fn comment_unlike(&self, there: Option<&Self>, table: &str) -> Option<String> {
        if self.comment == there.and_then(|t| t.comment.clone()) {
            return None;
        }
        let text = self.comment.as_ref().map_or_else(|| "null".to_owned(), |text| literal(text));
        Some(format!("comment on column {table}.{} is {text}", ident(&self.name)))
    }
}

/// The columns of a table, in their order.
pub async fn read(client: &Client, table: u32) -> Result<Vec<Column>> {
    // Compression by column came with PostgreSQL 14.
    let compression = if client.version() >= 140_000 {
        "case a.attcompression when 'p' then 'set compression pglz' when 'l' then 'set compression lz4' end"
    } else {
        "null"
    };
    let sql = include_str!("columns.sql").replace("{compression}", compression);
    Ok(client.query(&sql, &[&table]).await?.iter().map(column).collect())
}

fn column(r: &Row) -> Column {
    let list = |name: &str| r.get::<_, Option<Vec<String>>>(name).unwrap_or_default();
    let (names, options) = (list("sequences"), list("sequence_options"));
    let kinds = list("sequence_kinds");
    let sequence = |((name, options), kind): ((String, String), String)| Sequence { name, options, is_identity: kind == "i", is_owned: kind == "a" };
    Column {
        name: r.get("name"),
        data_type: r.get("data_type"),
        compared_type: r.get("compared_type"),
        collation: r.get("collation"),
        generated: r.get("generated"),
        identity: r.get("identity"),
        expression: r.get("expression"),
        not_null: r.get("not_null"),
        settings: list("settings"),
        comment: r.get("comment"),
        sequences: names.into_iter().zip(options).zip(kinds).map(sequence).collect(),
        on_leaves: list("leaves").into_iter().zip(list("leaf_actions")).collect(),
    }
}
