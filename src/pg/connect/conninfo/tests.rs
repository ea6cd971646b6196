use super::*;
use std::{fs, os::unix::fs::PermissionsExt};

/// A string, the environment, and the summary of what comes out.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// Parses in an environment of these variables only, with an empty home directory.
fn parse(text: &str, env: &[(&str, &str)]) -> Result<Conninfo> {
    Conninfo::parse_with(text, &|name| {
        let found = env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        found.or_else(|| (name == "HOME").then(|| "/nonexistent".to_owned()))
    })
}

fn summary(info: &Conninfo) -> String {
    format!("{}@{} {}", info.user(), info.address(), info.password().unwrap_or("-"))
}

#[test]
fn a_string_is_completed_from_the_environment_and_defaults() {
    let os_user = files::account().unwrap().0;
    let bare = format!("{os_user}@localhost:5432/{os_user} -");
    let host_only = format!("{os_user}@h:5432/{os_user} -");
    let cases: &[Case<'_>] = &[
        ("", &[], &bare),
        ("postgres://h", &[], &host_only),
        ("postgres://u:p@h:1/d", &[], "u@h:1/d p"),
        ("postgres://u@h", &[], "u@h:5432/u -"),
        ("postgres://u@h", &[("PGPORT", "7"), ("PGDATABASE", "e"), ("PGPASSWORD", "s"), ("PGHOST", "no"), ("PGUSER", "no")], "u@h:7/e s"),
        ("", &[("PGHOST", "e"), ("PGPORT", "7"), ("PGUSER", "u"), ("PGDATABASE", "d")], "u@e:7/d -"),
        ("user=u", &[("PGHOST", ""), ("PGAPPNAME", "x")], "u@localhost:5432/u -"),
        ("host=h user=u", &[("PGHOSTADDR", "10.0.0.1")], "u@h:5432/u -"),
        ("hostaddr=10.0.0.1 user=u", &[("PGHOST", "other")], "u@10.0.0.1:5432/u -"),
        ("host=h user=u password='' dbname=''", &[("PGPASSWORD", "s")], "u@h:5432/u -"),
        ("postgres://u@a:1,b:2/d", &[], "u@a:1,b:2/d -"),
        ("postgres://u@a,b:2/d", &[("PGPORT", "9")], "u@a:5432,b:2/d -"),
        ("host=a,b port=7 user=u", &[], "u@a:7,b:7/u -"),
        ("postgres://u@[::1]:6/d", &[], "u@[::1]:6/d -"),
        ("postgres://u@%2Frun%2Fpg:6/d", &[], "u@/run/pg:6/d -"),
        ("postgres://u@/d?host=/run/pg", &[], "u@/run/pg:5432/d -"),
        ("postgres://u@h/d?gssencmode=disable&application_name=x&replication=database&sslsni=1&client_encoding=auto", &[], "u@h:5432/d -"),
    ];
    for (text, env, expected) in cases {
        assert_eq!(summary(&parse(text, env).unwrap()), **expected, "{text}");
    }
}

#[test]
fn wrong_values_are_named_and_passwords_are_not() {
    for (text, part) in [
        ("host=h pasword=hunter2", "\"pasword\""),
        ("postgres://u:hunter2@hunter2/x@h/d", "after its first"),
        ("postgres://u:hunter2@h?foo=bar", "\"foo\""),
        ("host=h port=x password=hunter2", "port of host 1"),
        ("host=h port=0", "port of host 1"),
        ("host=h port=65536", "port of host 1"),
        ("postgres://hunter2:x/y", "port of host 1"),
        ("postgres://::1/d", "port of host 1"),
        ("host=a,b port=1,2,3", "3 ports are given for 2 hosts"),
        ("host=a,b hostaddr=10.0.0.1", "different lengths"),
        ("hostaddr=db.example", "hostaddr is not an IP address"),
        ("sslmode=on", "sslmode is none of disable, allow"),
        ("target_session_attrs=master", "target_session_attrs is none of any"),
        ("channel_binding=yes", "channel_binding is none of"),
        ("connect_timeout=soon", "connect_timeout"),
        ("sslrootcert=system sslmode=require", "verify-full"),
        ("sslnegotiation=direct", "sslmode=require"),
        ("sslcrl=/x", "sslcrl is not supported"),
        ("require_auth=scram-sha-256", "require_auth is not supported"),
        ("host=h password=my hun!ter2=x", "not a word"),
        ("service=none", "service \"none\" is not defined"),
    ] {
        let e = parse(text, &[]).unwrap_err();
        assert!(e.kind == crate::error::Kind::Usage && e.to_string().contains(part), "{text}: {e}");
        assert!(!format!("{e:?}").contains("ter2"), "{text}: {e:?}");
    }
}

#[test]
fn debug_and_address_keep_the_password() {
    let info = parse("postgres://u:hunter2@h/d", &[]).unwrap();
    assert!(!format!("{info:?} {} {}", info.address(), info.host_port()).contains("hunter2"));
}

