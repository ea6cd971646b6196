//! The frame client and the SQL client against PostgreSQL 15.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use hyperlift::{
    error::{Error, Kind},
    lsn::Lsn,
    pg::{
        client::{self},
        connect::{conninfo::Conninfo, session::Side},
        wire::{Copied, ReplicationMessage, Wire, pipe_copy},
    },
};
use tokio::time::timeout;

use crate::bare_server::Server;

const APP: &str = "hyperlift";

fn info(text: &str) -> Conninfo {
    Conninfo::parse_with(text, &|name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap()
}

fn tcp(server: &Server, more: &str) -> Conninfo {
    info(&format!("host=127.0.0.1 port={} user=hyper password='it\\'s:secret' dbname=postgres {more}", server.port))
}

fn unix(server: &Server, dbname: &str) -> Conninfo {
    info(&format!("host={} port={} user=hyper dbname={dbname}", server.path(), server.port))
}

async fn open(server: &Server, dbname: &str) -> Wire {
    Wire::open(&unix(server, dbname), Side::Source, APP).await.unwrap()
}

async fn one(wire: &mut Wire, sql: &str) -> String {
    wire.simple(sql).await.unwrap()[0][0].clone().unwrap_or_default()
}

/// Both clients' errors, which should be the same.
async fn refused(info: &Conninfo) -> Error {
    let wire = Wire::open(info, Side::Target, APP).await.unwrap_err();
    let client = client::connect(info, Side::Target, APP).await.unwrap_err();
    assert_eq!((wire.kind, wire.to_string(), &wire.hint), (client.kind, client.to_string(), &client.hint));
    assert!(!format!("{wire:?} {client:?}").contains("secret"));
    wire
}

#[tokio::test]
async fn connects_by_password_and_by_socket_and_says_why_not() {
    let server = Server::start("").run();
    for info in [tcp(&server, ""), unix(&server, "postgres"), tcp(&server, "sslmode=disable"), tcp(&server, "target_session_attrs=primary")] {
        let mut wire = Wire::open(&info, Side::Source, APP).await.unwrap();
        assert!(wire.version() > 150_000 && wire.pid() > 0);
        assert_eq!(wire.parameter("TimeZone"), Some("UTC"));
        assert_eq!(one(&mut wire, "select pg_backend_pid()").await, wire.pid().to_string());
        assert_eq!(one(&mut wire, "show application_name").await, APP);
        assert_eq!(wire.simple("select 1, null; select 'ä'").await.unwrap(), [vec![Some("1".to_owned()), None], vec![Some("ä".to_owned())]]);
        assert_eq!(wire.execute("create temp table t as select generate_series(1, 7); delete from t").await.unwrap(), 7);
        let e = wire.simple("select 1; select 1/0").await.unwrap_err();
        assert!(e.has_code("22012") && e.kind == Kind::Database);
        assert!(wire.execute("copy t from stdin").await.unwrap_err().has_code("57014"));
        assert_eq!(one(&mut wire, "select 2").await, "2");
        wire.close().await;
        let client = client::connect(&info, Side::Source, APP).await.unwrap();
        assert_eq!(client.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0), client.pid());
        assert_eq!(client.query_one("select current_setting('search_path')", &[]).await.unwrap().get::<_, String>(0), "\"\"");
        assert!(client.version() > 150_000);
    }
    let at = format!("127.0.0.1:{}", server.port);
    let e = refused(&info(&format!("host=127.0.0.1 port={} user=hyper password=secretly-wrong dbname=postgres", server.port))).await;
    assert!(e.kind == Kind::Refused && e.has_code("28P01") && e.hint.is_some() && e.to_string().starts_with(&format!("target: {at} refuses")), "{e}");
    let e = refused(&info(&format!("host=127.0.0.1 port={} user=hyper dbname=postgres", server.port))).await;
    assert!(e.kind == Kind::Refused && e.hint.as_ref().unwrap().contains("PGPASSWORD"), "{e}");
    let e = refused(&unix(&server, "nowhere")).await;
    assert!(e.kind == Kind::Refused && e.has_code("3D000") && e.to_string().contains("nowhere"), "{e}");
    let e = refused(&tcp(&server, "sslmode=require")).await;
    assert!(e.kind == Kind::Refused && e.to_string().contains("offers no TLS"), "{e}");
    let e = refused(&tcp(&server, "target_session_attrs=standby")).await;
    assert!(e.kind == Kind::Refused && e.to_string().contains("not read-only"), "{e}");
    let e = refused(&info("host=127.0.0.1 port=1 user=hyper")).await;
    assert_eq!((e.kind, e.to_string().as_str()), (Kind::Connection, "target: cannot connect to 127.0.0.1:1: Connection refused"));
    let e = refused(&info("host=/nonexistent user=hyper")).await;
    assert_eq!((e.kind, e.to_string().as_str()), (Kind::Connection, "target: cannot connect to /nonexistent:5432: No such file or directory"));
    let e = refused(&info("host=no-such-host.invalid user=hyper")).await;
    assert!(e.kind == Kind::Connection && e.to_string().contains("no-such-host.invalid:5432"), "{e}");
    // the second of two hosts will do
    let both = info(&format!("host=127.0.0.1,127.0.0.1 port=1,{} user=hyper password='it\\'s:secret' dbname=postgres", server.port));
    Wire::connect(&both, APP, false).await.unwrap();
    client::connect(&both, Side::Source, APP).await.unwrap();
}

