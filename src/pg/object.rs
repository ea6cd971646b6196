//! Objects of a database, by kind and name.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Defines [`ObjectKind`] and the words of its kinds in one place.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal,)*) => {
        /// The kinds of objects that the program treats differently.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ObjectKind {
            $($(#[$doc])* $kind,)*
            /// Any other kind. Its words are part of the object's name.
            Other,
        }

        impl ObjectKind {
            const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The words of pg_dump's `Type:`, or the program's own.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)*
                    Self::Other => "",
                }
            }
        }
    };
}

kinds! {
    Table = "TABLE",
    TableAttach = "TABLE ATTACH",
    Column = "COLUMN",
    /// `GENERATED ALWAYS AS IDENTITY` of a column.
    Identity = "IDENTITY",
    Sequence = "SEQUENCE",
    SequenceOwnedBy = "SEQUENCE OWNED BY",
    Index = "INDEX",
    IndexAttach = "INDEX ATTACH",
    /// A primary key, unique or exclusion constraint.
    Constraint = "CONSTRAINT",
    ForeignKey = "FK CONSTRAINT",
    /// A check or NOT NULL constraint of a table.
    CheckConstraint = "CHECK CONSTRAINT",
    DomainConstraint = "DOMAIN CONSTRAINT",
    Trigger = "TRIGGER",
    Rule = "RULE",
    Policy = "POLICY",
    RowSecurity = "ROW SECURITY",
    Statistics = "STATISTICS",
    EventTrigger = "EVENT TRIGGER",
    Extension = "EXTENSION",
    Publication = "PUBLICATION",
    PublicationTable = "PUBLICATION TABLE",
    PublicationSchema = "PUBLICATION TABLES IN SCHEMA",
    Subscription = "SUBSCRIPTION",
    /// To whom another object belongs; the name is that of the object with its kind.
    Owner = "owner of",
    Grant = "ACL",
    DefaultGrant = "DEFAULT ACL",
}

/// An object by kind and name. It prints as `TABLE public.orders` and is read from that text, so files of earlier versions stay readable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ObjectRef {
    pub kind: ObjectKind,
    /// As it is printed: with its schema, not always quoted.
    pub name: String,
}

impl ObjectRef {
    pub fn new(kind: ObjectKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// The ownership of an object.
    #[must_use]
    pub fn owner_of(&self) -> Self {
        Self::new(ObjectKind::Owner, self.to_string())
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ObjectKind::Other => f.write_str(&self.name),
            kind => write!(f, "{} {}", kind.as_str(), self.name),
        }
    }
}

impl From<&str> for ObjectRef {
    fn from(text: &str) -> Self {
        let name = |kind: ObjectKind| text.strip_prefix(kind.as_str())?.strip_prefix(' ');
        // The longest words fit best: `TABLE ATTACH` is no `TABLE`.
        let known = ObjectKind::ALL.iter().filter(|kind| name(**kind).is_some()).max_by_key(|kind| kind.as_str().len());
        match known.and_then(|kind| Some((*kind, name(*kind)?))) {
            Some((kind, name)) => Self::new(kind, name),
            None => Self::new(ObjectKind::Other, text),
        }
    }
}

impl From<String> for ObjectRef {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<ObjectRef> for String {
    fn from(object: ObjectRef) -> Self {
        object.to_string()
    }
}

impl From<&ObjectRef> for String {
    fn from(object: &ObjectRef) -> Self {
        object.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_from_the_text_that_it_prints() {
        for (text, kind, name) in [
            ("TABLE public.t", ObjectKind::Table, "public.t"),
            ("TABLE ATTACH public.p_1", ObjectKind::TableAttach, "public.p_1"),
            ("SEQUENCE OWNED BY public.s", ObjectKind::SequenceOwnedBy, "public.s"),
            ("PUBLICATION \"All\"", ObjectKind::Publication, "\"All\""),
            ("PUBLICATION TABLE public.p t", ObjectKind::PublicationTable, "public.p t"),
            ("owner of TABLE app.events", ObjectKind::Owner, "TABLE app.events"),
            ("TABLESPACE fast", ObjectKind::Other, "TABLESPACE fast"),
            ("FUNCTION public.f(integer)", ObjectKind::Other, "FUNCTION public.f(integer)"),
            ("TABLE", ObjectKind::Other, "TABLE"),
        ] {
            let object = ObjectRef::from(text);
            assert_eq!((object.kind, object.name.as_str(), object.to_string().as_str()), (kind, name, text));
            let json = serde_json::to_string(&object).unwrap();
            assert_eq!(json, serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::from_str::<ObjectRef>(&json).unwrap(), object);
        }
        assert_eq!(ObjectRef::from("TABLE a.t").owner_of().to_string(), "owner of TABLE a.t");
    }
}
