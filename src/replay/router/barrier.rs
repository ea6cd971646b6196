//! Barriers (I7): all lanes stop together, because somebody asked for it, or because one of them has to do something for all.

use tokio::sync::oneshot;

use super::{
    routing::{Routing, lane_gone},
    transaction::{BufferedTransaction, OpenTransaction},
};
use crate::{
    error::Result,
    lsn::Position,
    replay::{
        lane::{AllLanes, BatchStep, Feed},
        relation::RelationIndex,
    },
};

impl Routing {
    /// Barriers whose LSN is routed: all lanes stop, the answer is given, and they go on with the next message.
    pub async fn answer_barriers(&mut self) -> Result<()> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(|r| r.lsn <= self.routed);
        self.waiting = later;
        if due.is_empty() {
            return Ok(());
        }
        self.report_routed().await?;
        self.stop_lanes().await?;
        for request in due {
            let _ = request.reached.send(());
        }
        Ok(())
    }

    /// Every lane applies what it has and writes its position; returns the positions.
    pub async fn stop_lanes(&self) -> Result<Vec<Position>> {
        let mut answers = Vec::new();
        for lane in 0..self.spec.lanes.len() {
            let (reached, answer) = oneshot::channel();
            self.send(lane, Feed::Barrier(reached)).await?;
            answers.push(answer);
        }
        let mut positions = Vec::new();
        for answer in answers {
            positions.push(answer.await.map_err(|_| lane_gone())?);
        }
        Ok(positions)
    }

    /// All lanes stop, one of them runs statements for all and moves all positions in one transaction, and they go on. A transaction
    /// that is being read has touched all lanes then.
    pub async fn run_for_all(&mut self, statements: Vec<String>, truncated: Vec<RelationIndex>, to: Position) -> Result<()> {
        self.send_packs().await?;
        let lanes = (self.first_lane()..).zip(self.stop_lanes().await?).collect();
        let steps = vec![BatchStep { changes: Vec::new(), then: statements }];
        self.apply_for_all(BufferedTransaction { steps, truncated, lanes }, to).await
    }

    /// Lanes that have stopped are moved by the first of them, in the transaction that applies what is due.
    pub async fn apply_for_all(&mut self, due: BufferedTransaction, to: Position) -> Result<()> {
        let BufferedTransaction { steps, truncated, lanes } = due;
        let (done, finished) = oneshot::channel();
        self.send(0, Feed::AllLanes(Box::new(AllLanes { steps, truncated, lanes, to, done }))).await?;
        finished.await.map_err(|_| lane_gone())?;
        for lane in 0..self.spec.lanes.len() {
            self.send(lane, Feed::Moved(to)).await?;
        }
        Ok(())
    }

    /// The lanes give back what they hold of the transaction that is being read: from here on one of them gets all of it, at its end.
    pub async fn buffer(&mut self, transaction: &mut OpenTransaction) -> Result<()> {
        self.send_packs().await?;
        let mut answers = Vec::new();
        for lane in 0..self.spec.lanes.len() {
            let (back, answer) = oneshot::channel();
            self.send(lane, Feed::HandOver(transaction.commit, back)).await?;
            answers.push(answer);
        }
        let (mut lanes, mut changes) = (Vec::new(), Vec::new());
        for (lane, answer) in (self.first_lane()..).zip(answers) {
            let (position, back) = answer.await.map_err(|_| lane_gone())?;
            lanes.push((lane, position));
            changes.extend(back);
        }
        changes.sort_by_key(|change| change.position);
        transaction.buffered = Some(BufferedTransaction { steps: vec![BatchStep { changes, then: Vec::new() }], truncated: Vec::new(), lanes });
        Ok(())
    }
}
