//! What a session of hyperlift is, for both clients: which server, and the settings that it begins with.

use std::fmt;

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Source,
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// The statements that make a session independent of the settings of the server, the database and the role: values print the same on
/// both sides, names mean the same objects, and no timeout interrupts it.
///
/// They are statements and not startup options because poolers drop those.
pub fn session_settings(side: Side, version_num: u32) -> String {
    let mut settings = vec![
        "client_encoding = 'UTF8'",
        "datestyle = 'ISO, YMD'",
        "intervalstyle = 'postgres'",
        "timezone = 'UTC'",
        "extra_float_digits = 3",
        "bytea_output = 'hex'",
        "lc_monetary = 'C'",
        "xmloption = 'content'",
        "standard_conforming_strings = on",
        "quote_all_identifiers = off",
        "array_nulls = on",
        "transform_null_equals = off",
        "default_transaction_isolation = 'read committed'",
        "default_transaction_read_only = off",
        "search_path = ''",
        "row_security = off",
        // Compiling takes longer than queries of the catalogs, or applying a batch.
        "jit = off",
        "statement_timeout = 0",
        "lock_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
    ];
    if version_num >= 140_000 {
        settings.push("idle_session_timeout = 0");
    }
    if version_num >= 170_000 {
        settings.push("transaction_timeout = 0");
    }
    settings.extend(match side {
        // Not `on`: changes on the source would wait for a synchronous standby that is down.
        Side::Source => &["synchronous_commit = local"][..],
        // The dump names another access method where a table has one.
        Side::Target => &["check_function_bodies = off", "default_table_access_method = heap", "synchronous_commit = on"],
    });
    format!("set {};\n", settings.join(";\nset "))
}

/// `server_version_num` from `server_version`: 150020 for `15.20 (Debian 15.20-1)`, 90624 for `9.6.24`, 180000 for `18beta1`.
pub fn version_num(server_version: &str) -> u32 {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
    let mut parts = server_version.split('.');
    let major = digits(parts.next().unwrap_or_default());
    let minor = digits(parts.next().unwrap_or_default());
    if major >= 10 { major * 10_000 + minor } else { major * 10_000 + minor * 100 + digits(parts.next().unwrap_or_default()) }
}
