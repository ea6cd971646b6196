//! A pooler between a migration and a real server. Only the pooler is written for the tests.

use std::{
    io::Result,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{Database, Pair, hyperlift};

/// Sessions of the server that nobody uses.
type Idle = Arc<Mutex<Vec<TcpStream>>>;

/// Starts a pooler in front of this database and gives its URI. `by_transaction`: it takes the session back after each transaction.
pub async fn pooler(database: &Database, by_transaction: bool) -> Database {
    let (user, place) = database.uri.split_once("127.0.0.1:").unwrap();
    let (port, name) = place.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("{user}127.0.0.1:{}/{name}", listener.local_addr().unwrap().port());
    let (server, idle) = (Server { port: port.parse().unwrap(), database: name.to_owned() }, Idle::default());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, idle) = (server.clone(), Arc::clone(&idle));
            tokio::spawn(async move {
                let _ = serve(client, &server, &idle, by_transaction).await;
            });
        }
    });
    Database { uri }
}

#[derive(Clone)]
struct Server {
    port: u16,
    database: String,
}

impl Server {
    /// A session that is ready for a query, and what the server said until then, from the first ParameterStatus on.
    async fn session(&self) -> Result<(TcpStream, Vec<u8>)> {
        let mut session = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let parameters = format!("user\0postgres\0database\0{}\0\0", self.database);
        session.write_i32(8 + parameters.len() as i32).await?;
        session.write_i32(3 << 16).await?;
        session.write_all(parameters.as_bytes()).await?;
        let mut said = Vec::new();
        loop {
            let (tag, message) = message(&mut session).await?;
            match tag {
                b'Z' => return Ok((session, said)),
                b'S' => said.extend(message),
                b'E' => panic!("{}", String::from_utf8_lossy(&message)),
                _ => {}
            }
        }
    }
}

/// One message with its header.
async fn message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let length = stream.read_i32().await?;
    let mut whole = vec![tag];
    whole.extend(length.to_be_bytes());
    whole.resize(1 + length as usize, 0);
    stream.read_exact(&mut whole[5..]).await?;
    Ok((tag, whole))
}

async fn serve(mut client: TcpStream, server: &Server, idle: &Idle, by_transaction: bool) -> Result<()> {
    loop {
        let length = client.read_i32().await?;
        let mut packet = vec![0; length as usize - 4];
        client.read_exact(&mut packet).await?;
        if packet[..4] == (3_i32 << 16).to_be_bytes() {
            break;
        }
        client.write_all(b"N").await?;
    }
    let (session, said) = server.session().await?;
    idle.lock().unwrap().push(session);
    // AuthenticationOk, a key of its own, ReadyForQuery
    client.write_all(b"R\0\0\0\x08\0\0\0\0").await?;
    client.write_all(&said).await?;
    client.write_all(b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I").await?;
    let mut held = None;
    loop {
        let (tag, query) = message(&mut client).await?;
        if tag == b'X' {
            return Ok(());
        }
        let mut session = match held.take().or_else(|| idle.lock().unwrap().pop()) {
            Some(session) => session,
            None => server.session().await?.0,
        };
        session.write_all(&query).await?;
        if !matches!(tag, b'Q' | b'S') {
            held = Some(session);
            continue;
        }
        let status = loop {
            let (tag, answer) = message(&mut session).await?;
            client.write_all(&answer).await?;
            if tag == b'Z' {
                break answer[5];
            }
        };
        if by_transaction && status == b'I' { idle.lock().unwrap().push(session) } else { held = Some(session) }
    }
}

async fn check(source: &Database, target: &Database) -> (Option<i32>, String) {
    let output = hyperlift().args(["check", "--source", &source.uri, "--target", &target.uri]).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn n_6_a_pooler_by_transactions_is_refused_before_it_gets_a_setting_of_ours() {
    let pair = Pair::shared().await;
    let (before_source, before_target) = (pooler(&pair.source, true).await, pooler(&pair.target, true).await);
    for (side, pooler, (source, target)) in
        [("source", &before_source, (&before_source, &pair.target)), ("target", &before_target, (&pair.source, &before_target))]
    {
        let (code, text) = check(source, target).await;
        assert_eq!(code, Some(3), "{text}");
        assert!(
            text.contains(&format!("{side}: there is a connection pooler at 127.0.0.1:")) && text.contains("connect to the PostgreSQL server itself"),
            "{text}"
        );
        // The application's sessions have the settings that they had.
        assert_eq!(pooler.value("select string_agg(name, ' ') from pg_settings where source = 'session'").await, "∅");
    }
    let (code, text) = check(&pair.source, &pair.target).await;
    assert!(code == Some(0) && text.contains("check no pooler: ok"), "{text}");
}

#[tokio::test]
async fn n_6_of_a_proxy_that_keeps_sessions_it_is_warned() {
    let pair = Pair::shared().await;
    let proxy = pooler(&pair.target, false).await;
    let (code, text) = check(&pair.source, &proxy).await;
    assert!(code == Some(0) && text.contains("check no pooler: WARN") && text.contains("in front of the target"), "{text}");
}
