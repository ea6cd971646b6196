//! What of the source is migrated: the one predicate of `--include` and `--exclude`.
//!
//! Pure data: it decides by names alone and knows no server. What follows from it (views of a table that is left out, foreign keys to
//! it) is found in the source's catalog by `pg::catalog::exclusion`.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{
    error::{Error, Result},
    name::TableName,
};

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterKind {
    /// Everything in a schema.
    Schema,
    /// Tables with all that belongs to them, also foreign tables, views and materialised views.
    Table,
    /// The rows of tables, and their changes. The tables themselves are migrated.
    Data,
    Index,
    Extension,
}

impl FilterKind {
    pub const ALL: [Self; 5] = [Self::Schema, Self::Table, Self::Data, Self::Index, Self::Extension];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Table => "table",
            Self::Data => "data",
            Self::Index => "index",
            Self::Extension => "extension",
        }
    }

    /// Whether its patterns may name a schema before the dot.
    fn is_qualified(self) -> bool {
        matches!(self, Self::Table | Self::Data | Self::Index)
    }
}

/// A part of a pattern, between two dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Glob(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    /// `?`
    Any,
    /// `*`
    Many,
}

impl Glob {
    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // `ends[i]`: the pieces so far match the first `i` characters.
        let mut ends = vec![false; name.len() + 1];
        ends[0] = true;
        for piece in &self.0 {
            match piece {
                Piece::Many => {
                    for i in 0..name.len() {
                        ends[i + 1] |= ends[i];
                    }
                }
                Piece::Any | Piece::One(_) => {
                    for i in (0..name.len()).rev() {
                        ends[i + 1] = ends[i] && (*piece == Piece::Any || *piece == Piece::One(name[i]));
                    }
                    ends[0] = false;
                }
            }
        }
        ends[name.len()]
    }
}

/// One `KIND:PATTERN`. Patterns are psql's: `*` and `?`, lower-cased except within double quotes; a pattern without a dot
/// matches in every schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    pub kind: FilterKind,
    /// As it was written.
    text: String,
    schema: Option<Glob>,
    name: Glob,
}

impl Rule {
    pub fn matches_name(&self, name: &str) -> bool {
        self.name.matches(name)
    }

    pub fn matches(&self, name: &TableName) -> bool {
        self.schema.as_ref().is_none_or(|s| s.matches(&name.schema)) && self.name.matches(&name.name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.text)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (kind, pattern) = match text.split_once(':').filter(|(kind, _)| kind.chars().all(char::is_alphabetic)) {
            None => (FilterKind::Table, text),
            Some((word, pattern)) => {
                let known = FilterKind::ALL.into_iter().find(|k| k.as_str() == word);
                let kind = known.ok_or_else(|| wrong(text, &format!("{word:?} is no kind: schema, table, data, index or extension")))?;
                (kind, pattern.trim())
            }
        };
        let mut parts = parse_pattern(pattern).map_err(|why| wrong(text, why))?;
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        match (&schema, parts.is_empty()) {
            (Some(_), _) if !kind.is_qualified() => Err(wrong(text, &format!("a pattern for {}s has one part", kind.as_str()))),
            (_, false) => Err(wrong(text, "a pattern has at most two parts: schema.name")),
            _ => Ok(Self { kind, text: pattern.to_owned(), schema, name }),
        }
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::usage(format!("not a filter: {text:?}: {why}"))
        .hint("KIND:PATTERN, for instance 'table:public.log_*', 'schema:archive', 'data:audit.*' or 'table:\"Odd.Name\".t'")
}

fn parse_pattern(text: &str) -> Result<Vec<Glob>, &'static str> {
    let mut parts = vec![Glob::default()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut().expect("there is always one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.0.push(Piece::One('"'));
            }
            '"' => quoted = !quoted,
            c if quoted => part.0.push(Piece::One(c)),
            '.' => parts.push(Glob::default()),
            '*' => part.0.push(Piece::Many),
            '?' => part.0.push(Piece::Any),
            c => part.0.extend(c.to_lowercase().map(Piece::One)),
        }
    }
    match parts.iter().any(|p| p.0.is_empty()) {
        _ if quoted => Err("a double quote is not closed"),
        true => Err("a part of it is empty"),
        false => Ok(parts),
    }
}

/// How much of a table is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inclusion {
    Nothing,
    /// The table, without its rows and their changes.
    Structure,
    All,
}