#[test]
fn services_come_after_the_string_and_before_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services");
    fs::write(&file, "[shop]\nhost=service-host\nport=7\nuser=service-user\nsslmode=verify-full\n[bad]\nnonsense=1\n").unwrap();
    let file = file.to_str().unwrap();
    let info = parse("service=shop user=u", &[("PGSERVICEFILE", file), ("PGHOST", "env-host"), ("PGDATABASE", "d")]).unwrap();
    assert_eq!(summary(&info), "u@service-host:7/d -");
    assert_eq!(info.ssl().mode, SslMode::VerifyFull);
    let info = parse("", &[("PGSERVICEFILE", file), ("PGSERVICE", "shop")]).unwrap();
    assert_eq!(summary(&info), "service-user@service-host:7/service-user -");
    let e = parse("service=bad", &[("PGSERVICEFILE", file)]).unwrap_err();
    assert_eq!(e.to_string(), "service bad: unknown connection parameter \"nonsense\"");
    fs::write(dir.path().join(".pg_service.conf"), "[home]\nhost=from-home\nuser=u\n").unwrap();
    let info = parse("service=home", &[("HOME", dir.path().to_str().unwrap())]).unwrap();
    assert_eq!(summary(&info), "u@from-home:5432/u -");
}

#[test]
fn password_files_are_asked_per_host_and_last() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".pgpass");
    fs::write(&file, "a:*:*:u:for-a\nb:*:*:u:for-b\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let home = [("HOME", dir.path().to_str().unwrap())];
    let info = parse("postgres://u@a,b/d", &home).unwrap();
    let passwords: Vec<_> = info.hosts().iter().map(|host| info.password_for(host)).collect();
    assert_eq!(passwords, [Some("for-a"), Some("for-b")]);
    assert_eq!(parse("postgres://u:own@a/d", &home).unwrap().password(), Some("own"));
    assert_eq!(parse("postgres://x@a/d", &home).unwrap().password(), None);
    let path = file.to_str().unwrap();
    assert_eq!(parse(&format!("host=b user=u passfile={path}"), &[]).unwrap().password(), Some("for-b"));
    assert_eq!(parse("host=b user=u", &[("PGPASSFILE", path)]).unwrap().password(), Some("for-b"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(parse("postgres://u@a/d", &home).unwrap().password(), None);
}

#[test]
fn default_certificates_are_those_of_libpq() {
    let dir = tempfile::tempdir().unwrap();
    let home = [("HOME", dir.path().to_str().unwrap())];
    assert_eq!(parse("user=u", &home).unwrap().ssl().rootcert, None);
    fs::create_dir(dir.path().join(".postgresql")).unwrap();
    fs::write(dir.path().join(".postgresql/root.crt"), "").unwrap();
    assert!(parse("user=u", &home).unwrap().ssl().rootcert.as_ref().unwrap().ends_with("/.postgresql/root.crt"));
    assert_eq!(parse("user=u sslrootcert=/x", &home).unwrap().ssl().rootcert.as_deref(), Some("/x"));
    assert_eq!(parse("user=u sslrootcert=system", &home).unwrap().ssl().mode, SslMode::VerifyFull);
}

#[test]
fn tokio_postgres_gets_the_same() {
    let info = parse(
        "host=a,b port=1,2 user=u password=p dbname=d options='-c x=y' target_session_attrs=primary sslmode=verify-ca channel_binding=require",
        &[],
    )
    .unwrap();
    let config = info.with_dbname("e").config("hyperlift");
    assert_eq!((config.get_hosts().len(), config.get_ports()), (2, &[1u16, 2][..]));
    assert_eq!((config.get_user(), config.get_dbname(), config.get_options()), (Some("u"), Some("e"), Some("-c x=y")));
    assert_eq!((config.get_password(), config.get_application_name()), (Some(&b"p"[..]), Some("hyperlift")));
    assert_eq!((config.get_ssl_mode(), config.get_channel_binding()), (config::SslMode::Require, ChannelBinding::Require));
    assert_eq!((config.get_target_session_attrs(), config.get_connect_timeout()), (TargetSessionAttrs::ReadWrite, Some(&CONNECT_TIMEOUT)));
    assert_eq!(parse("user=u connect_timeout=3", &[]).unwrap().connect_timeout(), Some(Duration::from_secs(3)));
    assert_eq!(parse("user=u connect_timeout=0", &[]).unwrap().config("x").get_connect_timeout(), None);
    let config = parse("host=db hostaddr=10.0.0.1 user=u", &[]).unwrap().config("x");
    assert_eq!(config.get_hostaddrs().len(), 1);
}

#[test]
fn a_child_gets_it_by_its_environment() {
    let info = parse("host=a,b port=1,2 user=u password=p dbname=d sslmode=verify-full sslrootcert=/ca options='-c x=y'", &[]).unwrap();
    let env = info.child_env();
    let get = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    for (name, value) in [
        ("PGHOST", Some("a,b")),
        ("PGPORT", Some("1,2")),
        ("PGUSER", Some("u")),
        ("PGPASSWORD", Some("p")),
        ("PGDATABASE", Some("d")),
        ("PGSSLMODE", Some("verify-full")),
        ("PGSSLROOTCERT", Some("/ca")),
        ("PGOPTIONS", Some("-c x=y")),
        ("PGTARGETSESSIONATTRS", None),
        ("PGHOSTADDR", None),
    ] {
        assert_eq!(get(name), value, "{name}");
    }
}
