//! Rows that a hypertable cannot take, because they have no time (H-5) or one that it cannot hold. The copy would find them after hours.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    event::{Candidate, Level, TimeColumn},
    migration::context::Context,
    name::{TableName, plain_ident},
    pg::{
        catalog::{self, Found},
        client::Client,
        timescale,
    },
};

/// How long one column is searched.
const SEARCH_TIMEOUT: &str = "5s";
/// How long all searches of one selection may take. After it the planner's statistics decide.
const ALL_SEARCHES: Duration = Duration::from_secs(60);
const NO_TIME: &str = "1ms";

/// What is known of the columns that were searched.
#[derive(Default)]
pub struct Times {
    known: HashMap<(TableName, String), Option<String>>,
}

impl Times {
    /// Why chosen tables cannot be converted by their time columns, and what finds the rows.
    pub async fn problems(&mut self, cx: &Context, source: &Client, candidates: &[Candidate]) -> Result<Vec<String>> {
        let (began, mut unknown) = (Instant::now(), Vec::new());
        let mut problems = Vec::new();
        for c in candidates {
            let Some(column) = c.chosen.as_ref().and_then(|h| c.columns.iter().find(|t| t.name == h.time_column)) else { continue };
            let key = (c.table.clone(), column.name.clone());
            if !self.known.contains_key(&key) {
                let timeout = if began.elapsed() < ALL_SEARCHES { SEARCH_TIMEOUT } else { NO_TIME };
                let found = cx.unless_stopped(search(source, &c.table, column, timeout)).await?;
                if found == Found::Unknown {
                    unknown.push(format!("{}.{}", c.table, plain_ident(&column.name)));
                }
                let problem = if let Found::Value(value) = found { Some(sentence(&c.table, column, value.as_deref())) } else { None };
                self.known.insert(key.clone(), problem);
            }
            problems.extend(self.known[&key].clone());
        }
        if !unknown.is_empty() {
            let text = format!(
                "whether all times of {} fit into a hypertable was not found out in {SEARCH_TIMEOUT}: a row with NULL, '-infinity' or a time from the \
                 year 294247 on would stop the copy of its table",
                unknown.join(", ")
            );
            cx.notice(Level::Warn, text).await;
        }
        Ok(problems)
    }
}

async fn search(source: &Client, table: &TableName, column: &TimeColumn, timeout: &str) -> Result<Found> {
    let outside = timescale::out_of_range(&column.data_type);
    if column.not_null && outside == timescale::NOTHING {
        return Ok(Found::Nothing);
    }
    catalog::find_value(source, table, (&column.name, &column.data_type), outside, timeout).await
}

fn sentence(table: &TableName, column: &TimeColumn, value: Option<&str>) -> String {
    let name = plain_ident(&column.name);
    let Some(value) = value else {
        return format!(
            "{table} has rows whose {name} is NULL, which a hypertable refuses: give them a value on the source, or choose another column"
        );
    };
    let condition = timescale::out_of_range(&column.data_type).replace("{}", &name);
    format!(
        "{table} has a row whose {name} is {value}, which a hypertable cannot hold: select * from {table} where {condition} finds such rows; give \
         them another time on the source (infinity is possible), or choose another column"
    )
}
