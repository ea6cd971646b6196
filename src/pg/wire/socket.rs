//! Opens a connection to one server, encrypted if asked for, and sends CancelRequests over others.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
};

use crate::{
    error::{Error, Result},
    pg::connect::{
        conninfo::{Conninfo, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES},
        hosts::{ConnectFailure, Encryption, HostCandidate, reason},
        tls::Tls,
    },
};

/// Any of a TCP, TLS or unix connection.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// An open connection on which nothing but the request for TLS was sent.
pub struct Socket {
    pub io: Box<dyn Io>,
    /// Data for SCRAM's channel binding, when there is TLS.
    pub binding: Option<Vec<u8>>,
    pub encrypted: bool,
    pub place: Place,
}

/// The address of a server: a name may have several, and only one leads to our backend.
#[derive(Clone, Debug)]
pub enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Opens the connection. Each address of a name gets the whole timeout.
pub async fn open(info: &Conninfo, candidate: &HostCandidate, tls: &Tls) -> Result<Socket, ConnectFailure> {
    let host = &candidate.host;
    if host.is_unix() {
        let place = Place::Unix(PathBuf::from(&host.name).join(format!(".s.PGSQL.{}", host.port)));
        let io = within(info.connect_timeout(), place.connect()).await?;
        return Ok(Socket { io: io.into_io(), binding: None, encrypted: false, place });
    }
    let addrs: Vec<SocketAddr> = match host.addr {
        Some(addr) => vec![SocketAddr::new(addr, host.port)],
        None => within(info.connect_timeout(), async { Ok(lookup_host((host.name.as_str(), host.port)).await?.collect()) }).await?,
    };
    let mut last = ConnectFailure::Io(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    for addr in addrs {
        let place = Place::Tcp(addr);
        match within(info.connect_timeout(), place.connect()).await {
            Ok(stream) => {
                return within(info.connect_timeout(), encrypt(stream, place, &host.name, candidate.encryption, info.ssl().direct, tls)).await;
            }
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Runs `work` for no longer than the timeout.
pub async fn within<T>(patience: Option<Duration>, work: impl Future<Output = Result<T, ConnectFailure>>) -> Result<T, ConnectFailure> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, work).await.unwrap_or(Err(ConnectFailure::Timeout(patience))),
        None => work.await,
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn into_io(self) -> Box<dyn Io> {
        match self {
            Self::Unix(stream) => Box::new(stream),
            Self::Tcp(stream) => Box::new(stream),
        }
    }
}

impl Place {
    async fn connect(&self) -> Result<Stream, ConnectFailure> {
        match self {
            Self::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Self::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                // No TCP_USER_TIMEOUT: it would replace the count of keepalives, and would also end a COPY into a server that
                // lives but does not read for a while, because a trigger or a lock keeps it.
                let keepalive =
                    socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// SSLRequest and the handshake (documentation 55.2.10).
async fn encrypt(stream: Stream, place: Place, host: &str, encryption: Encryption, direct: bool, tls: &Tls) -> Result<Socket, ConnectFailure> {
    let mut stream = match stream {
        Stream::Tcp(stream) if encryption != Encryption::Plain => stream,
        stream => return Ok(Socket { io: stream.into_io(), binding: None, encrypted: false, place }),
    };
    if !direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        match stream.read_u8().await? {
            b'S' => {}
            b'N' if encryption == Encryption::Offered => {
                return Ok(Socket { io: Box::new(stream), binding: None, encrypted: false, place });
            }
            b'N' => return Err(ConnectFailure::NoTls),
            _ => return Err(ConnectFailure::TlsRequestFailed),
        }
    }
    let (stream, binding) = tls.handshake(host, stream).await.map_err(ConnectFailure::Tls)?;
    Ok(Socket { io: Box::new(stream), binding, encrypted: true, place })
}

/// Cancels the statement of a connection, through a connection of its own.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) place: Place,
    pub(super) host: String,
    /// For an encrypted connection.
    pub(super) tls: Option<Tls>,
    pub(super) direct: bool,
    pub(super) pid: i32,
    pub(super) secret: i32,
    pub(super) patience: Option<Duration>,
}

impl Canceller {
    /// Sends the CancelRequest and waits until the server has taken it. The server does not say whether it stopped a statement; the
    /// statement fails with `query_canceled` then.
    pub async fn cancel(&self) -> Result<()> {
        let work = async {
            let encryption = if self.tls.is_some() { Encryption::Required } else { Encryption::Plain };
            let stream = self.place.connect().await?;
            let mut io = match &self.tls {
                Some(tls) => encrypt(stream, self.place.clone(), &self.host, encryption, self.direct, tls).await?.io,
                None => stream.into_io(),
            };
            let mut request = BytesMut::new();
            frontend::cancel_request(self.pid, self.secret, &mut request);
            io.write_all(&request).await?;
            io.flush().await?;
            // the server answers by closing, which some do without TLS's goodbye
            let _ = io.read(&mut [0; 1]).await;
            Ok(())
        };
        within(self.patience, work).await.map_err(|failure| {
            let why = match failure {
                ConnectFailure::Io(e) | ConnectFailure::Tls(e) => reason(&e),
                ConnectFailure::Timeout(_) => "no answer".to_owned(),
                _ => "the server does not take the request".to_owned(),
            };
            Error::connection(format!("a statement on {} could not be cancelled: {why}", self.host))
        })
    }
}