#[tokio::test]
async fn a_silent_or_foreign_server_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let e = refused(&info(&format!("host=127.0.0.1 port={port} user=u password=secret connect_timeout=1 sslmode=disable"))).await;
    assert!(e.kind == Kind::Connection && e.to_string().contains("no answer within 1 s"), "{e}");
    for (greeting, part) in [("E", "answers the request for TLS with an error"), ("", "closed the connection")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 8];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut request).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, greeting.as_bytes()).await.unwrap();
            }
        });
        let info = info(&format!("host=127.0.0.1 port={port} user=u password=secret sslmode=require"));
        let e = Wire::connect(&info, APP, false).await.unwrap_err();
        assert!(e.kind == Kind::Connection && e.to_string().contains(part), "{e}");
        task.abort();
    }
}

#[tokio::test]
async fn a_broken_connection_is_a_connection_error() {
    let server = Server::start("").run();
    let (mut victim, mut other) = (open(&server, "postgres").await, open(&server, "postgres").await);
    let client = client::connect(&unix(&server, "postgres"), Side::Target, APP).await.unwrap();
    let kill = format!("select pg_terminate_backend({}, 5000), pg_terminate_backend({}, 5000)", victim.pid(), client.pid());
    other.simple(&kill).await.unwrap();
    let e = victim.simple("select 1").await.unwrap_err();
    assert!(e.kind == Kind::Connection && e.has_code("57P01"), "{e:?}");
    assert_eq!(victim.simple("select 1").await.unwrap_err().kind, Kind::Connection);
    assert_eq!(Error::from(client.simple_query("select 1").await.unwrap_err()).kind, Kind::Connection);
}

async fn pipe(src: &mut Wire, dst: &mut Wire, query: &str, into: &str) -> (Result<Copied, Error>, (u64, u64)) {
    src.copy_out(query).await.unwrap();
    dst.copy_in(into).await.unwrap();
    let mut seen = (0, 0);
    let mut progress = |bytes, rows| seen = (bytes, rows);
    let copied = timeout(Duration::from_secs(60), pipe_copy(src, dst, &mut progress)).await.expect("the copy hangs");
    (copied, seen)
}

