//! Which servers are tried, in what order and with what encryption (libpq's rules), and what a failure means to an operator.
//!
//! Shared by both clients, so that they reach the same server and report the same words.

use std::{collections::VecDeque, io, time::Duration};

use super::conninfo::{Conninfo, Host, SessionAttribute, SslMode};
use crate::{
    error::{Error, Kind},
    sqlstate,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    Plain,
    /// TLS if the server offers it.
    Offered,
    Required,
}

/// A host, and how to connect to it.
#[derive(Clone)]
pub struct HostCandidate {
    pub host: Host,
    pub encryption: Encryption,
    /// What the server must answer about `transaction_read_only`.
    pub session: SessionAttribute,
    /// Tried only when the candidate before it failed because of its encryption.
    otherwise: bool,
}

/// The remaining candidates, and why the earlier ones failed.
pub struct ConnectOrder {
    remaining: VecDeque<HostCandidate>,
    failures: Vec<Error>,
}

impl ConnectOrder {
    pub fn new(info: &Conninfo) -> Self {
        let encryptions: &[Encryption] = match info.ssl().mode {
            SslMode::Disable => &[Encryption::Plain],
            SslMode::Allow => &[Encryption::Plain, Encryption::Required],
            SslMode::Prefer => &[Encryption::Offered, Encryption::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Required],
        };
        let sessions: &[SessionAttribute] = match info.session_attribute() {
            SessionAttribute::Any => &[SessionAttribute::Any],
            SessionAttribute::ReadWrite => &[SessionAttribute::ReadWrite],
            SessionAttribute::ReadOnly => &[SessionAttribute::ReadOnly],
            SessionAttribute::PreferStandby => &[SessionAttribute::ReadOnly, SessionAttribute::Any],
        };
        let mut remaining = VecDeque::new();
        for &session in sessions {
            for host in info.hosts() {
                let encryptions = if host.is_unix() { &[Encryption::Plain] } else { encryptions };
                for (i, &encryption) in encryptions.iter().enumerate() {
                    remaining.push_back(HostCandidate { host: host.clone(), encryption, session, otherwise: i > 0 });
                }
            }
        }
        Self { remaining, failures: Vec::new() }
    }

    /// Records why `candidate` failed, and drops candidates that would fail for the same reason.
    pub fn failed(&mut self, failure: ConnectFailure, candidate: &HostCandidate, info: &Conninfo) {
        if !failure.is_about_encryption() {
            while self.remaining.front().is_some_and(|next| next.otherwise) {
                self.remaining.pop_front();
            }
        }
        let answered = matches!(failure, ConnectFailure::Server(_) | ConnectFailure::NoPassword | ConnectFailure::Authentication(_));
        let error = failure.explain(info, &candidate.host);
        // A server that was reached and refuses us is the answer. libpq tries no other either.
        if answered && error.kind == Kind::Refused && !self.remaining.front().is_some_and(|next| next.otherwise) {
            self.remaining.clear();
        }
        self.failures.push(error);
    }

    /// The last failure, with the others as its detail.
    pub fn into_error(mut self) -> Error {
        let Some(mut last) = self.failures.pop() else { return Error::failed("no host to connect to") };
        let mut others: Vec<String> = self.failures.iter().map(Error::to_string).collect();
        others.dedup();
        others.retain(|other| *other != last.to_string());
        if !others.is_empty() {
            last.detail = Some(last.detail.into_iter().chain(others).collect::<Vec<_>>().join("; "));
        }
        last
    }
}

impl Iterator for ConnectOrder {
    type Item = HostCandidate;
    fn next(&mut self) -> Option<HostCandidate> {
        self.remaining.pop_front()
    }
}

