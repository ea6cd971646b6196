//! The two ways to write a connection string (PostgreSQL documentation 34.1.1), split into keys and values.
//!
//! Knows no key's meaning. No message repeats a piece of the text: a misplaced quote may make any piece a password.

use crate::error::{Error, Result};

/// The keys and values of a URI or of `key=value` words, in the order written.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        return uri(rest);
    }
    let scheme = text.split("://").next().unwrap_or_default();
    if scheme.len() < text.len() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.:-".contains(c)) {
        return Err(Error::usage("a connection URI begins with postgres:// or postgresql://"));
    }
    words(text)
}

/// `host=db.example dbname='my shop' password=it\'s`.
fn words(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        let Some(after) = rest[end..].trim_start().strip_prefix('=').filter(|_| !key.is_empty()) else {
            return Err(Error::usage(format!("the connection string lacks a \"=\" in its word {}", found.len() + 1))
                .hint("write postgres://user@host:port/dbname, or host=… port=… dbname=… user=… with values that contain spaces in single quotes"));
        };
        let (value, after) = value(after.trim_start()).ok_or_else(|| Error::usage(format!("the value of {key} lacks its closing quote")))?;
        found.push((key, value));
        rest = after.trim_start();
    }
    Ok(found)
}

/// One value, quoted or up to the next space, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[i + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[i..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// What follows `postgres://`: `user:password@host:port,host:port/dbname?key=value&…`.
fn uri(rest: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            found.push((key.to_owned(), value));
        }
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    let (account, rest) = match rest[..slash].rfind('@') {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    };
    if let Some(account) = account {
        let (user, password) = account.split_once(':').unwrap_or((account, ""));
        add("user", decode(user)?);
        add("password", decode(password)?);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    if dbname.contains('@') {
        return Err(Error::usage("the URI has an \"@\" after its first \"/\"")
            .hint("in a user name, password or database name write / as %2F, @ as %40, : as %3A, ? as %3F"));
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(decode(name)?);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        add("host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", ports.join(","));
    }
    add("dbname", decode(dbname)?);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').ok_or_else(|| Error::usage("a parameter of the connection URI lacks its \"=\""))?;
        match (decode(key)?.as_str(), decode(value)?) {
            // what JDBC writes, and libpq understands
            ("ssl", value) if value == "true" => found.push(("sslmode".to_owned(), "require".to_owned())),
            (key, value) => found.push((key.to_owned(), value)),
        }
    }
    Ok(found)
}

/// Splits `name:port` or `[ipv6]:port`; a missing port is empty.
fn host_and_port(host: &str) -> Result<(&str, &str)> {
    let Some(bracketed) = host.strip_prefix('[') else {
        return Ok(host.split_once(':').unwrap_or((host, "")));
    };
    let (name, rest) = bracketed.split_once(']').ok_or_else(|| Error::usage("an IPv6 address in the connection URI lacks its \"]\""))?;
    match rest.strip_prefix(':') {
        Some(port) => Ok((name, port)),
        None if rest.is_empty() => Ok((name, "")),
        None => Err(Error::usage("after an IPv6 address in the connection URI only :port, a comma, / or ? may follow")),
    }
}

fn decode(text: &str) -> Result<String> {
    let bad =
        || Error::usage("the connection URI has a \"%\" that two hexadecimal digits of UTF-8 text do not follow").hint("write a percent sign as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(bad);
        let byte = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
        if byte == 0 {
            return Err(bad());
        }
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match pairs(text) {
            Ok(pairs) => pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" | "),
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn both_syntaxes_are_split() {
        for (text, expected) in [
            ("", ""),
            ("postgres://", ""),
            ("postgresql://localhost", "host=localhost"),
            ("postgres://h:5433/db", "host=h | port=5433 | dbname=db"),
            ("postgres://u:p@h/db", "user=u | password=p | host=h | dbname=db"),
            ("postgres://u@h1:1,h2:2/db?sslmode=require", "user=u | host=h1,h2 | port=1,2 | dbname=db | sslmode=require"),
            ("postgres://h1,h2:2", "host=h1,h2 | port=,2"),
            ("postgres://[::1]:5/d", "host=::1 | port=5 | dbname=d"),
            ("postgres://[fe80::1],b", "host=fe80::1,b"),
            ("postgres://%2Fvar%2Frun/db", "host=/var/run | dbname=db"),
            ("postgres:///db?host=/tmp&port=6", "dbname=db | host=/tmp | port=6"),
            ("postgres://u:p%40%3A%2F%25@h", "user=u | password=p@:/% | host=h"),
            ("postgres://u:p@ss@h/d", "user=u | password=p@ss | host=h | dbname=d"),
            ("postgres://u:a?b@h/d", "user=u | password=a?b | host=h | dbname=d"),
            ("postgres://h/gr%C3%B6%C3%9Fe", "host=h | dbname=größe"),
            ("postgres://h?ssl=true", "host=h | sslmode=require"),
            ("postgres://h/d?options=-c%20a=b&x=", "host=h | dbname=d | options=-c a=b | x="),
            ("host=h port = 5  dbname=d", "host=h | port=5 | dbname=d"),
            ("host='a b' password='it\\'s \\\\ok'", "host=a b | password=it's \\ok"),
            ("password=a\\ b user=u", "password=a b | user=u"),
            ("host= user=u", "host=user=u"),
            ("host='' user=u", "host= | user=u"),
            ("password=postgres://x", "password=postgres://x"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_text_is_refused_without_repeating_it() {
        for text in [
            "hunter2",
            "host=h hunter2",
            "host=h password='hunter2",
            "=hunter2",
            "mysql://u:hunter2@h",
            "jdbc:postgresql://u:hunter2@h",
            "postgres://u:hun/ter2@h/d",
            "postgres://u:hunter2%@h",
            "postgres://u:hunter2%zz@h",
            "postgres://u:hunter2%00@h",
            "postgres://u:hunter2%ff@h",
            "postgres://u:hunter2@[::1",
            "postgres://u:hunter2@[::1]x",
            "postgres://u:hunter2@h?sslmode",
        ] {
            let message = read(text);
            assert!(message.starts_with("error: ") && !message.contains("hun") && !message.contains("ter2"), "{text}: {message}");
        }
    }
}