#[tokio::test]
async fn copy_moves_rows_between_databases_and_reports_either_side() {
    let server = Server::start("").run();
    let mut src = open(&server, "postgres").await;
    src.execute("create database target").await.unwrap();
    let mut dst = open(&server, "target").await;
    src.execute("create table public.t as select i as id, repeat(md5(i::text), 15) as body from generate_series(1, 100000) i").await.unwrap();
    dst.execute("create table public.t (id int, body text)").await.unwrap();
    for format in ["text", "binary"] {
        let out = format!("copy public.t to stdout (format {format})");
        let into = format!("copy public.t from stdin (format {format})");
        let (copied, (bytes, frames)) = pipe(&mut src, &mut dst, &out, &into).await;
        let copied = copied.unwrap();
        assert_eq!((copied.rows_out, copied.rows_in, copied.bytes), (100_000, 100_000, bytes));
        assert!(bytes > 48_000_000 && (100_000..=100_002).contains(&frames), "{bytes} {frames}");
        let digest = "select count(*) || md5(string_agg(md5(t::text), '' order by id)) from public.t t";
        assert_eq!(one(&mut src, digest).await, one(&mut dst, digest).await);
        dst.execute("truncate public.t").await.unwrap();
    }
    // nothing at all, and a row larger than any buffer
    let (copied, _) = pipe(&mut src, &mut dst, "copy (select 1, 'x' where false) to stdout", "copy public.t from stdin").await;
    assert_eq!(copied.unwrap(), Copied::default());
    let (copied, _) = pipe(&mut src, &mut dst, "copy (select 1, repeat('x', 30000000)) to stdout", "copy public.t from stdin").await;
    assert_eq!(copied.unwrap(), Copied { bytes: 30_000_003, rows_out: 1, rows_in: 1 });

    // the source fails in the middle: both connections go on
    let out = "copy (select id, body || (1 / (60000 - id)) from public.t) to stdout";
    let (copied, _) = pipe(&mut src, &mut dst, out, "copy public.t from stdin").await;
    let e = copied.unwrap_err();
    assert!(e.has_code("22012") && e.message.starts_with("source: "), "{e}");
    assert_eq!((one(&mut src, "select 1").await, one(&mut dst, "select count(*) from public.t").await), ("1".to_owned(), "1".to_owned()));

    // a chatty trigger: notices of the target are read on
    dst.execute("create table public.n (id int, body text); create function public.n() returns trigger language plpgsql as $$ begin raise notice '%', repeat('n', 500); return new; end $$; create trigger n before insert on public.n for each row execute function public.n()").await.unwrap();
    let (copied, _) = pipe(&mut src, &mut dst, "copy (select * from public.t limit 30000) to stdout", "copy public.n from stdin").await;
    assert_eq!(copied.unwrap().rows_in, 30_000);

    // the target fails early, in the middle, and while it has long stopped reading
    dst.execute("create table public.u (id int primary key, body text); insert into public.u values (50000, '')").await.unwrap();
    dst.execute("create table public.w (id date, body text); create table public.one (id int)").await.unwrap();
    for (into, code) in [("public.u", "23505"), ("public.w", "22008"), ("public.one", "22P04")] {
        let (copied, _) = pipe(&mut src, &mut dst, "copy public.t to stdout", &format!("copy {into} from stdin")).await;
        let e = copied.unwrap_err();
        assert!(e.message.starts_with("target: ") && (e.has_code(code) || into == "public.w"), "{into}: {e}");
        assert_eq!(one(&mut dst, "select 3").await, "3", "the target goes on after {into}");
        src = open(&server, "postgres").await;
    }
}