/// Why a connection failed.
#[derive(Debug)]
pub enum ConnectFailure {
    /// The network or the operating system.
    Io(io::Error),
    Timeout(Duration),
    /// The server closed the connection without an error.
    Closed,
    NoTls,
    /// The TLS request was answered with an error. Its text is not shown, because anybody in between can have written it (CVE-2024-10977).
    TlsRequestFailed,
    Tls(io::Error),
    NoPassword,
    /// SCRAM: the server does not know our password, or its method is not supported.
    Authentication(String),
    /// An ErrorResponse.
    Server(Error),
    /// `target_session_attrs` asks for another kind of server.
    WrongSession(&'static str),
    Other(Error),
}

impl From<io::Error> for ConnectFailure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(e) }
    }
}

impl ConnectFailure {
    fn is_about_encryption(&self) -> bool {
        match self {
            Self::NoTls | Self::Tls(_) | Self::TlsRequestFailed => true,
            // "no pg_hba.conf entry for host …, SSL encryption"
            Self::Server(e) => e.has_code(sqlstate::INVALID_AUTHORIZATION),
            _ => false,
        }
    }

    /// The error for the operator.
    fn explain(self, info: &Conninfo, host: &Host) -> Error {
        match self {
            Self::Io(e) => Error::connection(format!("cannot connect to {host}: {}", reason(&e)))
                .hint("check the host, the port, and that nothing between blocks the connection")
                .source(e),
            Self::Timeout(after) => Error::connection(format!("cannot connect to {host}: no answer within {} s", after.as_secs()))
                .hint("check the host, the port and the firewalls between; connect_timeout sets how long to wait"),
            Self::Closed => Error::connection(format!("{host} closed the connection before it was established"))
                .hint("check that a PostgreSQL server listens there; its log may say more"),
            Self::NoTls => {
                Error::refused(format!("{host} offers no TLS")).hint("enable ssl on the server, or set sslmode=disable if the network is trusted")
            }
            Self::TlsRequestFailed => Error::connection(format!("{host} answers the request for TLS with an error"))
                .hint("check that a PostgreSQL server listens there; its log may say more"),
            Self::Tls(e) if e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => {
                Error::refused(format!("no TLS connection to {host}: {e}"))
                    .hint("check sslmode, sslrootcert, sslcert and sslkey against the server's certificate")
                    .source(e)
            }
            Self::Tls(e) => Error::connection(format!("no TLS connection to {host}: {}", reason(&e))).source(e),
            Self::NoPassword => Error::refused(format!("{host} asks for the password of user \"{}\" and there is none", info.user()))
                .hint("set PGPASSWORD, or add a line to ~/.pgpass (mode 0600): host:port:dbname:user:password"),
            Self::Authentication(why) => Error::refused(format!("{host} and user \"{}\" cannot authenticate: {why}", info.user())),
            Self::WrongSession(found) => Error::refused(format!("{host} is {found}")).hint("target_session_attrs asks for another kind of server"),
            Self::Server(e) => refusal(e, info, host),
            Self::Other(e) => e.context(host),
        }
    }
}

/// The error with which a server refused a connection.
fn refusal(e: Error, info: &Conninfo, host: &Host) -> Error {
    let code = e.sqlstate.clone().unwrap_or_default();
    let (kind, hint) = match code.as_str() {
        sqlstate::INVALID_PASSWORD => (Kind::Refused, "check the user and the password (PGPASSWORD, ~/.pgpass)"),
        sqlstate::INVALID_AUTHORIZATION => (Kind::Refused, "check the user, and that the server's pg_hba.conf lets it in from here"),
        sqlstate::INVALID_CATALOG_NAME => (Kind::Refused, "create the database, or correct its name"),
        sqlstate::INSUFFICIENT_PRIVILEGE => (Kind::Refused, "grant the user the right to connect (and replication, where asked for)"),
        sqlstate::CANNOT_CONNECT_NOW => (Kind::Connection, "the server is starting, stopping or recovering: retry in a moment"),
        sqlstate::TOO_MANY_CONNECTIONS => (Kind::Connection, "raise max_connections of the server, or use fewer connections"),
        _ => (e.kind, ""),
    };
    let mut e = e.context(format!("{host} refuses user \"{}\"", info.user()));
    e.kind = kind;
    if e.hint.is_none() && !hint.is_empty() {
        e.hint = Some(hint.to_owned());
    }
    e
}

