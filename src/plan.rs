//! `plan.toml`: every choice that an operator makes, so that a rehearsal can be repeated without an operator.
//!
//! Pure data, and the SQL that follows from it. It knows no server.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    error::{Error, Result},
    name::{TableName, ident, literal, plain_ident},
    scope::Scope,
};

/// The file as it is written: lists of tables, with names as in SQL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    owners: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    grants: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    one_table: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity_default: Option<IdentityDefault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    follow_ddl: Option<FollowDdl>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    publications: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    subscriptions: bool,
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    scope: Scope,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hypertable: Vec<HypertableEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identity: Vec<IdentityEntry>,
    /// Roles of the source, and their names on the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    roles: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HypertableEntry {
    table: String,
    time_column: String,
    chunk_interval: String,
    #[serde(default)]
    key: KeyChoice,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    table: String,
    #[serde(rename = "use")]
    choice: String,
}

/// What happens to a primary or unique key without the time column, because TimescaleDB refuses such a key (TS103).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyChoice {
    /// The time column is appended to the key.
    #[default]
    Extend,
    /// An index on the same columns, not unique.
    PlainIndex,
    /// The migration does not continue while the table is selected.
    Refuse,
}

impl KeyChoice {
    pub const ALL: [Self; 3] = [Self::Extend, Self::PlainIndex, Self::Refuse];
}

/// One table that becomes a hypertable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hypertable {
    pub table: TableName,
    pub time_column: String,
    /// An interval (`7 days`) for dates and timestamps, a number for integer columns.
    pub chunk_interval: String,
    pub key: KeyChoice,
}

impl Hypertable {
    /// The statement that converts the empty table. It creates no default indexes, because the source's indexes are restored anyway,
    /// and a default index could take the name of one of them. `schema` is the schema of the extension; it is empty for a statement
    /// that is shown.
    pub fn sql(&self, schema: &str) -> String {
        let interval = if self.chunk_interval.trim().parse::<i64>().is_ok() {
            format!("{}::bigint", self.chunk_interval.trim())
        } else {
            format!("interval {}", literal(&self.chunk_interval))
        };
        let prefix = if schema.is_empty() { String::new() } else { format!("{}.", ident(schema)) };
        format!(
            "select {prefix}create_hypertable({}, {prefix}by_range({}, {interval}), create_default_indexes => false)",
            literal(&self.table.sql()),
            literal(&self.time_column),
        )
    }

    /// The columns of a key after [`KeyChoice::Extend`].
    pub fn extended<'a>(&'a self, key: &'a [String]) -> Vec<&'a str> {
        key.iter().map(String::as_str).chain((!key.contains(&self.time_column)).then_some(self.time_column.as_str())).collect()
    }
}

/// How the changed rows of a table are found on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityChoice {
    /// `REPLICA IDENTITY USING INDEX` with this unique index of the source.
    Index(String),
    /// `REPLICA IDENTITY FULL`: every changed row is written to the WAL as a whole.
    Full,
    /// A publication of inserts and truncates: UPDATE and DELETE do not reach the target.
    InsertOnly,
}

/// What all tables get that have no usable replica identity and no choice of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityDefault {
    /// A unique index where one can serve, otherwise FULL.
    Proposed,
    Full,
    InsertOnly,
}

/// Which changes of the source's schema are made on the target without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FollowDdl {
    /// None: the operator runs the statements.
    Ask,
    /// Those that remove neither rows nor values of the target.
    #[default]
    Safe,
    /// Also those that drop tables, partitions and columns, as the source has done.
    All,
}

/// As the plan writes it.
impl std::fmt::Display for IdentityChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(name) => write!(f, "index:{name}"),
            Self::Full => f.write_str("full"),
            Self::InsertOnly => f.write_str("insert-only"),
        }
    }
}

impl IdentityChoice {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "full" => Some(Self::Full),
            "insert-only" => Some(Self::InsertOnly),
            _ => word.strip_prefix("index:").filter(|n| !n.is_empty()).map(|n| Self::Index(n.to_owned())),
        }
    }

    /// The statement that the source needs for it; none for insert-only.
    pub fn sql(&self, table: &TableName) -> Option<String> {
        let form = match self {
            Self::Index(name) => format!("using index {}", ident(name)),
            Self::Full => "full".into(),
            Self::InsertOnly => return None,
        };
        Some(format!("alter table only {} replica identity {form}", table.sql()))
    }
}