#[tokio::test]
async fn copy_notices_a_target_that_is_terminated_and_a_source_that_waits() {
    let server = Server::start("").run();
    let (mut src, mut dst, mut other) = (open(&server, "postgres").await, open(&server, "postgres").await, open(&server, "postgres").await);
    other.execute("create table public.t (id text)").await.unwrap();
    let pid = dst.pid();
    let killer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.simple(&format!("select pg_terminate_backend({pid})")).await.unwrap();
        other
    });
    let begun = Instant::now();
    let (copied, _) =
        pipe(&mut src, &mut dst, "copy (select repeat('x', 20000) union all select pg_sleep(30)::text) to stdout", "copy public.t from stdin").await;
    let e = copied.unwrap_err();
    assert!(e.kind == Kind::Connection && e.message.starts_with("target: ") && begun.elapsed() < Duration::from_secs(10), "{e}");
    let mut other = killer.await.unwrap();

    // the same while the target does not read and our writes are blocked
    other.execute("create table public.s (id text); create function public.s() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return new; end $$; create trigger s before insert on public.s for each row execute function public.s()").await.unwrap();
    for sql in ["select pg_cancel_backend", "select pg_terminate_backend"] {
        let (mut src, mut dst) =
            (Wire::connect(&tcp(&server, ""), APP, false).await.unwrap(), Wire::connect(&tcp(&server, ""), APP, false).await.unwrap());
        let pid = dst.pid();
        let out = "copy (select repeat('x', 1000) from generate_series(1, 50000)) to stdout";
        let (copied, ()) = tokio::join!(pipe(&mut src, &mut dst, out, "copy public.s from stdin"), async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            other.simple(&format!("{sql}({pid})")).await.unwrap();
        });
        let (copied, (bytes, _)) = copied;
        let e = copied.unwrap_err();
        assert!(e.message.starts_with("target: ") && bytes < 45_000_000, "{e} after {bytes}");
        if sql.contains("cancel") {
            assert!(e.has_code("57014"), "{e}");
            assert_eq!(one(&mut dst, "select 3").await, "3");
        } else {
            assert_eq!(e.kind, Kind::Connection, "{e}");
        }
    }

    // and a source that is terminated: the target keeps nothing and goes on
    let (mut src, mut dst) = (open(&server, "postgres").await, open(&server, "postgres").await);
    let pid = src.pid();
    let killer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.simple(&format!("select pg_terminate_backend({pid})")).await.unwrap();
    });
    let (copied, _) =
        pipe(&mut src, &mut dst, "copy (select repeat('x', 20000) union all select pg_sleep(30)::text) to stdout", "copy public.t from stdin").await;
    let e = copied.unwrap_err();
    assert!(e.kind == Kind::Connection && e.message.starts_with("source: "), "{e}");
    assert_eq!(one(&mut dst, "select count(*) from public.t").await, "0");
    killer.await.unwrap();
}

