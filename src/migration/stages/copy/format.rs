//! Chooses the format of COPY for a relation: binary or text.

use std::collections::HashMap;

use crate::{event::CopyFormat, name::ident, pg::catalog::SourceRelation};

/// The binary formats of types on both sides.
pub struct Types {
    /// By type OID, see [`crate::pg::catalog::binary_types`].
    pub source: HashMap<u32, String>,
    pub target: HashMap<u32, String>,
    /// The encodings of the source and of the target.
    pub encodings: (String, String),
}

impl Types {
    /// Binary, if every column has the same safe binary form on both sides. `source`: columns with the OIDs of their types; `target`: OIDs of
    /// types by column.
    pub fn format(&self, source: &[(String, u32)], target: &HashMap<String, u32>) -> CopyFormat {
        let same = |(name, on_source): &(String, u32)| {
            let form = self.source.get(on_source);
            form.is_some() && form == target.get(name).and_then(|on_target| self.target.get(on_target))
        };
        if self.encodings.0 == self.encodings.1 && source.iter().all(same) { CopyFormat::Binary } else { CopyFormat::Text }
    }
}

/// A hint with the query that finds rows whose text is not UTF-8. A source in SQL_ASCII takes any bytes (PostgreSQL documentation 24.3.4;
/// RFC 3629).
pub fn not_utf8(relation: &SourceRelation) -> String {
    const UTF8: &str = "^([0-7].|(c[2-9a-f]|d.)[89ab].|(e0[ab]|e[1-9a-cef][89ab]|ed[89]).[89ab].|(f0[9ab]|f[1-3][89ab]|f48).([89ab].){2})*$";
    let columns: Vec<String> = relation.columns.iter().map(|c| ident(&c.name)).collect();
    format!(
        "correct these rows on the source, then retry: select ctid from {} where encode(convert_to(concat_ws('|', {}), 'SQL_ASCII'), 'hex') !~ '{UTF8}'",
        relation.table.sql(),
        columns.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_needs_the_same_form_of_every_column_on_both_sides() {
        let forms = |list: &[(u32, &str)]| list.iter().map(|(oid, form)| (*oid, (*form).to_owned())).collect::<HashMap<_, _>>();
        let mut types = Types {
            source: forms(&[(23, "23"), (25, "25"), (16_400, "public.mood"), (16_500, "25")]),
            target: forms(&[(23, "23"), (25, "25"), (90_400, "public.mood"), (90_500, "23")]),
            encodings: ("UTF8".into(), "UTF8".into()),
        };
        let on_source = |list: &[(&str, u32)]| list.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect::<Vec<_>>();
        let on_target = |list: &[(&str, u32)]| list.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect::<HashMap<_, _>>();
        for (source, target, format) in [
            (vec![("a", 23), ("b", 25)], vec![("b", 25), ("a", 23), ("more", 1)], CopyFormat::Binary),
            (vec![("a", 23)], vec![("a", 20)], CopyFormat::Text),
            // An enum has different OIDs on the two sides; a domain has the form of its base type.
            (vec![("m", 16_400)], vec![("m", 90_400)], CopyFormat::Binary),
            (vec![("d", 16_500)], vec![("d", 25)], CopyFormat::Binary),
            (vec![("d", 16_500)], vec![("d", 90_500)], CopyFormat::Text),
            // A type without a safe form, and a column that the target lacks: text, so that the target reports it.
            (vec![("x", 142)], vec![("x", 142)], CopyFormat::Text),
            (vec![("a", 23)], vec![], CopyFormat::Text),
            (vec![], vec![], CopyFormat::Binary),
        ] {
            assert_eq!(types.format(&on_source(&source), &on_target(&target)), format, "{source:?} {target:?}");
        }
        types.encodings.0 = "LATIN1".into();
        assert_eq!(types.format(&on_source(&[("a", 23)]), &on_target(&[("a", 23)])), CopyFormat::Text);
    }
}
