//! What libpq keeps in files: services (documentation 34.17), passwords (34.16) and the account of the operating system.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// How the process environment is asked; tests bring their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The user name and home directory of this process, by its effective user id.
pub fn account() -> Option<(String, PathBuf)> {
    let uid = fs::metadata("/proc/self").ok()?.uid().to_string();
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&uid.as_str())).then(|| (fields[0].to_owned(), PathBuf::from(fields.get(5).copied().unwrap_or_default())))
    })
}

/// The keys of service `name`: from `file` or the user's file, else from the system's.
pub fn service(name: &str, file: Option<&str>, home: Option<&Path>, env: Env<'_>) -> Result<Vec<(String, String)>> {
    let user_file = file.map(PathBuf::from).or_else(|| home.map(|home| home.join(".pg_service.conf")));
    let system_dir = env("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    for path in user_file.into_iter().chain([PathBuf::from(system_dir).join("pg_service.conf")]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if let Some(pairs) = service_in(&text, name).map_err(|e| e.context(path.display()))? {
            return Ok(pairs);
        }
    }
    Err(Error::usage(format!("the service \"{name}\" is not defined"))
        .hint("define it in ~/.pg_service.conf or in the file that PGSERVICEFILE names"))
}

fn service_in(text: &str, name: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.split(']').next() == Some(name) {
                found = Some(Vec::new());
            }
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let wrong = |why| Error::usage(format!("line {}: {why}", number + 1));
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("a \"=\" is missing"))?;
        let key = key.trim();
        if matches!(key, "service" | "servicefile") {
            return Err(wrong("a service cannot name another service"));
        }
        // the first of two equal keys counts
        if pairs.iter().all(|(known, _)| known != key) {
            pairs.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found)
}

/// The text of a password file, if it is one that libpq would read: a plain file that nobody else can open.
pub fn passfile(path: &Path) -> Option<String> {
    let about = fs::metadata(path).ok()?;
    if !about.is_file() {
        tracing::warn!(file = %path.display(), "password file is not a plain file: ignored");
        return None;
    }
    if about.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "password file can be read by others: ignored; its mode should be 0600");
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The password of the first line `host:port:dbname:user:password` that fits.
pub fn password_in(text: &str, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    // the file names the default socket directory `localhost`
    let host = if matches!(host, "/var/run/postgresql" | "/tmp") { "localhost" } else { host };
    let port = port.to_string();
    let fields = [host, &port, dbname, user];
    let line =
        text.lines().filter(|line| !line.starts_with('#')).find_map(|line| fields.iter().try_fold(line, |rest, field| after_field(rest, field)))?;
    let mut password = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => break,
            '\\' => password.push(chars.next().unwrap_or('\\')),
            c => password.push(c),
        }
    }
    Some(password)
}

/// What follows the first field of `line` when that is `*` or `wanted`.
fn after_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut chars = line.char_indices();
    while let Some((i, c)) = chars.next() {
        let c = match c {
            ':' => return wanted.next().is_none().then(|| &line[i + 1..]),
            '\\' => chars.next()?.1,
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_lines_match_as_in_libpq() {
        for (text, expected) in [
            ("h:5432:db:u:secret", Some("secret")),
            ("*:*:*:*:any", Some("any")),
            ("h:*:db:u:x:rest", Some("x")),
            ("# h:5432:db:u:no\nh:5432:db:u:yes", Some("yes")),
            ("other:5432:db:u:no\n*:5432:db:*:yes\n*:*:*:*:late", Some("yes")),
            ("h:5432:db:u:a\\:b\\\\c", Some("a:b\\c")),
            ("h:5432:db:u:", Some("")),
            ("\\h:5432:db:u:escaped", Some("escaped")),
            ("h:5433:db:u:no", None),
            ("ho:5432:db:u:no", None),
            ("h:5432:db:us:no", None),
            ("h:5432:db:u", None),
            ("*h:5432:db:u:no", None),
            ("", None),
        ] {
            assert_eq!(password_in(text, "h", 5432, "db", "u").as_deref(), expected, "{text}");
        }
        assert_eq!(password_in("\\:\\:1:*:*:*:six", "::1", 5432, "db", "u").as_deref(), Some("six"));
        assert_eq!(password_in("localhost:*:*:*:x", "/var/run/postgresql", 5432, "db", "u").as_deref(), Some("x"));
        assert_eq!(password_in("/run/pg:*:*:*:x", "/run/pg", 5432, "db", "u").as_deref(), Some("x"));
    }

    #[test]
    fn a_password_file_that_others_can_read_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        fs::write(&path, "*:*:*:*:x").unwrap();
        for (mode, read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(passfile(&path).is_some(), read, "{mode:o}");
        }
        assert_eq!(passfile(dir.path()), None);
        assert_eq!(passfile(&dir.path().join("none")), None);
    }

    #[test]
    fn a_service_is_one_section() {
        let text = "# comment\n[a]\nhost=ha\n\n[shop]\nhost = hs \n#port=1\nport=5\nport=6\n[b]\nhost=hb\n[shop]\nuser=late\n";
        let pairs = service_in(text, "shop").unwrap().unwrap();
        assert_eq!(pairs, [("host".to_owned(), "hs".to_owned()), ("port".to_owned(), "5".to_owned())]);
        assert_eq!(service_in(text, "none").unwrap(), None);
        assert!(service_in("[x]\nhost", "x").unwrap_err().to_string().contains("line 2"));
        assert!(service_in("[x]\nservice=y", "x").is_err());
    }
}