/// All choices of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is migrated. Fixed once the migration has begun.
    pub scope: Scope,
    pub hypertables: Vec<Hypertable>,
    /// Partitioned tables that become one plain table.
    pub one_table: BTreeSet<TableName>,
    pub identities: BTreeMap<TableName, IdentityChoice>,
    /// For tables without a usable identity that are not in [`Self::identities`].
    pub identity_default: Option<IdentityDefault>,
    /// Where the command line says nothing of it.
    #[serde(default)]
    pub follow_ddl: Option<FollowDdl>,
    /// Objects keep the owners that they have on the source. Otherwise they belong to the user of the target.
    pub owners: bool,
    /// Grants and default privileges of the source.
    pub grants: bool,
    /// Publications of the source, without the tables that are left out.
    pub publications: bool,
    /// Subscriptions of the source, without their slots.
    pub subscriptions: bool,
    /// Roles of the source that have another name on the target.
    pub roles: BTreeMap<String, String>,
}

impl Plan {
    /// Reads a plan file. Errors name the file and the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format!("cannot read the plan {}: {e}", path.display())).hint("give --plan the path of a plan.toml"))?;
        Self::parse(&text).map_err(|e| e.context(path.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let file: PlanFile = toml::from_str(text).map_err(|e| Error::usage(format!("not a plan: {}", e.to_string().trim())))?;
        let table = |name: &str| {
            TableName::parse(name).ok_or_else(|| {
                Error::usage(format!("not the name of a table: {name:?}"))
                    .hint("write schema.table; quote parts with capitals, dots or spaces: \"My schema\".\"a.b\"")
            })
        };
        let mut plan = Self {
            scope: file.scope,
            owners: file.owners,
            grants: file.grants,
            publications: file.publications,
            subscriptions: file.subscriptions,
            identity_default: file.identity_default,
            follow_ddl: file.follow_ddl,
            roles: file.roles,
            ..Self::default()
        };
        for name in &file.one_table {
            plan.one_table.insert(table(name)?);
        }
        for entry in file.hypertable {
            let name = table(&entry.table)?;
            if plan.hypertable(&name).is_some() {
                return Err(Error::usage(format!("{name} is named twice among the hypertables")));
            }
            if plan.one_table.contains(&name) {
                return Err(Error::usage(format!("{name} cannot become both one plain table and a hypertable"))
                    .hint("remove it from one_table: a partitioned table that becomes a hypertable is one table anyway"));
            }
            plan.hypertables.push(Hypertable { table: name, time_column: entry.time_column, chunk_interval: entry.chunk_interval, key: entry.key });
        }
        for entry in file.identity {
            let name = table(&entry.table)?;
            let choice = IdentityChoice::parse(&entry.choice)
                .ok_or_else(|| Error::usage(format!("{name}: unknown identity {:?}", entry.choice)).hint("use index:<name>, full or insert-only"))?;
            if plan.identities.insert(name.clone(), choice).is_some() {
                return Err(Error::usage(format!("{name} is named twice among the identities")));
            }
        }
        Ok(plan)
    }

    pub fn to_toml(&self) -> String {
        let file = PlanFile {
            scope: self.scope.clone(),
            one_table: self.one_table.iter().map(ToString::to_string).collect(),
            hypertable: self
                .hypertables
                .iter()
                .map(|h| HypertableEntry {
                    table: h.table.to_string(),
                    time_column: h.time_column.clone(),
                    chunk_interval: h.chunk_interval.clone(),
                    key: h.key,
                })
                .collect(),
            identity: self.identities.iter().map(|(t, c)| IdentityEntry { table: t.to_string(), choice: c.to_string() }).collect(),
            identity_default: self.identity_default,
            follow_ddl: self.follow_ddl,
            owners: self.owners,
            grants: self.grants,
            publications: self.publications,
            subscriptions: self.subscriptions,
            roles: self.roles.clone(),
        };
        toml::to_string(&file).expect("TOML has a form for everything in a plan")
    }

    pub fn hypertable(&self, table: &TableName) -> Option<&Hypertable> {
        self.hypertables.iter().find(|h| &h.table == table)
    }

    /// Chooses the hypertables, and the tables that lose their partitions. A table in both is a hypertable.
    pub fn select(&mut self, hypertables: Vec<Hypertable>, one_table: impl IntoIterator<Item = TableName>) {
        self.hypertables = hypertables;
        self.one_table = one_table.into_iter().filter(|t| self.hypertables.iter().all(|h| h.table != *t)).collect();
    }

    /// Whether a table that is partitioned on the source is one table on the target.
    pub fn is_one_table(&self, table: &TableName) -> bool {
        self.one_table.contains(table) || self.hypertable(table).is_some()
    }

    pub fn identity(&self, table: &TableName) -> Option<&IdentityChoice> {
        self.identities.get(table)
    }
}

/// How `key = "extend"` is shown for a key of these columns.
pub fn key_sentence(choice: KeyChoice, key: &[String], time_column: &str) -> String {
    let columns = key.iter().map(|c| plain_ident(c)).collect::<Vec<_>>().join(", ");
    match choice {
        KeyChoice::Extend => format!("extend ({columns}) to ({columns}, {})", plain_ident(time_column)),
        KeyChoice::PlainIndex => format!("plain index on ({columns}), no longer unique"),
        KeyChoice::Refuse => "refuse: do not continue while it is selected".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
owners = true
one_table = ["public.log"]
identity_default = "full"
follow_ddl = "ask"
subscriptions = true

[scope]
include = ["schema:public"]
exclude = ["public.log_*", 'data:"Odd.Name"']

[[hypertable]]
table = "public.metrics"
time_column = "time"
chunk_interval = "1 day"
key = "plain-index"

[[identity]]
table = "public.\"Odd.Name\""
use = "index:my idx"

[roles]
app = "App of the target"
"#;

    #[test]
    fn a_plan_is_read_and_written_without_loss() {
        let plan = Plan::parse(TEXT).unwrap();
        assert_eq!(plan.scope.to_string(), "--include schema:public --exclude table:public.log_* --exclude data:\"Odd.Name\"");
        assert_eq!(plan.hypertables[0].key, KeyChoice::PlainIndex);
        assert_eq!(plan.identity(&TableName::new("public", "Odd.Name")), Some(&IdentityChoice::Index("my idx".into())));
        assert_eq!(plan.follow_ddl, Some(FollowDdl::Ask));
        assert!(plan.owners && !plan.grants && !plan.publications && plan.subscriptions);
        assert!(plan.is_one_table(&TableName::new("public", "log")) && plan.is_one_table(&TableName::new("public", "metrics")));
        assert_eq!(plan.identity_default, Some(IdentityDefault::Full));
        assert_eq!(plan.roles["app"], "App of the target");
        assert_eq!(Plan::parse(&plan.to_toml()).unwrap(), plan);
        let mut both = plan.clone();
        both.select(plan.hypertables.clone(), [TableName::new("public", "metrics"), TableName::new("public", "log")]);
        assert_eq!(Plan::parse(&both.to_toml()).unwrap(), plan, "a hypertable is not a plain table besides");
    }

    #[test]
    fn mistakes_in_a_plan_are_named() {
        for (text, part) in [
            ("x = 1", "unknown field"),
            ("[scope]\nexclude = [\"tables:x\"]", "\"tables\" is no kind"),
            ("[scope]\nonly = []", "unknown field"),
            ("[[identity]]\ntable = \"t\"\nuse = \"full\"", "not the name of a table"),
            ("[[identity]]\ntable = \"a.t\"\nuse = \"nothing\"", "unknown identity"),
            ("identity_default = \"index\"", "unknown variant"),
            ("[[identity]]\ntable = \"a.t\"\nuse = \"full\"\n[[identity]]\ntable = \"a.t\"\nuse = \"full\"", "twice"),
            ("[[hypertable]]\ntable = \"a.t\"\ntime_column = \"ts\"\nchunk_interval = \"1 day\"\nkey = \"maybe\"", "key"),
            ("one_table = [\"a.t\"]\n[[hypertable]]\ntable = \"a.t\"\ntime_column = \"ts\"\nchunk_interval = \"1 day\"", "one plain table"),
        ] {
            let error = Plan::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn integer_columns_get_a_number_and_times_an_interval() {
        let mut h =
            Hypertable { table: TableName::new("public", "t"), time_column: "n".into(), chunk_interval: "100000".into(), key: KeyChoice::Extend };
        assert!(h.sql("").contains("by_range('n', 100000::bigint)"), "{}", h.sql(""));
        h.chunk_interval = "7 days".into();
        assert!(h.sql("ts").contains("\"ts\".by_range('n', interval '7 days')"), "{}", h.sql("ts"));
        assert_eq!(h.extended(&["id".into()]), ["id", "n"]);
        assert_eq!(h.extended(&["n".into(), "id".into()]), ["n", "id"]);
    }
}
