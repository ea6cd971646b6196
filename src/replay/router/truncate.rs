//! TRUNCATE in the stream is a barrier: all lanes stop, one of them truncates and moves all positions in one transaction.

use std::collections::HashSet;

use super::{routing::Routing, transaction::OpenTransaction};
use crate::{
    error::{Error, Result},
    name::{TableName, literal},
    pg::{local_rows, target_table::TableKind},
    replay::{lane::BatchStep, relation::RelationIndex},
};

impl Routing {
    pub async fn truncate(&mut self, transaction: &mut OpenTransaction, oids: &[u32]) -> Result<()> {
        let to = transaction.next_position();
        if self.spec.positions.iter().all(|p| to <= *p) {
            return Ok(());
        }
        let (statements, truncated) = self.truncations(transaction, oids).await?;
        if statements.is_empty() {
            return Ok(());
        }
        if transaction.deferrable && transaction.buffered.is_none() {
            self.buffer(transaction).await?;
        }
        if let Some(buffered) = &mut transaction.buffered {
            buffered.steps.push(BatchStep { changes: Vec::new(), then: statements });
            buffered.truncated.extend(truncated);
            return Ok(());
        }
        self.run_for_all(statements, truncated, to).await?;
        transaction.lanes.fill(true);
        Ok(())
    }

    /// The statements for the target, and the relation of each.
    async fn truncations(&mut self, transaction: &OpenTransaction, oids: &[u32]) -> Result<(Vec<String>, Vec<RelationIndex>)> {
        let (mut statements, mut relations) = (Vec::new(), Vec::new());
        // Tables that are a partition root on the source, all of whose partitions are named.
        let (named, mut emptied) = (oids.iter().copied().collect::<HashSet<u32>>(), HashSet::new());
        for oid in oids {
            let described = self
                .described
                .get(oid)
                .ok_or_else(|| Error::failed(format!("a TRUNCATE of a relation that the stream has not described (OID {oid})")))?;
            let Some(index) = described.relation else { continue };
            let relation = &self.relations[index];
            if !relation.wants(transaction.commit, transaction.xid) || emptied.contains(&index) {
                continue;
            }
            let own = TableName::new(&described.message.schema, &described.message.name);
            // RESTART IDENTITY needs nothing here: the cutover sets the sequences.
            let statement = if *oid == relation.oid || own == relation.table {
                local_rows::truncate(&relation.table, relation.shape.kind)
            } else if relation.shape.kind == TableKind::Partitioned {
                // A leaf is truncated under its own name, unless that is a foreign table on the target.
                local_rows::truncate(&own, TableKind::Partitioned)
            } else {
                let (table, kind) = (relation.table.clone(), relation.shape.kind);
                let (statement, all) = self.without_partition(&named, *oid, &own, (&table, kind)).await?;
                if all {
                    emptied.insert(index);
                }
                statement
            };
            if !statements.contains(&statement) {
                statements.push(statement);
                relations.push(index);
            }
        }
        Ok((statements, relations))
    }

    /// The statement for the TRUNCATE of a partition whose root is one table on the target; with it, whether it empties that table, because
    /// a TRUNCATE of the root names all leaves. The bounds of the partition are those which it had at the copy and has now. Where they are not
    /// known for sure, the statement fails with a text that says what the operator has to do.
    async fn without_partition(
        &mut self,
        named: &HashSet<u32>,
        oid: u32,
        partition: &TableName,
        (table, kind): (&TableName, TableKind),
    ) -> Result<(String, bool)> {
        let now = self.partition(oid).await?;
        if now.as_ref().is_some_and(|(_, leaves)| leaves.iter().all(|leaf| named.contains(leaf))) {
            return Ok((local_rows::truncate(table, kind), true));
        }
        let bounds = match (self.spec.partitions.get(&oid).map(|p| p.bounds.clone()), now.map(|(p, _)| p.bounds)) {
            (Some(then), Some(now)) => then.filter(|then| now.as_ref() == Some(then)),
            (Some(then), None) => then,
            (None, now) => now.flatten(),
        };
        let statement = bounds.map_or_else(
            || {
                let text = literal(&format!("{partition} was truncated on the source; which of the rows of {table} were in it is not known here"));
                let hint = literal(&format!("delete those rows from {table} on the target, then go on without this statement"));
                format!("do {}", literal(&format!("begin raise exception using message = {text}, hint = {hint}; end")))
            },
            |bounds| format!("delete from {} where {bounds}", table.sql()),
        );
        Ok((statement, false))
    }
}
