//! SQL with parameters, through tokio-postgres. Every session begins with our settings.

use crate::pg::connect::session::{Side, session_settings, version_num};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    time::Duration,
};

use futures_util::future::poll_fn;
use tokio::task::JoinHandle;
use tokio_postgres::{
    AsyncMessage, SimpleQueryMessage,
    config::{SslMode, TargetSessionAttrs},
};

use super::{
    connect::{
        conninfo::{Conninfo, SessionAttribute},
        hosts::{ConnectFailure, ConnectOrder, Encryption, HostCandidate},
        tls::Tls,
    },
    wire,
};
use crate::error::{Error, Result};

/// A connection and the task that serves it; both end when it is dropped.
pub struct Client {
    inner: tokio_postgres::Client,
    task: JoinHandle<()>,
    tls: Tls,
    version: u32,
    pid: i32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("version", &self.version).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Client {
    /// `server_version_num`: 150020 for 15.20.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The process id of the server's backend.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Stops the statement that is running, over a connection of its own.
    pub async fn cancel(&self) -> Result<()> {
        Ok(self.inner.cancel_token().cancel_query(self.tls.connector()).await?)
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;
    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to the first host that is accepted and applies [`session_settings`]. Errors name the side.
pub async fn connect(info: &Conninfo, side: Side, application_name: &str) -> Result<Client> {
    let open = async {
        let tls = Tls::new(info)?;
        let mut order = ConnectOrder::new(info);
        while let Some(candidate) = order.next() {
            match with_timeout(info.connect_timeout(), open(info, side, &candidate, &tls, application_name)).await {
                Ok(client) => return Ok(client),
                Err(failure) => order.failed(failure, &candidate, info),
            }
        }
        Err(order.into_error())
    };
    open.await.map_err(|e: Error| e.context(side))
}

/// tokio-postgres limits how long opening each address takes, and nothing after that. A server that does not answer then gets the same time
/// again.
async fn with_timeout<T>(patience: Option<Duration>, work: impl Future<Output = Result<T, ConnectFailure>>) -> Result<T, ConnectFailure> {
    match patience {
        Some(patience) => tokio::time::timeout(patience * 2, work).await.unwrap_or(Err(ConnectFailure::Timeout(patience))),
        None => work.await,
    }
}

async fn open(info: &Conninfo, side: Side, candidate: &HostCandidate, tls: &Tls, application_name: &str) -> Result<Client, ConnectFailure> {
    let mut config = info.only(&candidate.host).config(application_name);
    config.target_session_attrs(TargetSessionAttrs::Any).ssl_mode(match candidate.encryption {
        Encryption::Plain => SslMode::Disable,
        Encryption::Offered => SslMode::Prefer,
        Encryption::Required => SslMode::Require,
    });
    let (inner, mut connection) = config.connect(tls.connector()).await.map_err(|e| failure(e, info.connect_timeout()))?;
    let version = version_num(connection.parameter("server_version").unwrap_or_default());
    let server = candidate.host.to_string();
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => tracing::debug!(server, sqlstate = notice.code().code(), "{}", notice.message()),
                Ok(_) => {}
                // whoever uses the client gets the error from it
                Err(e) => return tracing::debug!(server, "connection ended: {e}"),
            }
        }
    });
    let mut client = Client { inner, task, tls: tls.clone(), version, pid: 0 };
    let batch = format!("{}show transaction_read_only; select pg_catalog.pg_backend_pid()", session_settings(side, version));
    let answer = client.inner.simple_query(&batch).await.map_err(|e| ConnectFailure::Other(e.into()))?;
    let values: Vec<&str> = answer.iter().filter_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None }).collect();
    if candidate.session != SessionAttribute::Any {
        wire::session_fits(candidate.session, values.first() == Some(&"on"))?;
    }
    client.pid = values.get(1).and_then(|pid| pid.parse().ok()).unwrap_or_default();
    Ok(client)
}

/// The failure that an error of tokio-postgres means. The kinds of its errors are private.
fn failure(e: tokio_postgres::Error, patience: Option<Duration>) -> ConnectFailure {
    if e.as_db_error().is_some() {
        return ConnectFailure::Server(e.into());
    }
    if e.is_closed() {
        return ConnectFailure::Closed;
    }
    let kind = e.to_string();
    let about = |part: &str| kind.contains(part);
    let text = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
    if text.contains("password missing") {
        return ConnectFailure::NoPassword;
    }
    if about("TLS handshake") && text.contains("does not support TLS") {
        return ConnectFailure::NoTls;
    }
    if about("authentication") {
        return ConnectFailure::Authentication(text);
    }
    let (handshake, unclear) = (about("TLS handshake"), Error::connection(format!("{kind}: {text}")));
    match e.into_source().map(<dyn std::error::Error + Send + Sync>::downcast::<std::io::Error>) {
        Some(Ok(io)) if handshake => ConnectFailure::Tls(*io),
        Some(Ok(io)) if io.kind() == std::io::ErrorKind::TimedOut && io.raw_os_error().is_none() => {
            ConnectFailure::Timeout(patience.unwrap_or_default())
        }
        Some(Ok(io)) => ConnectFailure::from(*io),
        _ => ConnectFailure::Other(unclear),
    }
}

/// One value of any query that yields one row.
pub async fn value<T>(client: &Client, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fit_side_and_version() {
        let source = session_settings(Side::Source, 130_000);
        assert!(!source.contains("check_function_bodies"));
        assert!(!source.contains("idle_session_timeout") && !source.contains("set transaction_timeout"));
        let target = session_settings(Side::Target, 170_002);
        assert!(target.contains("set check_function_bodies = off;") && target.contains("set default_table_access_method = heap;"));
        assert!(target.contains("set idle_session_timeout = 0;") && target.contains("set transaction_timeout = 0;"));
        assert!(session_settings(Side::Target, 160_000).contains("idle_session_timeout"));
        for both in [&source, &target] {
            for setting in ["datestyle = 'ISO, YMD'", "extra_float_digits = 3", "search_path = ''", "row_security = off", "statement_timeout = 0"] {
                assert!(both.contains(&format!("set {setting};\n")), "{setting}");
            }
        }
    }

    #[test]
    fn versions_become_numbers() {
        for (text, number) in
            [("15.20 (Debian 15.20-1)", 150_020), ("9.6.24", 90_624), ("18beta1", 180_000), ("17devel", 170_000), ("10.0", 100_000), ("", 0)]
        {
            assert_eq!(version_num(text), number, "{text}");
        }
    }
}
