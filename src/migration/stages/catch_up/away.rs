//! The relations that are away from their lanes, and what is being done with them.

use std::{
    collections::{BTreeMap, HashSet},
    future::poll_fn,
    task::Poll,
    time::Instant,
};
use tokio::task::JoinHandle;

use crate::{
    error::{Error, Result},
    event::Event,
    lsn::Lsn,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{Shape, SourceRelation},
        ledger::{self, Leaving},
    },
    replay::{ReplayHandle, lane::Conflict, schema_change::SchemaChange},
};

/// A relation that has to be copied, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub leaving: Leaving,
    pub reason: String,
    /// It is not part of the migration yet.
    pub is_new: bool,
    /// What the copy makes of it is compared with these from then on.
    pub shapes: Vec<(String, Shape)>,
}

/// The relations that are away from their lanes.
#[derive(Default)]
pub struct Joining {
    /// By their side lanes.
    pub groups: BTreeMap<u32, Group>,
    /// New tables that cannot take part, by OID: the operator knows.
    pub refused: HashSet<u32>,
}

/// Relations that share a side lane.
pub struct Group {
    pub tables: Vec<(u32, TableName)>,
    /// Where its lane begins: the spool is kept from here on.
    from: Lsn,
    pub phase: Phase,
    /// Why it does not go on.
    pub failed: Option<String>,
    /// It is not tried before to let them join.
    pub join_after: Instant,
}

pub enum Phase {
    /// At this time the ledger says what is next.
    Begin(Instant),
    Preparing(JoinHandle<Result<Prepared>>),
    Copying(JoinHandle<Result<()>>),
    Following(Box<ReplayHandle>),
}

/// Relations that can be copied.
pub struct Prepared {
    /// As they are on the source.
    pub relations: Vec<SourceRelation>,
    /// The state of the source's catalogs before their tables got its columns.
    pub schema: String,
}

/// What a side lane reports.
pub enum SideEvent {
    Failed(Error),
    Conflict(Conflict),
    SchemaChanged(SchemaChange),
}

impl Joining {
    /// The relations that are away, as the ledger says.
    pub async fn read(cx: &Context) -> Result<Self> {
        let mut found = Self::default();
        found.refresh(cx).await?;
        for table in found.groups.values().flat_map(|g| &g.tables) {
            cx.reporter.report(Event::TableLeft { table: table.1.clone(), reason: "its copy is not complete".into() }).await;
        }
        Ok(found)
    }

    /// Reads the groups again. The work on those that are known goes on.
    pub async fn refresh(&mut self, cx: &Context) -> Result<()> {
        let target = cx.target("joining").await?;
        let (away, entries) = (ledger::away(&target).await?, ledger::relations(&target).await?);
        self.groups.retain(|lane, _| away.contains_key(lane));
        for (lane, relations) in away {
            let mut tables: Vec<_> = relations.iter().filter_map(|(oid, _)| Some((*oid, entries.get(oid)?.table.clone()))).collect();
            tables.sort();
            let from = ledger::side_position(&target, lane).await?.lsn;
            let group = self.groups.entry(lane).or_insert_with(|| Group {
                tables: Vec::new(),
                from,
                phase: Phase::Begin(Instant::now()),
                failed: None,
                join_after: Instant::now(),
            });
            group.tables = tables;
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The spool is needed from here on.
    pub fn from(&self) -> Option<Lsn> {
        self.groups.values().map(Group::from).min()
    }

    /// What is being done, for the gate: `public.t is copied, and 2 more`.
    pub fn describe(&self) -> Option<String> {
        let all: Vec<String> = self.groups.values().flat_map(Group::lines).collect();
        let (first, more) = all.split_first()?;
        Some(if more.is_empty() { first.clone() } else { format!("{first}, and {} more", more.len()) })
    }

    /// What the side lanes report next.
    pub async fn next(&mut self) -> SideEvent {
        poll_fn(|cx| {
            for group in self.groups.values_mut() {
                let Phase::Following(replay) = &mut group.phase else { continue };
                if let Poll::Ready(Some(error)) = replay.failures.poll_recv(cx) {
                    return Poll::Ready(SideEvent::Failed(error));
                }
                if let Poll::Ready(Some(conflict)) = replay.conflicts.poll_recv(cx) {
                    return Poll::Ready(SideEvent::Conflict(conflict));
                }
                if let Poll::Ready(Some(change)) = replay.schema_changes.poll_recv(cx) {
                    return Poll::Ready(SideEvent::SchemaChanged(change));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Ends the work on these relations: it begins again where the ledger says.
    pub async fn interrupt(&mut self, leaving: &[Leaving]) {
        let concerned = |g: &&mut Group| g.tables.iter().any(|(oid, _)| leaving.iter().any(|l| l.oid == *oid || l.replaces == Some(*oid)));
        for group in self.groups.values_mut().filter(concerned) {
            std::mem::replace(&mut group.phase, Phase::Begin(Instant::now())).end().await;
        }
    }

    /// Ends all work.
    pub async fn end(&mut self) {
        for group in std::mem::take(&mut self.groups).into_values() {
            group.phase.end().await;
        }
    }
}

impl Phase {
    async fn end(self) {
        match self {
            Self::Begin(_) => {}
            Self::Preparing(work) => {
                work.abort();
                let _ = work.await;
            }
            Self::Copying(work) => {
                work.abort();
                let _ = work.await;
            }
            Self::Following(replay) => replay.stop().await,
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Begin(_) | Self::Preparing(_) => "is prepared",
            Self::Copying(_) => "is copied",
            Self::Following(_) => "catches up",
        }
    }
}

impl Group {
    fn from(&self) -> Lsn {
        match &self.phase {
            Phase::Following(replay) => replay.durable(),
            _ => self.from,
        }
    }

    fn lines(&self) -> Vec<String> {
        let how = self.failed.clone().map_or_else(|| self.phase.words().to_owned(), |why| format!("waits: {why}"));
        self.tables.iter().map(|(_, table)| format!("{table} {how}")).collect()
    }
}
