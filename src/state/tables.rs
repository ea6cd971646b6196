//! The tables in scope, in the order in which they were found (the largest first).

use serde::{Deserialize, Serialize};
use std::{collections::HashMap, ops::Deref};

use super::table::Table;
use crate::{
    event::{RelationSummary, TableState},
    name::TableName,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Table>", into = "Vec<Table>")]
pub struct Tables {
    rows: Vec<Table>,
    /// Where each table is in `rows`.
    index: HashMap<TableName, usize>,
}

impl Deref for Tables {
    type Target = [Table];

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl From<Vec<Table>> for Tables {
    fn from(rows: Vec<Table>) -> Self {
        let index = rows.iter().enumerate().map(|(i, t)| (t.summary.table.clone(), i)).collect();
        Self { rows, index }
    }
}

impl From<Tables> for Vec<Table> {
    fn from(tables: Tables) -> Self {
        tables.rows
    }
}

impl Tables {
    /// The whole list. What is known of a table stays.
    pub(super) fn found(&mut self, relations: &[RelationSummary]) {
        let mut known: HashMap<TableName, Table> = self.rows.drain(..).map(|t| (t.summary.table.clone(), t)).collect();
        let rows = relations.iter().map(|r| match known.remove(&r.table) {
            Some(mut table) => {
                table.summary = r.clone();
                table
            }
            None => Table::new(r.clone()),
        });
        *self = rows.collect::<Vec<_>>().into();
    }

    /// A table that joins the others, or is described again.
    pub(super) fn added(&mut self, relation: &RelationSummary) {
        if let Some(known) = self.get_mut(&relation.table) {
            known.summary = relation.clone();
        } else {
            self.index.insert(relation.table.clone(), self.rows.len());
            self.rows.push(Table::new(relation.clone()));
        }
    }

    pub fn get(&self, table: &TableName) -> Option<&Table> {
        self.index.get(table).and_then(|i| self.rows.get(*i))
    }

    pub(super) fn get_mut(&mut self, table: &TableName) -> Option<&mut Table> {
        self.index.get(table).copied().and_then(|i| self.rows.get_mut(i))
    }

    /// Tables in this state.
    pub fn count(&self, state: TableState) -> usize {
        self.rows.iter().filter(|t| t.state() == state).count()
    }

    /// Copied and whole bytes of all tables, on disk, by estimate.
    pub fn bytes(&self) -> (u64, u64) {
        self.rows.iter().fold((0, 0), |(done, all), t| (done + t.done_bytes(), all + t.summary.bytes))
    }

    /// Bytes a second of all running copies.
    pub fn copy_rate(&self) -> f64 {
        self.rows.iter().filter(|t| t.state() == TableState::Copying).map(|t| t.meter.rate()).sum()
    }
}
