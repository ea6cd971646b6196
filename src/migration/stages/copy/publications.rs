//! The publications are watched while tables are copied: what somebody takes out of them is missing from the stream.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    event::Stage,
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
    /// In catch-up a table is copied again that was taken out of its publication.
    before_catch_up: bool,
}

impl WatchedPublications {
    pub fn new(cx: &Context) -> Self {
        Self {
            source: cx.config.source.clone(),
            application: cx.application("publications"),
            recorded: cx.record.publications.clone(),
            before_catch_up: !cx.is_finished(Stage::Copy),
        }
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
        let mut found = publication::unpublished(&client, &self.recorded).await?;
        found.retain(|u| self.before_catch_up || !u.alone);
        Ok((client, publication::refusal(&found)))
    }
}
