//! From an open socket to the first ReadyForQuery: startup message and authentication (documentation 55.2.1, 55.3).

use std::collections::HashMap;

use bytes::{Buf, BytesMut};
use postgres_protocol::{
    authentication::{md5_hash, sasl},
    message::frontend,
};
use tokio_postgres::config::ChannelBinding;

use super::{
    Frame, READ_BYTES, Wire, server_error,
    socket::{self, Canceller, Socket},
};
use crate::{
    error::{Error, Result},
    pg::connect::{
        conninfo::{Conninfo, SessionAttribute},
        hosts::{ConnectFailure, HostCandidate},
        tls::Tls,
    },
};

/// Connects to one candidate.
pub async fn connect(
    info: &Conninfo,
    candidate: &HostCandidate,
    tls: &Tls,
    application_name: &str,
    replication: bool,
) -> Result<Wire, ConnectFailure> {
    let Socket { io, binding, encrypted, place } = socket::open(info, candidate, tls).await?;
    let host = &candidate.host;
    let canceller = Canceller {
        place,
        host: host.name.clone(),
        tls: encrypted.then(|| tls.clone()),
        direct: info.ssl().direct,
        pid: 0,
        secret: 0,
        patience: info.connect_timeout(),
    };
    let mut wire = Wire {
        io,
        inbox: BytesMut::with_capacity(READ_BYTES),
        outbox: BytesMut::new(),
        parameters: HashMap::new(),
        canceller,
        statements: HashMap::new(),
        named: 0,
        peer: host.to_string(),
    };
    let start = async {
        let mut parameters = vec![("user", info.user()), ("database", info.dbname()), ("client_encoding", "UTF8")];
        parameters.push(("application_name", application_name));
        parameters.extend(info.options().map(|options| ("options", options)));
        parameters.extend(replication.then_some(("replication", "database")));
        frontend::startup_message(parameters, &mut wire.outbox)?;
        wire.flush().await.map_err(broken)?;
        let password = info.password_for(host).map(str::as_bytes);
        authenticate(&mut wire, info, password, binding).await?;
        check_session(&mut wire, candidate.session).await
    };
    socket::within(info.connect_timeout(), start).await?;
    Ok(wire)
}

/// A connection that ends before ReadyForQuery.
fn broken(mut e: Error) -> ConnectFailure {
    match e.source.take().map(<dyn std::error::Error + Send + Sync>::downcast::<std::io::Error>) {
        Some(Ok(io)) => ConnectFailure::from(*io),
        _ if e.sqlstate.is_some() => ConnectFailure::Server(e),
        _ => ConnectFailure::Closed,
    }
}

async fn authenticate(wire: &mut Wire, info: &Conninfo, password: Option<&[u8]>, binding: Option<Vec<u8>>) -> Result<(), ConnectFailure> {
    let mut method = Authentication { info, password, binding, scram: None, bound: false };
    loop {
        let Frame { tag, mut body } = wire.frame().await.map_err(broken)?;
        match tag {
            b'R' => {
                method.answer(&mut body, &mut wire.outbox)?;
                wire.flush().await.map_err(broken)?;
            }
            b'K' => {
                wire.canceller.pid = body.try_get_i32().unwrap_or_default();
                wire.canceller.secret = body.try_get_i32().unwrap_or_default();
            }
            b'E' => return Err(ConnectFailure::Server(server_error(&body))),
            b'Z' => return Ok(()),
            // NegotiateProtocolVersion: we ask for nothing new
            b'v' => {}
            _ => return Err(ConnectFailure::Other(Error::connection("unexpected message during authentication"))),
        }
    }
}

struct Authentication<'a> {
    info: &'a Conninfo,
    password: Option<&'a [u8]>,
    binding: Option<Vec<u8>>,
    scram: Option<sasl::ScramSha256>,
    /// The method proves that nobody is between us and the server.
    bound: bool,
}