/// The filters of a migration, fixed when it begins. Without any of them everything is in scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Rule>,
}

impl Scope {
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Self> {
        let rules = |texts: &[String], flag: &str| texts.iter().map(|t| t.parse().map_err(|e: Error| e.context(flag))).collect::<Result<Vec<Rule>>>();
        Ok(Self { include: rules(include, "--include")?, exclude: rules(exclude, "--exclude")? })
    }

    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// All rules, with the flag that gave each.
    pub fn rules(&self) -> impl Iterator<Item = (&'static str, &Rule)> {
        self.include.iter().map(|r| ("--include", r)).chain(self.exclude.iter().map(|r| ("--exclude", r)))
    }

    /// How much of a table, view or foreign table is migrated. A partition is treated as its root is.
    pub fn inclusion(&self, table: &TableName) -> Inclusion {
        if !self.is_chosen(table) || self.excludes(table) {
            return Inclusion::Nothing;
        }
        if self.decides(FilterKind::Data, |r| r.matches(table)) { Inclusion::All } else { Inclusion::Structure }
    }

    /// Whether a table is named by an include, or no include chooses tables.
    pub fn is_chosen(&self, table: &TableName) -> bool {
        !self.chooses_tables() || self.include.iter().any(|r| rules_table(r, table))
    }

    /// Whether a table is named by an exclude, by its schema or its own name.
    pub fn excludes(&self, table: &TableName) -> bool {
        self.exclude.iter().any(|r| rules_table(r, table))
    }

    /// Whether only some tables were requested, by their names or their schemas.
    pub fn chooses_tables(&self) -> bool {
        self.include.iter().any(|r| matches!(r.kind, FilterKind::Schema | FilterKind::Table))
    }

    /// Whether a schema was excluded, as such.
    pub fn excludes_schema(&self, name: &str) -> bool {
        self.exclude.iter().any(|r| r.kind == FilterKind::Schema && r.matches_name(name))
    }

    /// Whether a schema was requested, as such.
    pub fn includes_schema(&self, name: &str) -> bool {
        self.include.iter().any(|r| r.kind == FilterKind::Schema && r.matches_name(name))
    }

    pub fn has_index(&self, index: &TableName) -> bool {
        self.decides(FilterKind::Index, |r| r.matches(index))
    }

    /// Whether an index was excluded by a rule about indexes. Otherwise it was merely not requested.
    pub fn excludes_index(&self, index: &TableName) -> bool {
        self.exclude.iter().any(|r| r.kind == FilterKind::Index && r.matches(index))
    }

    pub fn has_extension(&self, name: &str) -> bool {
        self.decides(FilterKind::Extension, |r| r.matches_name(name))
    }

    /// By the rules of one kind: requested, where any was, and not excluded.
    fn decides(&self, kind: FilterKind, matches: impl Fn(&Rule) -> bool) -> bool {
        let mut requested = self.include.iter().filter(|r| r.kind == kind).peekable();
        (requested.peek().is_none() || requested.any(&matches)) && !self.exclude.iter().any(|r| r.kind == kind && matches(r))
    }

