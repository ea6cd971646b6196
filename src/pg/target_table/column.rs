//! A column of a table on the target, and the conditions that compare its values.
//!
//! Operators and types are named with their schemas, and each side of a comparison has a type: what the server would choose instead depends
//! on the `search_path`, and on operators of the application. The casts convert nothing, so that an index on the column still serves.

use std::collections::HashMap;

use crate::{error::Result, pg::client::Client};

/// A column of a table of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    /// As `format_type` prints it with an empty search path.
    pub data_type: String,
    pub equality: Equality,
    /// Its type below all domains, with its schema and without a modifier. Values to compare with are read as this type, because the
    /// checks of a domain may not hold for rows that are older.
    pub base_type: String,
    /// `None`: its type has none.
    pub operator: Option<EqualityOperator>,
}

/// The operator by which values of a column are equal: that of its key, because an index finds rows by its own operator only, else that of
/// its type's default B-tree operator class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EqualityOperator {
    /// `operator(pg_catalog.=)`
    pub name: String,
    /// What makes the column a value of the type that the operator takes: `::pg_catalog.text`, or nothing.
    pub cast: String,
    /// The same for a value of the column's base type.
    pub cast_of_base: String,
}

/// How a value of a whole-row match (REPLICA IDENTITY FULL without a key) is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// The operator holds for identical values only.
    Exact,
    /// The operator also holds for values that print differently (numeric 1.0 and 1.00): the text is compared, too.
    Loose,
    /// No reliable operator (json, point, box, and arrays and rows of them): the text alone is compared.
    Text,
}

impl Equality {
    /// For the base type of a column with its schema. `comparable`: the type has an operator, and so have the elements and fields of which
    /// its values are made.
    fn new(base_type: &str, comparable: bool) -> Self {
        const EXACT: &[&str] = &[
            "int2", "int4", "int8", "bool", "uuid", "text", "varchar", "bytea", "date", "timestamp", "timestamptz", "oid", "name", "char", "pg_lsn",
        ];
        match (base_type.strip_prefix("pg_catalog.").is_some_and(|name| EXACT.contains(&name.trim_matches('"'))), comparable) {
            (true, _) => Self::Exact,
            (false, true) => Self::Loose,
            (false, false) => Self::Text,
        }
    }
}

impl TargetColumn {
    /// The condition that two expressions of the column's type are equal.
    pub fn equal(&self, left: &str, right: &str) -> String {
        match &self.operator {
            Some(EqualityOperator { name, cast, .. }) => format!("{left}{cast} {name} {right}{cast}"),
            None => same_text(left, right),
        }
    }

    /// The condition that an expression of the column's type is equal to a parameter.
    pub fn equals_parameter(&self, column: &str, parameter: &str) -> String {
        let value = self.value(parameter);
        match &self.operator {
            Some(EqualityOperator { name, cast, cast_of_base }) => format!("{column}{cast} {name} {value}{cast_of_base}"),
            None => same_text(column, &value),
        }
    }

    /// The condition that an expression of the column's type prints as a parameter does.
    pub fn is_identical(&self, column: &str, parameter: &str) -> String {
        let text = || same_text(column, &self.value(parameter));
        match self.equality {
            Equality::Exact => self.equals_parameter(column, parameter),
            Equality::Loose => format!("{} and {}", self.equals_parameter(column, parameter), text()),
            Equality::Text => text(),
        }
    }

    fn value(&self, parameter: &str) -> String {
        format!("{parameter}::{}", self.base_type)
    }
}

/// The condition that two expressions are not NULL and have the same text. The text is what output functions print, because a cast to
/// text prints some types (character, inet) in another form. Both sides are printed here, so that settings of the session do not matter.
fn same_text(left: &str, right: &str) -> String {
    // `is not null` would be false for a row whose fields are NULL.
    format!(
        "{left} is distinct from null and pg_catalog.format('%s', {left}) collate pg_catalog.\"C\" operator(pg_catalog.=) pg_catalog.format('%s', {right})"
    )
}

/// The columns of tables, by OID.
pub(super) async fn columns(client: &Client, tables: Vec<u32>) -> Result<HashMap<u32, HashMap<String, TargetColumn>>> {
    let mut found: HashMap<u32, HashMap<String, TargetColumn>> = HashMap::new();
    for r in client.query(include_str!("columns.sql"), &[&tables]).await? {
        found.entry(r.get("oid")).or_default().insert(r.get("name"), column(&r));
    }
    Ok(found)
}

fn column(r: &tokio_postgres::Row) -> TargetColumn {
    let base_type: String = r.get("base_type");
    let operator = r.get::<_, Option<String>>("operator").map(|name| {
        let input: Option<String> = r.get("input_type");
        let cast = |needed: bool| if needed { format!("::{}", input.as_ref().unwrap_or(&base_type)) } else { String::new() };
        EqualityOperator { name, cast: cast(!r.get::<_, bool>("is_input")), cast_of_base: cast(input.as_ref().is_some_and(|i| *i != base_type)) }
    });
    let equality = match Equality::new(&base_type, operator.is_some() && r.get("comparable")) {
        Equality::Exact if r.get("loose") => Equality::Loose,
        other => other,
    };
    TargetColumn { data_type: r.get("data_type"), equality, base_type, operator }
}
