//! Binary or text: which form of COPY a relation goes in.

use std::collections::HashMap;

use crate::event::CopyFormat;

/// What both sides know of types in binary form.
pub struct Types {
    /// By type OID, see [`crate::pg::catalog::binary_types`].
    pub source: HashMap<u32, String>,
    pub target: HashMap<u32, String>,
    /// Both databases have the same encoding. Values are converted in either format; but only text says which byte is wrong.
    pub same_encoding: bool,
}

impl Types {
    /// Binary, if every column has the same safe binary form on both sides. The source's columns with their types; the target's by name.
    pub fn format(&self, source: &[(String, u32)], target: &HashMap<String, u32>) -> CopyFormat {
        let same = |(name, on_source): &(String, u32)| {
            let form = self.source.get(on_source);
            form.is_some() && form == target.get(name).and_then(|on_target| self.target.get(on_target))
        };
        if self.same_encoding && source.iter().all(same) { CopyFormat::Binary } else { CopyFormat::Text }
    }
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
            same_encoding: true,
        };
        let on_source = |list: &[(&str, u32)]| list.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect::<Vec<_>>();
        let on_target = |list: &[(&str, u32)]| list.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect::<HashMap<_, _>>();
        for (source, target, format) in [
            (vec![("a", 23), ("b", 25)], vec![("b", 25), ("a", 23), ("more", 1)], CopyFormat::Binary),
            (vec![("a", 23)], vec![("a", 20)], CopyFormat::Text),
            // An enum has another OID on each side; a domain goes as what it is made of.
            (vec![("m", 16_400)], vec![("m", 90_400)], CopyFormat::Binary),
            (vec![("d", 16_500)], vec![("d", 25)], CopyFormat::Binary),
            (vec![("d", 16_500)], vec![("d", 90_500)], CopyFormat::Text),
            // No safe form, and a column that the target lacks: it says so.
            (vec![("x", 142)], vec![("x", 142)], CopyFormat::Text),
            (vec![("a", 23)], vec![], CopyFormat::Text),
            (vec![], vec![], CopyFormat::Binary),
        ] {
            assert_eq!(types.format(&on_source(&source), &on_target(&target)), format, "{source:?} {target:?}");
        }
        types.same_encoding = false;
        assert_eq!(types.format(&on_source(&[("a", 23)]), &on_target(&[("a", 23)])), CopyFormat::Text);
    }
}