    /// Rules that only one of the two has; `None` when they are the same.
    pub fn difference(&self, begun_with: &Self) -> Option<String> {
        let (now, before) = (self.texts(), begun_with.texts());
        let more = now.difference(&before).map(|t| format!("{t} is new"));
        let less = before.difference(&now).map(|t| format!("{t} is missing"));
        let all: Vec<String> = more.chain(less).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    fn texts(&self) -> BTreeSet<String> {
        self.rules().map(|(flag, rule)| format!("{flag} {rule}")).collect()
    }
}

fn rules_table(rule: &Rule, table: &TableName) -> bool {
    match rule.kind {
        FilterKind::Schema => rule.matches_name(&table.schema),
        FilterKind::Table => rule.matches(table),
        FilterKind::Data | FilterKind::Index | FilterKind::Extension => false,
    }
}

/// The flags that give these filters.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags: Vec<String> = self.rules().map(|(flag, rule)| format!("{flag} {rule}")).collect();
        f.write_str(&flags.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(include: &[&str], exclude: &[&str]) -> Scope {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Scope::parse(&texts(include), &texts(exclude)).unwrap()
    }

    #[test]
    fn n_1_patterns_match_as_psqls_do() {
        for (pattern, schema, name, matches) in [
            ("orders", "public", "orders", true),
            ("orders", "other", "orders", true),
            ("Orders", "public", "orders", true),
            ("Orders", "public", "Orders", false),
            ("\"Orders\"", "public", "Orders", true),
            ("\"Orders\"", "public", "orders", false),
            ("public.*", "public", "", true),
            ("public.*", "public", "anything at all", true),
            ("public.*", "publicity", "t", false),
            ("pub*.t?", "publicity", "t1", true),
            ("pub*.t?", "publicity", "t", false),
            ("pub*.t?", "publicity", "t12", false),
            ("*a*b*", "x", "xxaxxbxx", true),
            ("*a*b*", "x", "xxbxxaxx", false),
            ("*.log", "Odd.Name", "log", true),
            ("\"Odd.Name\".t", "Odd.Name", "t", true),
            ("\"Odd.Name\".t", "odd.name", "t", false),
            ("Odd\".\"Name.t", "odd.name", "t", true),
            ("\"a*\"", "x", "ab", false),
            ("\"a*\"", "x", "a*", true),
            ("\"a\"*", "x", "ab", true),
            ("\"say \"\"hi\"\"\"", "x", "say \"hi\"", true),
            ("größe_?", "x", "größe_ß", true),
            ("\"new\nline\"", "x", "new\nline", true),
            ("\"a:b\".t", "a:b", "t", true),
            ("??", "x", "日本", true),
        ] {
            let rule: Rule = pattern.parse().unwrap();
            assert_eq!((rule.kind, rule.matches(&TableName::new(schema, name))), (FilterKind::Table, matches), "{pattern} on {schema}.{name}");
        }
    }

    #[test]
    fn mistakes_in_filters_are_named() {
        for (text, part) in [
            ("", "empty"),
            ("table:", "empty"),
            ("a..b", "empty"),
            (".t", "empty"),
            ("a.b.c", "at most two parts"),
            ("tables:a", "\"tables\" is no kind"),
            ("schema:a.b", "one part"),
            ("extension:public.postgis", "one part"),
            ("\"a.b", "not closed"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.to_string().contains(part) && error.exit_code() == 2, "{text:?}: {error}");
        }
    }

    #[test]
    fn excludes_win_and_includes_leave_out_all_others() {
        use Inclusion::{All, Nothing, Structure};
        let tables = ["a.t", "a.u", "b.t", "b.u"].map(|t| TableName::parse(t).unwrap());
        for (include, exclude, extents) in [
            (&[][..], &[][..], [All, All, All, All]),
            (&[], &["a.t"], [Nothing, All, All, All]),
            (&[], &["schema:a"], [Nothing, Nothing, All, All]),
            (&[], &["data:*.t"], [Structure, All, Structure, All]),
            (&["a.*"], &[], [All, All, Nothing, Nothing]),
            (&["schema:a", "b.u"], &["t"], [Nothing, All, Nothing, All]),
            (&["data:a.t"], &[], [All, Structure, Structure, Structure]),
            (&["schema:a"], &["data:u", "schema:b"], [All, Structure, Nothing, Nothing]),
            (&["index:none", "extension:none"], &["index:a.*"], [All, All, All, All]),
        ] {
            let scope = scope(include, exclude);
            assert_eq!(tables.clone().map(|t| scope.inclusion(&t)), extents, "{scope}");
        }
        let scope = scope(&["extension:post*", "index:a.*"], &["extension:postgis_tiger", "index:*_trgm"]);
        assert!(scope.has_extension("postgis") && !scope.has_extension("postgis_tiger") && !scope.has_extension("hstore"));
        let index = |schema, name| scope.has_index(&TableName::new(schema, name));
        assert!(index("a", "i") && !index("b", "i") && !index("a", "i_trgm"));
    }

    #[test]
    fn filters_are_written_and_compared_whatever_their_order() {
        let begun = scope(&["schema:a", "public.*"], &["data:\"Log.x\".t"]);
        let text = toml::to_string(&begun).unwrap();
        assert_eq!(toml::from_str::<Scope>(&text).unwrap(), begun);
        assert_eq!(begun.to_string(), "--include schema:a --include table:public.* --exclude data:\"Log.x\".t");
        assert_eq!(scope(&["table:public.*", "schema:a"], &["data:\"Log.x\".t"]).difference(&begun), None);
        let other = scope(&["schema:a", "public.*"], &["log"]);
        assert_eq!(other.difference(&begun).unwrap(), "--exclude table:log is new, --exclude data:\"Log.x\".t is missing");
    }
}
