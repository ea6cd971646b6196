//! SQLSTATEs that decide what happens next (PostgreSQL documentation, appendix A).

pub const CONNECTION_EXCEPTION_CLASS: &str = "08";
/// A pooler reports it for a startup parameter that it does not know.
pub const PROTOCOL_VIOLATION: &str = "08P01";

/// Data exceptions.
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// Bytes that are no text in the encoding of the database.
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";

/// Text that is no value of its type, such as an unknown value of an enum.
pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
/// Also a time that is out of range.
pub const DATETIME_FIELD_OVERFLOW: &str = "22008";

pub const NOT_NULL_VIOLATION: &str = "23502";
pub const FOREIGN_KEY_VIOLATION: &str = "23503";
pub const UNIQUE_VIOLATION: &str = "23505";
pub const CHECK_VIOLATION: &str = "23514";
pub const EXCLUSION_VIOLATION: &str = "23P01";

pub const READ_ONLY_TRANSACTION: &str = "25006";

/// Also "no pg_hba.conf entry for host …".
pub const INVALID_AUTHORIZATION: &str = "28000";
pub const INVALID_PASSWORD: &str = "28P01";

/// No such database.
pub const INVALID_CATALOG_NAME: &str = "3D000";
pub const INVALID_SCHEMA_NAME: &str = "3F000";

/// Serialization failures and deadlocks.
pub const TRANSACTION_ROLLBACK_CLASS: &str = "40";

pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// A value for a column that is generated always.
pub const GENERATED_ALWAYS: &str = "428C9";
pub const UNDEFINED_OBJECT: &str = "42704";
pub const UNDEFINED_FUNCTION: &str = "42883";
pub const UNDEFINED_TABLE: &str = "42P01";
pub const DUPLICATE_TABLE: &str = "42P07";
pub const DUPLICATE_OBJECT: &str = "42710";
pub const DUPLICATE_FUNCTION: &str = "42723";
/// Also "multiple primary keys".
pub const INVALID_TABLE_DEFINITION: &str = "42P16";

/// Disk, memory and connections.
pub const INSUFFICIENT_RESOURCES_CLASS: &str = "53";
pub const TOO_MANY_CONNECTIONS: &str = "53300";
pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";

/// What a server can do at most: a row of 1 GB, 1664 columns, …
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";

/// An object in a state that waiting does not always change.
pub const OBJECT_STATE_CLASS: &str = "55";
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
pub const OBJECT_IN_USE: &str = "55006";
pub const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Cancelled, or the server is stopping or starting.
pub const OPERATOR_INTERVENTION_CLASS: &str = "57";
pub const QUERY_CANCELED: &str = "57014";
pub const ADMIN_SHUTDOWN: &str = "57P01";
pub const CRASH_SHUTDOWN: &str = "57P02";
pub const CANNOT_CONNECT_NOW: &str = "57P03";

/// What the server's authors did not expect, and what `elog` reports.
pub const INTERNAL_ERROR: &str = "XX000";

/// The classes of errors after which the same work may be retried.
pub const TRANSIENT_CLASSES: [&str; 5] =
    [CONNECTION_EXCEPTION_CLASS, TRANSACTION_ROLLBACK_CLASS, INSUFFICIENT_RESOURCES_CLASS, OBJECT_STATE_CLASS, OPERATOR_INTERVENTION_CLASS];