/// The reason that the operating system gives, without its number.
pub fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Conninfo {
        Conninfo::parse_with(text, &|name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap()
    }

    fn plan(text: &str) -> String {
        let tried = ConnectOrder::new(&info(text)).map(|c| format!("{} {:?} {:?}", c.host, c.encryption, c.session));
        tried.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn hosts_are_tried_in_their_order() {
        for (text, expected) in [
            ("user=u host=a", "a:5432 Offered Any, a:5432 Plain Any"),
            ("user=u host=a sslmode=allow", "a:5432 Plain Any, a:5432 Required Any"),
            ("user=u host=a,b sslmode=verify-ca", "a:5432 Required Any, b:5432 Required Any"),
            ("user=u host=/run,b sslmode=disable", "/run:5432 Plain Any, b:5432 Plain Any"),
            ("user=u host=/run sslmode=require", "/run:5432 Plain Any"),
            ("user=u host=a sslmode=require target_session_attrs=prefer-standby", "a:5432 Required ReadOnly, a:5432 Required Any"),
        ] {
            assert_eq!(plan(text), expected, "{text}");
        }
    }

    #[test]
    fn plain_is_tried_only_after_a_failure_of_tls() {
        let info = info("user=u host=a,b");
        let fails = |failure: ConnectFailure| {
            let mut order = ConnectOrder::new(&info);
            let first = order.next().unwrap();
            order.failed(failure, &first, &info);
            order.next().map(|next| (next.host.name, next.encryption))
        };
        let tls = || io::Error::other(rustls::Error::DecryptError);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(fails(ConnectFailure::Tls(tls())), Some(("a".to_owned(), Encryption::Plain)));
        assert_eq!(fails(ConnectFailure::Server(Error::database("28000", "no entry", None, None))), Some(("a".to_owned(), Encryption::Plain)));
        assert_eq!(fails(ConnectFailure::Io(refused())), Some(("b".to_owned(), Encryption::Offered)));
        assert_eq!(fails(ConnectFailure::Server(Error::database("57P03", "starting", None, None))), Some(("b".to_owned(), Encryption::Offered)));
        assert_eq!(fails(ConnectFailure::Server(Error::database("28P01", "wrong", None, None))), None);
        assert_eq!(fails(ConnectFailure::NoPassword), None);
        assert_eq!(fails(ConnectFailure::WrongSession("read-only")), Some(("b".to_owned(), Encryption::Offered)));
    }

    #[test]
    fn every_failure_names_the_host_and_a_remedy() {
        let info = info("user=u host=db.example port=6 password=hunter2");
        let host = &info.hosts()[0];
        for (failure, kind) in [
            (ConnectFailure::Io(io::Error::from_raw_os_error(111)), Kind::Connection),
            (ConnectFailure::Timeout(Duration::from_secs(10)), Kind::Connection),
            (ConnectFailure::Closed, Kind::Connection),
            (ConnectFailure::NoTls, Kind::Refused),
            (ConnectFailure::TlsRequestFailed, Kind::Connection),
            (ConnectFailure::Tls(io::Error::other(rustls::Error::DecryptError)), Kind::Refused),
            (ConnectFailure::NoPassword, Kind::Refused),
            (ConnectFailure::Server(Error::database("28P01", "wrong", None, None)), Kind::Refused),
            (ConnectFailure::Server(Error::database("3D000", "none", None, None)), Kind::Refused),
            (ConnectFailure::Server(Error::database("57P03", "starting", None, None)), Kind::Connection),
        ] {
            let e = failure.explain(&info, host);
            assert!(e.kind == kind && e.to_string().contains("db.example:6") && e.hint.is_some(), "{e:?}");
            assert!(!format!("{e:?}").contains("hunter2"));
        }
        let e = ConnectFailure::Io(io::Error::from_raw_os_error(111)).explain(&info, host);
        assert_eq!(e.to_string(), "cannot connect to db.example:6: Connection refused");
    }
}