impl Authentication<'_> {
    /// Answers one authentication request.
    fn answer(&mut self, body: &mut bytes::Bytes, out: &mut BytesMut) -> Result<(), ConnectFailure> {
        let fail = |e: std::io::Error| ConnectFailure::Authentication(e.to_string());
        let kind = body.try_get_i32().unwrap_or(-1);
        let must_bind = self.info.channel_binding() == ChannelBinding::Require;
        if must_bind && (matches!(kind, 3 | 5) || kind == 0 && !self.bound) {
            return Err(ConnectFailure::Authentication("channel_binding=require, and the server does not ask for it".to_owned()));
        }
        match kind {
            0 => {}
            3 => frontend::password_message(self.password()?, out)?,
            5 => {
                let salt =
                    body.get(..4).and_then(|salt| salt.try_into().ok()).ok_or_else(|| ConnectFailure::Authentication("malformed salt".to_owned()))?;
                let hash = md5_hash(self.info.user().as_bytes(), self.password()?, salt);
                frontend::password_message(hash.as_bytes(), out)?;
            }
            10 => {
                let offered: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
                let offers = |name: &str| offered.contains(&name.as_bytes());
                let (mechanism, binding) = self.mechanism(offers(sasl::SCRAM_SHA_256), offers(sasl::SCRAM_SHA_256_PLUS))?;
                let scram = sasl::ScramSha256::new(self.password()?, binding);
                frontend::sasl_initial_response(mechanism, scram.message(), out)?;
                self.scram = Some(scram);
            }
            11 => {
                let scram = self.scram.as_mut().ok_or_else(|| ConnectFailure::Authentication("SCRAM out of order".to_owned()))?;
                scram.update(body).map_err(fail)?;
                frontend::sasl_response(scram.message(), out)?;
            }
            12 => {
                let scram = self.scram.as_mut().ok_or_else(|| ConnectFailure::Authentication("SCRAM out of order".to_owned()))?;
                scram.finish(body).map_err(fail)?;
            }
            7..=9 => return Err(ConnectFailure::Authentication("the server asks for GSSAPI or SSPI, which is not supported".to_owned())),
            other => return Err(ConnectFailure::Authentication(format!("the server asks for the unknown method {other}"))),
        }
        Ok(())
    }

    fn password(&self) -> Result<&[u8], ConnectFailure> {
        self.password.filter(|password| !password.is_empty()).ok_or(ConnectFailure::NoPassword)
    }

    /// The strongest mechanism that both sides can do.
    fn mechanism(&mut self, plain: bool, plus: bool) -> Result<(&'static str, sasl::ChannelBinding), ConnectFailure> {
        let setting = self.info.channel_binding();
        match self.binding.take().filter(|_| setting != ChannelBinding::Disable) {
            Some(data) if plus => {
                self.bound = true;
                Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data)))
            }
            _ if setting == ChannelBinding::Require => {
                Err(ConnectFailure::Authentication("channel_binding=require, and the connection does not allow it".to_owned()))
            }
            Some(_) if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
            None if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
            _ => Err(ConnectFailure::Authentication("the server offers no mechanism that is supported here".to_owned())),
        }
    }
}

async fn check_session(wire: &mut Wire, wanted: SessionAttribute) -> Result<(), ConnectFailure> {
    if matches!(wanted, SessionAttribute::Any | SessionAttribute::PreferStandby) {
        return Ok(());
    }
    let rows = wire.simple("show transaction_read_only").await.map_err(ConnectFailure::Other)?;
    let read_only = rows.first().and_then(|row| row.first()?.as_deref()) == Some("on");
    session_fits(wanted, read_only)
}

/// Whether a server that is `read_only` is one that `target_session_attrs` accepts.
pub(in crate::pg) fn session_fits(wanted: SessionAttribute, read_only: bool) -> Result<(), ConnectFailure> {
    match wanted {
        SessionAttribute::ReadWrite if read_only => Err(ConnectFailure::WrongSession("read-only")),
        SessionAttribute::ReadOnly if !read_only => Err(ConnectFailure::WrongSession("not read-only")),
        _ => Ok(()),
    }
}
