//! Throw-away servers, demo data and an application that keeps writing: `hyperlift demo` and the tests use them.
//!
//! Nothing here takes part in a migration. All servers are on this machine and are used without TLS.

mod actions;
pub mod application;
pub mod compare;
pub mod data;
pub mod servers;
pub mod timescale;

use crate::error::Result;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Opens a session. Its connection task ends by itself as soon as the client is dropped.
pub async fn connect(uri: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "demo connection ended");
        }
    });
    Ok(client)
}

/// Runs one or more statements in a session of its own. Several statements without `begin` are one transaction.
pub async fn execute(uri: &str, sql: &str) -> Result<()> {
    Ok(connect(uri).await?.batch_execute(sql).await?)
}

/// The rows of one or more statements, in a session of its own, every value as text.
pub async fn query_text(uri: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    rows(&connect(uri).await?, sql).await
}

/// The rows of one or more statements, every value as text.
pub(crate) async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let mut rows = Vec::new();
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    Ok(rows)
}
