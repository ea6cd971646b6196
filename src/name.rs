//! Names of SQL objects: kept in parts, and quoted in one place only.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An SQL identifier, always quoted (PostgreSQL documentation 4.1.1: a double quote inside is doubled).
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An identifier for people and for SQL that people read: quoted only where PostgreSQL would need it.
pub fn plain_ident(name: &str) -> String {
    let mut chars = name.chars();
    let simple =
        chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_') && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if simple && !RESERVED.contains(&name) { name.to_owned() } else { ident(name) }
}

/// An SQL string constant, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A comma-separated list of quoted identifiers.
pub fn idents<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|n| ident(n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Reserved key words (PostgreSQL documentation, appendix C) that cannot be a column or table name without quotes.
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary", "both", "case", "cast", "check",
    "collate", "collation", "column", "concurrently", "constraint", "create", "cross", "current_catalog", "current_date", "current_role",
    "current_schema", "current_time", "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end",
    "except", "false", "fetch", "for", "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike", "in", "initially", "inner",
    "intersect", "into", "is", "isnull", "join", "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp", "natural", "not",
    "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps", "placing", "primary", "references", "returning", "right",
    "select", "session_user", "similar", "some", "symmetric", "system_user", "table", "tablesample", "then", "to", "trailing", "true", "union",
    "unique", "user", "using", "variadic", "verbose", "when", "where", "window", "with",
];

/// A schema-qualified name of a table, index, sequence or view. Never a joined string: `a.b` may be one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// For statements: `"schema"."name"`.
    pub fn sql(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }

    /// Reads what an operator writes in a plan: `public.orders`, `"Odd schema"."a.b"`.
    pub fn parse(text: &str) -> Option<Self> {
        let (schema, rest) = take_ident(text.trim())?;
        let (name, rest) = take_ident(rest.strip_prefix('.')?)?;
        rest.is_empty().then(|| Self::new(schema, name))
    }
}

/// For people, and parsed again by [`TableName::parse`].
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", plain_ident(&self.schema), plain_ident(&self.name))
    }
}

fn take_ident(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                name.push('"');
            }
            '"' => return Some((name, &quoted[i + 1..])),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_1_every_name_survives_printing_and_reading() {
        for name in ["orders", "Mixed Case", "a.b", "say \"hi\"", "100%", "$$", "back\\slash", "new\nline", "größe", "select", "_x", "1st"] {
            let table = TableName::new("Odd.schema", name);
            assert_eq!(TableName::parse(&table.to_string()), Some(table.clone()), "{name:?}");
        }
        assert_eq!(TableName::new("public", "order").to_string(), "public.\"order\"");
        for bad in ["", "orders", ".x", "a.", "a.b.c", "\"a.b"] {
            assert_eq!(TableName::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn literals_are_safe_with_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
    }
}
