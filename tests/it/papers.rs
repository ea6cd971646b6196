//! The papers of the project: what they cite exists, what cites them resolves, and they are in plain English.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, extensions: &[&str], out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, extensions, out);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            out.push(path);
        }
    }
}

/// Rust files of the program, its tests and its benches.
fn code() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for dir in ["src", "tests", "benches"] {
        files(&root().join(dir), &["rs"], &mut found);
    }
    assert!(found.len() > 150, "the sources are where they were");
    read(found)
}

fn papers() -> Vec<(String, String)> {
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].iter().map(|f| root().join(f)).collect();
    files(&root().join("docs"), &["md"], &mut found);
    read(found)
}

fn read(files: Vec<PathBuf>) -> Vec<(String, String)> {
    files.into_iter().map(|f| (f.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(&f).unwrap())).collect()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Words of a text with their separators removed: `C-12`, `i_8_sets`, `I6`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_word(c) && c != '-').map(|w| w.trim_matches('-')).filter(|w| !w.is_empty())
}

/// `C-12` is a case; `UTF-8` is none.
fn case(word: &str) -> Option<(char, u32)> {
    let (group, number) = word.split_once('-')?;
    let mut letters = group.chars();
    let letter = letters.next().filter(|c| "NTBCHR".contains(*c))?;
    (letters.next().is_none() && number.len() < 3).then(|| number.parse().ok().map(|n| (letter, n)))?
}

/// `I6` is an invariant.
fn invariant(word: &str) -> Option<(char, u32)> {
    word.strip_prefix('I').filter(|n| n.len() < 3)?.parse().ok().map(|n| ('I', n))
}

/// `c_3_c_9_some_words` cites C-3 and C-9.
fn cited_by_name(name: &str) -> Vec<(char, u32)> {
    let (mut rest, mut found) = (name, Vec::new());
    loop {
        let mut parts = rest.splitn(3, '_');
        let (Some(letter), Some(number), Some(after)) = (parts.next(), parts.next(), parts.next()) else { return found };
        match (letter.len(), letter.chars().next(), number.parse()) {
            (1, Some(c), Ok(n)) if "ntbchri".contains(c) => found.push((c.to_ascii_uppercase(), n)),
            _ => return found,
        }
        rest = after;
    }
}

/// Names of all functions, tests among them.
fn functions(code: &[(String, String)]) -> BTreeSet<&str> {
    code.iter().flat_map(|(_, text)| text.match_indices("fn ").map(|(at, _)| words(&text[at + 3..]).next().unwrap_or_default())).collect()
}

/// The entries of the papers: `- **C-12** ` and `- **I6** `.
fn entries() -> BTreeSet<(char, u32)> {
    let text: String = papers().into_iter().filter(|(f, _)| f.ends_with("cases.md") || f.ends_with("architecture.md")).map(|(_, t)| t).collect();
    let found: Vec<_> = text
        .lines()
        .filter_map(|l| l.strip_prefix("- **")?.split_once("**").map(|(entry, _)| entry.to_owned()))
        .filter_map(|entry| case(&entry).or_else(|| invariant(&entry)))
        .collect();
    let set: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(found.len(), set.len(), "each number has one entry");
    assert!(set.len() > 120, "the papers have their entries");
    set
}

#[test]
fn every_citation_has_an_entry_in_the_papers() {
    let (entries, code) = (entries(), code());
    let mut unresolved = BTreeSet::new();
    for (file, text) in code.iter().chain(&papers()).filter(|(f, _)| !f.ends_with("papers.rs")) {
        for word in words(text) {
            let found = case(word).or_else(|| invariant(word)).filter(|(letter, n)| *letter != 'I' || *n < 20);
            unresolved.extend(found.filter(|c| !entries.contains(c)).map(|c| format!("{file}: {word} {c:?}")));
        }
    }
    for name in functions(&code) {
        unresolved.extend(cited_by_name(name).into_iter().filter(|c| !entries.contains(c)).map(|c| format!("fn {name}: {c:?}")));
    }
    assert_eq!(unresolved, BTreeSet::new());
}

#[test]
fn every_test_that_the_papers_name_exists() {
    let code = code();
    let functions = functions(&code);
    let mut missing = BTreeSet::new();
    for (file, text) in papers().into_iter().filter(|(f, _)| f.ends_with("cases.md") || f.ends_with("architecture.md")) {
        for quoted in text.split('`').skip(1).step_by(2) {
            // Settings have fewer words, or begin with `pg_` or a word for idle sessions.
            let is_name = quoted.matches('_').count() > 4 && quoted.chars().all(|c| is_word(c) && !c.is_ascii_uppercase());
            if is_name && !functions.contains(quoted) && !quoted.ends_with("_timeout") {
                missing.insert(format!("{file}: {quoted}"));
            }
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

/// The anchor that a heading gets on the usual hosts.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn every_link_of_the_papers_leads_somewhere() {
    let mut broken = BTreeSet::new();
    for (file, text) in papers() {
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split([')', ' ']).next().unwrap_or_default();
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(&file).parent().unwrap().to_path_buf();
            let target = if path.is_empty() { root().join(&file) } else { folder.join(path) };
            if !target.exists() {
                broken.insert(format!("{file}: {link}"));
            } else if !fragment.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                if !there.lines().any(|l| l.starts_with('#') && anchor(l.trim_start_matches('#')) == fragment) {
                    broken.insert(format!("{file}: {link} (no such heading)"));
                }
            }
        }
    }
    assert_eq!(broken, BTreeSet::new());
}

/// Words at which an English reader stumbles, with what to write instead.
const STUMBLES: &[(&str, &str)] = &[
    ("anew", "again"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("wished", "requested"),
    ("at once", "immediately, or: at the same time"),
    ("so many", "this many"),
    ("so long as", "as long as"),
    ("told of", "reported"),
    ("is told", "is reported"),
    ("are told", "are reported"),
    ("tells of", "reports"),
    ("stands at", "is at"),
    ("stands in", "is in"),
    ("it stands", "it is"),
    ("where it stood", "where it was"),
    ("looked at again", "polled again"),
    ("held up", "waiting, or: blocked"),
    ("holds up", "blocks"),
    ("worth no failure", "best effort"),
    ("behind it", "after it"),
    ("behind the others", "after the others"),
    ("behind all others", "after all others"),
    ("behind them", "after them"),
    ("by hands", "manually"),
];

#[test]
fn nobody_has_to_read_a_sentence_twice() {
    let mut found = BTreeSet::new();
    let snapshots = {
        let mut files_found = Vec::new();
        files(&root().join("src"), &["snap"], &mut files_found);
        read(files_found)
    };
    for (file, text) in code().iter().chain(&papers()).chain(&snapshots).filter(|(f, _)| !f.ends_with("papers.rs")) {
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for (stumble, better) in STUMBLES {
                let hit = line.match_indices(stumble).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + stumble.len()..].chars().next();
                    !before.is_some_and(is_word) && !after.is_some_and(is_word)
                });
                if hit {
                    found.insert(format!("{file}:{}: {stumble} (write {better})", number + 1));
                }
            }
        }
    }
    assert_eq!(found, BTreeSet::new());
}
