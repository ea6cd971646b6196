//! The publications are watched while tables are copied: what somebody takes out of them is missing from the stream.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    migration::context::Context,
    pg::{
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        publication::{self, Publications},
    },
};

/// How often the source is asked.
const EVERY: Duration = Duration::from_secs(5);

/// What is watched.
pub struct WatchedPublications {
    source: Conninfo,
    application: String,
    recorded: Publications,
}

impl WatchedPublications {
    pub fn new(cx: &Context) -> Self {
        Self { source: cx.config.source.clone(), application: cx.application("publications"), recorded: cx.record.publications.clone() }
    }

    /// Ends with an error once a table is not published any more.
    pub async fn until_changed(self) -> Error {
        let mut session = None;
        loop {
            // A source that does not answer is reported elsewhere.
            session = match self.poll(session).await {
                Ok((_, Some(refusal))) => return refusal,
                Ok((client, None)) => Some(client),
                Err(_) => None,
            };
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn poll(&self, session: Option<Client>) -> Result<(Client, Option<Error>)> {
        let client = match session {
            Some(client) => client,
            None => client::connect(&self.source, Side::Source, &self.application).await?,
        };
        let found = publication::unpublished(&client, &self.recorded).await?;
        Ok((client, publication::refusal(&found)))
    }
}
