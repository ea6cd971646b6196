//! Barriers (I7): all lanes stop together, because somebody asked for it, or because one of them has to do something for all.

use std::collections::HashSet;
use tokio::sync::oneshot;

use super::{Router, State, lane_gone, send};
use crate::{
    error::{Error, Result},
    lsn::Position,
    name::{TableName, literal},
    pg::target_table::TableKind,
    replay::{
        change::Change,
        lane::{Feed, Stretch, Together},
    },
};

/// A transaction that one lane applies for all of them, because it cannot be divided where a barrier is due. It is held in memory.
pub(super) struct Whole {
    pub(super) stretches: Vec<Stretch>,
    pub(super) truncated: Vec<usize>,
    pub(super) lanes: Vec<(u32, Position)>,
}

impl Whole {
    pub(super) fn push(&mut self, change: Change) {
        match self.stretches.last_mut() {
            Some(stretch) if stretch.then.is_empty() => stretch.changes.push(change),
            _ => self.stretches.push(Stretch { changes: vec![change], then: Vec::new() }),
        }
    }
}

impl Router {
    /// Barriers whose LSN is routed: all lanes stop, the answer is given, and they go on with the next message.
    pub(super) async fn answer_barriers(&mut self, state: &mut State) -> Result<()> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiting).into_iter().partition(|r| r.lsn <= state.routed);
        state.waiting = later;
        if due.is_empty() {
            return Ok(());
        }
        self.tell_all(state.routed).await?;
        self.stop_lanes().await?;
        for request in due {
            let _ = request.reached.send(());
        }
        Ok(())
    }

    /// Every lane applies what it has and writes its position; returns the positions.
    pub(super) async fn stop_lanes(&self) -> Result<Vec<Position>> {
        let mut answers = Vec::new();
        for lane in &self.lanes {
            let (reached, answer) = oneshot::channel();
            send(lane, Feed::Barrier(reached)).await?;
            answers.push(answer);
        }
        let mut positions = Vec::new();
        for answer in answers {
            positions.push(answer.await.map_err(|_| lane_gone())?);
        }
        Ok(positions)
    }

    /// A TRUNCATE is a barrier: all lanes stop, one of them truncates and moves all positions in one transaction.
    pub(super) async fn truncate(&mut self, oids: &[u32], state: &mut State) -> Result<()> {
        let transaction = state.transaction.as_mut().ok_or_else(|| Error::failed("a change outside of a transaction in the stream"))?;
        transaction.changes += 1;
        let to = Position { lsn: transaction.commit, change: transaction.changes };
        if self.positions.iter().all(|p| to <= *p) {
            return Ok(());
        }
        let (xid, commit) = (transaction.xid, transaction.commit);
        let (mut statements, mut targets) = (Vec::new(), Vec::new());
        // One-table relations all of whose partitions are named.
        let (named, mut emptied) = (oids.iter().copied().collect::<HashSet<u32>>(), HashSet::new());
        for oid in oids {
            let known = state
                .known
                .get(oid)
                .ok_or_else(|| Error::failed(format!("a TRUNCATE of a relation that the stream has not described (OID {oid})")))?;
            let Some(target) = known.target else { continue };
            let relation = &self.shared.relations[target];
            if !relation.wants(commit, xid) || emptied.contains(&target) {
                continue;
            }
            let own = TableName::new(&known.message.schema, &known.message.name);
            let only = relation.target.only();
            // RESTART IDENTITY needs nothing here: the cutover sets the sequences.
            let statement = match () {
                () if *oid == relation.oid || own == relation.table => format!("truncate {only}{}", relation.table.sql()),
                // A leaf is truncated under its own name. ONLY is refused on hypertables, and would spare the leaves of a root.
                () if relation.target.kind == TableKind::Partitioned => format!("truncate {}", own.sql()),
                () => {
                    let table = relation.table.clone();
                    let (statement, whole) = self.without_partition(&named, *oid, &own, &table).await?;
                    if whole {
                        emptied.insert(target);
                    }
                    statement
                }
            };
            if !statements.contains(&statement) {
                statements.push(statement);
                targets.push(target);
            }
        }
        if statements.is_empty() {
            return Ok(());
        }
        if transaction.deferrable && transaction.whole.is_none() {
            self.gather(state).await?;
        }
        let Some(whole) = state.transaction.as_mut().and_then(|t| t.whole.as_mut()) else {
            return self.together(statements, targets, to, state).await;
        };
        whole.stretches.push(Stretch { changes: Vec::new(), then: statements });
        whole.truncated.extend(targets);
        Ok(())
    }

    /// What the TRUNCATE of a partition is where its root is one table. A TRUNCATE of the root names all leaves. The bounds of one are
    /// those which it had at the copy and has now; where they are not known for sure, the statement fails with a text that tells the
    /// operator what to do. With it, whether it is the whole table that is truncated.
    async fn without_partition(&mut self, named: &HashSet<u32>, oid: u32, partition: &TableName, table: &TableName) -> Result<(String, bool)> {
        let now = self.partition(oid).await?;
        if now.as_ref().is_some_and(|(_, leaves)| leaves.iter().all(|leaf| named.contains(leaf))) {
            return Ok((format!("truncate {}", table.sql()), true));
        }
        let bounds = match (self.partitions.get(&oid).map(|p| p.bounds.clone()), now.map(|(p, _)| p.bounds)) {
            (Some(then), Some(now)) => then.filter(|then| now.as_ref() == Some(then)),
            (Some(then), None) => then,
            (None, now) => now.flatten(),
        };
        let statement = bounds.map_or_else(
            || {
                let text = literal(&format!("{partition} was truncated on the source; which of the rows of {table} were in it is not known here"));
                let hint = literal(&format!("delete those rows from {table} on the target by hand, then go on without this statement"));
                format!("do {}", literal(&format!("begin raise exception using message = {text}, hint = {hint}; end")))
            },
            |bounds| format!("delete from {} where {bounds}", table.sql()),
        );
        Ok((statement, false))
    }

    /// All lanes stop, one of them runs statements for all and moves all positions in one transaction, and they go on.
    pub(super) async fn together(&mut self, statements: Vec<String>, truncated: Vec<usize>, to: Position, state: &mut State) -> Result<()> {
        self.send_packs(state).await?;
        let lanes = (0..).zip(self.stop_lanes().await?).collect();
        if let Some(transaction) = &mut state.transaction {
            transaction.lanes.fill(true);
        }
        self.hand_to_one(vec![Stretch { changes: Vec::new(), then: statements }], truncated, lanes, to).await
    }

    /// Lanes that have stopped here are moved by the first of them, in the transaction that does what is due.
    pub(super) async fn hand_to_one(
        &mut self,
        stretches: Vec<Stretch>,
        truncated: Vec<usize>,
        lanes: Vec<(u32, Position)>,
        to: Position,
    ) -> Result<()> {
        let (done, finished) = oneshot::channel();
        send(&self.lanes[0], Feed::Together(Box::new(Together { stretches, truncated, lanes, to, done }))).await?;
        finished.await.map_err(|_| lane_gone())?;
        for lane in &self.lanes {
            send(lane, Feed::Moved(to)).await?;
        }
        Ok(())
    }

    /// The lanes give back what they hold of the transaction that is being read: from here on one of them has it all.
    pub(super) async fn gather(&mut self, state: &mut State) -> Result<()> {
        self.send_packs(state).await?;
        let Some(transaction) = &mut state.transaction else { return Ok(()) };
        let mut answers = Vec::new();
        for lane in &self.lanes {
            let (back, answer) = oneshot::channel();
            send(lane, Feed::HandOver(transaction.commit, back)).await?;
            answers.push(answer);
        }
        let (mut lanes, mut changes) = (Vec::new(), Vec::new());
        for (lane, answer) in (0..).zip(answers) {
            let (position, back) = answer.await.map_err(|_| lane_gone())?;
            lanes.push((lane, position));
            changes.extend(back);
        }
        changes.sort_by_key(|change| change.position);
        transaction.whole = Some(Whole { stretches: vec![Stretch { changes, then: Vec::new() }], truncated: Vec::new(), lanes });
        Ok(())
    }
}
