//! The one error type of hyperlift: what happened, to what, and what the operator can do about it.
//!
//! It never carries row values or passwords, so it may be shown and logged anywhere.

use std::fmt;

use crate::sqlstate;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error is about. It decides the exit code and whether the work is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A flag, a URI or the work directory is wrong: exit 2.
    Usage,
    /// A check or gate failed (unreachable, password, `wal_level`, another migration's directory): exit 3.
    Refused,
    /// The operator, or a signal, stopped the run; it can be continued: exit 4.
    Stopped,
    /// Source and target differ: exit 5.
    Differs,
    /// A connection broke, or the server is starting or stopping: it may be retried.
    Connection,
    /// A server reported an error with an SQLSTATE.
    Database,
    /// Anything else: exit 1.
    Failed,
}

/// An error with all that an operator needs.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    pub kind: Kind,
    /// One sentence: what happened, and to what.
    pub message: String,
    /// More of it, for instance the server's DETAIL.
    pub detail: Option<String>,
    /// What the operator can do.
    pub hint: Option<String>,
    /// SQLSTATE, five characters (PostgreSQL documentation, appendix A).
    pub sqlstate: Option<String>,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(code) = &self.sqlstate {
            write!(f, " ({code})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ". {}", detail.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: None, hint: None, sqlstate: None, source: None }
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }
    pub fn connection(message: impl Into<String>) -> Self {
        Self::new(Kind::Connection, message)
    }
    /// The run was stopped on purpose.
    pub fn stopped() -> Self {
        Self::new(Kind::Stopped, "stopped by the operator")
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
    #[must_use]
    pub fn source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
    /// Puts the thing it happened to in front of the message: `copy public.orders: …`.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
    /// An error that a server reported (ErrorResponse: severity, SQLSTATE, message, detail, hint).
    pub fn database(code: &str, message: &str, detail: Option<&str>, hint: Option<&str>) -> Self {
        let kind = match code {
            // connection exceptions, shutdown and start-up of the server
            sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN | sqlstate::CANNOT_CONNECT_NOW | sqlstate::TOO_MANY_CONNECTIONS => Kind::Connection,
            code if code.starts_with(sqlstate::CONNECTION_EXCEPTION_CLASS) => Kind::Connection,
            _ => Kind::Database,
        };
        let mut e = Self::new(kind, message);
        e.sqlstate = Some(code.to_owned());
        e.detail = detail.map(str::to_owned);
        e.hint = hint.map(str::to_owned);
        e
    }
    /// Whether the same work may be retried (I8). Not after errors that waiting does not change: an object in the wrong state, such as an
    /// invalidated slot, or a configured limit.
    pub fn is_transient(&self) -> bool {
        match (&self.sqlstate, self.kind) {
            (Some(code), _) if [sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, sqlstate::CONFIGURATION_LIMIT_EXCEEDED].contains(&code.as_str()) => false,
            (Some(code), _) => sqlstate::TRANSIENT_CLASSES.iter().any(|class| code.starts_with(class)),
            (None, kind) => kind == Kind::Connection,
        }
    }
    pub fn is_stop(&self) -> bool {
        self.kind == Kind::Stopped
    }
    pub fn has_code(&self, sqlstate: &str) -> bool {
        self.sqlstate.as_deref() == Some(sqlstate)
    }
    /// The exit code of the program for this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Stopped => 4,
            Kind::Differs => 5,
            Kind::Connection | Kind::Database | Kind::Failed => 1,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::TimedOut
            | std::io::ErrorKind::UnexpectedEof => Kind::Connection,
            _ => Kind::Failed,
        };
        Self::new(kind, e.to_string()).source(e)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(e: tokio_postgres::Error) -> Self {
        if let Some(db) = e.as_db_error() {
            return Self::database(db.code().code(), db.message(), db.detail(), db.hint());
        }
        let closed = e.is_closed();
        let mut text = e.to_string();
        if let Some(cause) = std::error::Error::source(&e) {
            text = format!("{text}: {cause}");
        }
        let broken = closed || text.contains("communicating with the server") || text.contains("connecting to server");
        Self::new(if broken { Kind::Connection } else { Kind::Failed }, text).source(e)
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::failed(format!("JSON: {e}")).source(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_has_the_sqlstate_and_the_detail_once() {
        let e = Error::database("23505", "duplicate key", Some("Key (id) exists."), None).context("public.orders");
        assert_eq!(e.to_string(), "public.orders: duplicate key (23505). Key (id) exists");
    }

    #[test]
    fn only_transient_errors_are_retried() {
        for (code, retried) in
            [("40001", true), ("57P01", true), ("53100", true), ("55P03", true), ("08006", true), ("23505", false), ("22001", false)]
        {
            assert_eq!(Error::database(code, "", None, None).is_transient(), retried, "{code}");
        }
    }
}
