//! Partitions that are added during the migration. They are published with their root, and one without a replica identity makes the
//! application's own UPDATE and DELETE fail.

use std::{collections::HashSet, time::Duration};

use crate::{
    bus::Reporter,
    error::Result,
    event::Level,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{self, SourceRelation},
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
    },
    plan::IdentityChoice,
};

/// How often the source is asked.
const EVERY: Duration = Duration::from_secs(5);

/// What is watched.
pub struct BareLeaves {
    source: Conninfo,
    application: String,
    reporter: Reporter,
    /// OIDs of the roots whose updates are published.
    roots: Vec<u32>,
}

impl BareLeaves {
    pub fn new(cx: &Context, relations: &[SourceRelation]) -> Self {
        let updated = |r: &&SourceRelation| r.storage.is_partitioned() && cx.plan.identity(&r.table) != Some(&IdentityChoice::InsertOnly);
        Self {
            source: cx.config.source.clone(),
            application: cx.application("partitions"),
            reporter: cx.reporter.clone(),
            roots: relations.iter().filter(updated).map(|r| r.oid).collect(),
        }
    }

    /// Names each once, for as long as it is polled.
    pub async fn watch(self) {
        if self.roots.is_empty() {
            return std::future::pending().await;
        }
        let (mut session, mut named) = (None, HashSet::new());
        loop {
            // Best effort: a source that does not answer is reported elsewhere.
            session = match self.poll(session).await {
                Ok((client, bare)) => {
                    for leaf in bare {
                        if named.insert(leaf.clone()) {
                            self.reporter.notice(Level::Warn, sentence(&leaf)).await;
                        }
                    }
                    Some(client)
                }
                Err(_) => None,
            };
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn poll(&self, session: Option<Client>) -> Result<(Client, Vec<TableName>)> {
        let client = match session {
            Some(client) => client,
            None => client::connect(&self.source, Side::Source, &self.application).await?,
        };
        let bare = catalog::leaf_identities(&client, &self.roots).await?.into_iter().filter(|l| l.bare).map(|l| l.table).collect();
        Ok((client, bare))
    }
}

fn sentence(leaf: &TableName) -> String {
    let name = leaf.sql();
    format!(
        "partition {leaf} has no usable replica identity: UPDATE and DELETE of its rows FAIL on the source. \
         Run there: alter table {name} add primary key (…), or alter table {name} replica identity full"
    )
}
