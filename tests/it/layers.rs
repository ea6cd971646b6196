//! The floors of the program: a module uses only modules below it, and the screens know no database.

use std::{fs, path::Path};

/// From the roof to the ground; modules of one line may use each other.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["run"],
    &["cli"],
    &["ui"],
    &["front"],
    &["report"],
    &["migration", "stages"],
    &["demo"],
    &["replay"],
    &["bus"],
    &["journal"],
    &["state"],
    &["config"],
    &["event"],
    &["pg"],
    &["plan"],
    &["scope"],
    &["lsn"],
    &["name"],
    &["format"],
    &["error"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|names| names.contains(&module))
}

fn sources(dir: &Path, out: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap().display().to_string();
            out.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The modules that a file names with `crate::`, in braces, too.
fn used(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        // The first word of each item at the outermost level of the braces.
        let (mut depth, mut word) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                c if depth == 0 => word.push(c),
                _ => {}
            }
        }
        found.push(word);
    }
    found.iter().map(|w| w.trim().split("::").next().unwrap_or_default().trim().to_owned()).filter(|w| !w.is_empty()).collect()
}

#[test]
fn every_module_uses_only_modules_below_it() {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    assert!(files.len() > 50, "the sources are where they were");
    let mut wrong = Vec::new();
    for (name, text) in &files {
        let module = name.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        // Tests beside the code may borrow from above.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let own = floor(module).unwrap_or_else(|| panic!("{module} has no floor"));
        for other in used(text) {
            match floor(&other) {
                Some(below) if below >= own => {}
                Some(_) => wrong.push(format!("{name} uses {other}")),
                None => wrong.push(format!("{name} uses crate::{other}, which has no floor")),
            }
        }
        if text.contains("ratatui") && module != "ui" {
            wrong.push(format!("{name} knows ratatui"));
        }
        if ["ui", "front", "report"].contains(&module) && used(text).iter().any(|u| ["pg", "replay", "stages", "migration"].contains(&u.as_str())) {
            wrong.push(format!("{name} knows the engine"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