#[tokio::test]
async fn replication_streams_changes_and_moves_the_slot() {
    let server = Server::start("wal_sender_timeout=2s").run();
    let mut sql = open(&server, "postgres").await;
    sql.execute("create table public.t (id int primary key, at timestamptz); create publication p for table public.t").await.unwrap();
    let mut stream = Wire::open_replication(&tcp(&server, ""), APP).await.unwrap();
    stream.execute("CREATE_REPLICATION_SLOT \"select\" LOGICAL pgoutput NOEXPORT_SNAPSHOT").await.unwrap();
    let start = "START_REPLICATION SLOT \"select\" LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    assert!(stream.start_replication("START_REPLICATION SLOT none LOGICAL 0/0").await.unwrap_err().has_code("42704"));
    stream.start_replication(start).await.unwrap();
    sql.execute("insert into public.t values (1, '2024-01-02 03:04:05+00')").await.unwrap();
    let (mut kinds, mut last) = (Vec::new(), Lsn::ZERO);
    let mut insert = Vec::new();
    timeout(Duration::from_secs(20), async {
        while kinds.last() != Some(&b'C') {
            match stream.try_replication_message().unwrap() {
                Some(ReplicationMessage::XLogData { start, end, data }) => {
                    assert!(start <= end);
                    last = end;
                    kinds.push(data[0]);
                    if data[0] == b'I' {
                        insert = data.to_vec();
                    }
                }
                Some(ReplicationMessage::KeepAlive { end, .. }) => last = last.max(end),
                None => stream.fill().await.unwrap(),
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(kinds, b"BRIC");
    assert!(String::from_utf8_lossy(&insert).contains("2024-01-02 03:04:05+00"), "the session's settings print the values");
    // a keepalive that is requested comes immediately; status prevents the walsender's timeout
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.send_status(last, last, last, true).await.unwrap();
        let answer = timeout(Duration::from_secs(5), async {
            loop {
                if let Some(ReplicationMessage::KeepAlive { end, .. }) = stream.try_replication_message().unwrap() {
                    return end;
                }
                stream.fill().await.unwrap();
            }
        });
        assert!(answer.await.unwrap() >= last);
    }
    let confirmed = one(&mut sql, "select confirmed_flush_lsn from pg_replication_slots").await;
    assert_eq!(confirmed.parse::<Lsn>().unwrap(), last);
    timeout(Duration::from_secs(5), stream.end_replication()).await.unwrap().unwrap();
    assert_eq!(one(&mut stream, "select 1").await, "1");
    stream.execute("DROP_REPLICATION_SLOT \"select\"").await.unwrap();
    // a server that shuts down ends the stream with a connection error
    stream.execute("CREATE_REPLICATION_SLOT s2 LOGICAL pgoutput NOEXPORT_SNAPSHOT").await.unwrap();
    stream.start_replication(&start.replace("\"select\"", "s2")).await.unwrap();
    sql.simple(&format!("select pg_terminate_backend({})", stream.pid())).await.unwrap();
    let e = timeout(Duration::from_secs(10), async {
        loop {
            match stream.try_replication_message() {
                Err(e) => return e,
                Ok(Some(_)) => {}
                Ok(None) => {
                    if let Err(e) = stream.fill().await {
                        return e;
                    }
                }
            }
        }
    });
    assert_eq!(e.await.unwrap().kind, Kind::Connection);
}

#[tokio::test]
async fn a_statement_can_be_cancelled() {
    let server = Server::start("").run();
    for info in [tcp(&server, ""), unix(&server, "postgres")] {
        let mut wire = Wire::connect(&info, APP, false).await.unwrap();
        cancelled(&mut wire).await;
        let client = client::connect(&info, Side::Target, APP).await.unwrap();
        let (slept, cancel) = tokio::join!(client.simple_query("select pg_sleep(60)"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.cancel().await
        });
        cancel.unwrap();
        assert!(Error::from(slept.unwrap_err()).has_code("57014"));
    }
}

async fn cancelled(wire: &mut Wire) {
    let canceller = wire.cancel_handle();
    let (slept, cancel) = tokio::join!(timeout(Duration::from_secs(10), wire.simple("select pg_sleep(60)")), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        canceller.cancel().await
    });
    cancel.unwrap();
    assert!(slept.unwrap().unwrap_err().has_code("57014"));
    assert_eq!(one(wire, "select 1").await, "1");
}

/// An authority, a certificate for `localhost` signed by it, one without extensions (X.509 version 1) and a self-signed one.
static CERTIFICATES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let script = r"
        set -e; cd $0
        new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9'
        openssl req -x509 $new -subj /CN=root -keyout root.key -out root.crt
        openssl req -x509 $new -subj /CN=other -keyout other.key -out other.crt
        openssl req -x509 $new -subj /CN=localhost -keyout self.key -out self.crt
        for name in san v1 client; do openssl req -new $new -subj /CN=localhost -keyout $name.key -out $name.csr; done
        printf 'subjectAltName=DNS:localhost\n' >san.ext
        printf 'basicConstraints=CA:FALSE\n' >client.ext
        sign='openssl x509 -req -CA root.crt -CAkey root.key -CAcreateserial -days 9'
        $sign -in san.csr -extfile san.ext -out san.crt
        openssl req -new -key client.key -subj /CN=hyper -out client.csr
        $sign -in client.csr -extfile client.ext -out client.crt
        $sign -in v1.csr -out v1.crt
        chmod 600 *.key";
    crate::bare_server::run("sh", &["-c", script, dir.path().to_str().unwrap()]);
    dir
});

fn tls_server(certificate: &str) -> Server {
    let server = Server::start("ssl=on\nssl_cert_file='{dir}/server.crt'\nssl_key_file='{dir}/server.key'\nssl_ca_file='{dir}/root.crt'");
    let from = CERTIFICATES.path().display();
    let hba = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\nlocal all all trust\n";
    std::fs::write(format!("{}/data/pg_hba.conf", server.path()), hba).unwrap();
    let script = format!(
        "cd {}; cp {from}/{certificate}.crt server.crt; cp {from}/{certificate}.key server.key; cp {from}/root.crt .; chown postgres *.crt *.key; chmod 600 server.key",
        server.path()
    );
    crate::bare_server::run("sh", &["-c", &script]);
    server.run()
}

/// Host, `sslmode` and more, `sslrootcert`, and whether both clients get in.
type Case<'a> = (&'a str, &'a str, &'a str, bool);

