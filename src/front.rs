//! Front ends without a screen: further readers of the same events.

pub mod json;
pub mod plain;