#[tokio::test]
async fn sslmode_decides_which_certificates_will_do() {
    let ca = |name: &str| format!("sslrootcert={}/{name}.crt", CERTIFICATES.path().display());
    let (root, other, own) = (ca("root"), ca("other"), ca("self"));
    let cases: &[(&str, &[Case<'_>])] = &[
        (
            "san",
            &[
                ("localhost", "verify-full channel_binding=require", &root, true),
                ("127.0.0.1", "verify-full", &root, false),
                ("localhost", "verify-full", &other, false),
                ("127.0.0.1", "verify-ca", &root, true),
                ("127.0.0.1", "verify-ca", &other, false),
                ("127.0.0.1", "require", "", true),
                ("127.0.0.1", "require", &root, true),
                ("127.0.0.1", "require", &other, false),
                ("127.0.0.1", "require", "sslrootcert=/nonexistent", true),
                ("127.0.0.1", "prefer", "", true),
                ("127.0.0.1", "allow", "", true),
                ("127.0.0.1", "disable", "", false),
                ("127.0.0.1", "require ssl_min_protocol_version=TLSv1.3", "", true),
            ],
        ),
        (
            "self",
            &[
                ("localhost", "verify-full", &own, true),
                ("127.0.0.1", "verify-full", &own, false),
                ("127.0.0.1", "verify-ca", &own, true),
                ("127.0.0.1", "verify-ca", &root, false),
                ("127.0.0.1", "require channel_binding=require", "", true),
            ],
        ),
        ("v1", &[("127.0.0.1", "require", "", true)]),
    ];
    for (certificate, cases) in cases {
        let server = tls_server(certificate);
        for (host, mode, rootcert, good) in *cases {
            let info = info(&format!(
                "host={host} hostaddr=127.0.0.1 port={} user=hyper password='it\\'s:secret' dbname=postgres sslmode={mode} {rootcert}",
                server.port
            ));
            let case = format!("{certificate} {host} {mode} {rootcert}");
            if !good {
                let e = refused(&info).await;
                assert_eq!(e.kind, Kind::Refused, "{case}: {e}");
                continue;
            }
            let mut wire = Wire::connect(&info, APP, false).await.unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(one(&mut wire, "select ssl from pg_stat_ssl where pid = pg_backend_pid()").await, "t", "{case}");
            client::connect(&info, Side::Source, APP).await.unwrap_or_else(|e| panic!("{case}: {e}"));
        }
    }
}

#[tokio::test]
async fn copy_cancel_and_client_certificates_work_over_tls() {
    let server = tls_server("san");
    let hba = "hostssl all all 127.0.0.1/32 cert\nlocal all all trust\n";
    std::fs::write(format!("{}/data/pg_hba.conf", server.path()), hba).unwrap();
    let mut sql = open(&server, "postgres").await;
    sql.execute("create table public.u (id int primary key, body text); insert into public.u values (50000, '')").await.unwrap();
    sql.execute("create table public.t as select i as id, repeat(md5(i::text), 15) as body from generate_series(1, 100000) i").await.unwrap();
    sql.simple("select pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let at = CERTIFICATES.path().display();
    let info = tcp(&server, &format!("sslmode=verify-ca sslrootcert={at}/root.crt sslcert={at}/client.crt sslkey={at}/client.key"));
    let (mut src, mut dst) = (Wire::connect(&info, APP, false).await.unwrap(), Wire::connect(&info, APP, false).await.unwrap());
    cancelled(&mut src).await;
    let (copied, _) = pipe(&mut src, &mut dst, "copy public.t to stdout", "copy public.u from stdin").await;
    assert!(copied.unwrap_err().has_code("23505"));
    let mut src = Wire::connect(&info, APP, false).await.unwrap();
    dst.execute("delete from public.u").await.unwrap();
    let (copied, _) = pipe(&mut src, &mut dst, "copy public.t to stdout", "copy public.u from stdin").await;
    assert_eq!(copied.unwrap().rows_in, 100_000);
    let client = client::connect(&info, Side::Target, APP).await.unwrap();
    assert_eq!(client.query_one("select count(*) from public.u", &[]).await.unwrap().get::<_, i64>(0), 100_000);
    let e = refused(&tcp(&server, "sslmode=require")).await;
    assert_eq!(e.kind, Kind::Refused, "{e}");
}
