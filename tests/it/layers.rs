//! The floors of the program: a file uses only files on floors below its own, no two files use each other, and the screens know no
//! database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::visit::Visit;

/// For each folder, its modules from the top to the ground. A module uses only modules of lower floors; modules of one floor do not use
/// each other. A module that is not listed fails the test, so that nobody forgets to give it a place.
const FLOORS: &[(&str, &[&[&str]])] = &[
    (
        "",
        &[
            &["main"],
            &["run"],
            &["cli"],
            &["ui"],
            &["front"],
            &["report"],
            &["migration"],
            &["demo"],
            &["replay"],
            &["bus"],
            &["work_dir"],
            &["record", "state"],
            &["config"],
            &["event"],
            &["pg"],
            &["plan"],
            &["scope"],
            &["lsn"],
            &["name"],
            &["format", "private"],
            &["error"],
            &["sqlstate", "private"],
        ],
    ),
    ("ui", &[&["app", "terminal"], &["screens"], &["clip", "widgets"], &["view"], &["keys", "theme"]]),
    ("ui::view", &[&["filter", "rows", "selection"]]),
    (
        "state",
        &[&["eta", "permissions"], &["before_copy", "copy", "cutover", "replay"], &["pace", "tables"], &["table"], &["log", "meter", "prompts"]],
    ),
    ("event", &[&["prompt"], &["check", "cutover", "replay", "schema", "stage", "table"]]),
    ("migration", &[&["stages"], &["restore"], &["relations"], &["context"], &["prompts"]]),
    (
        "migration::stages",
        &[&["done"], &["cutover"], &["verify"], &["catch_up"], &["copy"], &["preflight"], &["hypertables"], &["schema"], &["identity"]],
    ),
    ("migration::stages::hypertables", &[&["trial"], &["convert"], &["candidates", "times"]]),
    ("migration::stages::preflight", &[&["checks"], &["scope", "source", "target", "timescaledb", "machine"], &["connections"], &["finding"]]),
    ("run", &[&["demo"], &["wiring"], &["signals"]]),
    ("cli", &[&["pages"]]),
    ("front", &[&["plain", "json"]]),
    ("demo", &[&["application", "timescale", "compare", "data"], &["actions", "servers"]]),
    (
        "migration::stages::copy",
        &[
            &["engine"],
            &["worker"],
            &["failures"],
            &["shared"],
            &["queue", "indexes", "large_objects", "extension_rows"],
            &["source", "transfer", "chunks"],
            &["slot", "spec", "tasks", "key_ranges", "format", "replayable", "throttle", "bare_leaves", "publications"],
            &["parts"],
        ],
    ),
    ("migration::stages::cutover", &[&["drain"], &["late_writes", "sequences", "last_objects"], &["end_of_stream"], &["step"]]),
    ("migration::stages::done", &[&["late_writes", "objects", "clean"], &["event_triggers", "identity", "refresh"]]),
    ("migration::stages::identity", &[&["assess"]]),
    ("migration::stages::copy::engine", &[&["start"], &["drive"]]),
    ("migration::stages::copy::indexes", &[&["builders"], &["work", "progress"], &["plan"]]),
    (
        "migration::stages::catch_up",
        &[
            &["analyze", "conflicts", "gates", "sampler", "schema_changes", "start", "stop", "wait"],
            &["joining"],
            &["lanes"],
            &["counters", "slow_tables"],
            &["replay"],
            &["away", "lag", "schema_watch", "status", "replayed"],
        ],
    ),
    (
        "pg",
        &[
            &["ledger", "slot", "publication"],
            &["dump", "level_columns", "local_rows"],
            &["target_table"],
            &["timescale"],
            &["catalog"],
            &["event_triggers", "pooler", "snapshot"],
            &["client"],
            &["wire"],
            &["connect"],
            &["object", "own"],
        ],
    ),
    (
        "pg::catalog",
        &[
            &["creation_order", "unsupported"],
            &["exclusion"],
            &["relations", "schema_state", "partitions"],
            &[
                "binary_types", "columns", "exclusion_constraints", "foreign_keys", "foreign_rows", "functions", "names", "open_writers", "roles",
                "sequences", "server", "sessions", "shapes", "unreadable", "versions", "views",
            ],
        ],
    ),
    (
        "pg::dump",
        &[
            &["classify"],
            &["alter_table", "definition", "downgrade", "index_build", "named", "phase", "privileges", "program", "publications", "repair"],
            &["lost", "toc"],
            &["ast", "statement"],
        ],
    ),
    ("pg::connect", &[&["hosts", "tls"], &["conninfo"], &["session"]]),
    ("pg::ledger", &[&["steps", "joining"], &["ddl", "lanes", "parts", "relations", "schema"]]),
    (
        "replay",
        &[
            &["start", "statements"],
            &["router"],
            &["lane"],
            &["receiver"],
            &["spool"],
            &["schema_change", "sets"],
            &["apply", "compact"],
            &["key"],
            &["change"],
            &["relation"],
            &["pgoutput"],
        ],
    ),
    ("replay::spool", &[&["thread", "touched"], &["reader", "received", "writer"], &["block", "segment"]]),
    ("replay::receiver", &[&["connection"], &["origin", "pending", "status"], &["history"]]),
    ("replay::router", &[&["distribution", "schema_change", "truncate"], &["barrier"], &["routing"], &["hot_table", "transaction"], &["spec"]]),
    ("replay::lane", &[&["session"], &["script", "batch"], &["feed", "shared"]]),
];

/// A file of `src/`: its module path and what it names of this crate, as absolute paths.
struct Module {
    path: Vec<String>,
    uses: BTreeSet<Vec<String>>,
    text: String,
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Collects the paths of a file that begin with `crate`, `super` or `self`. Test modules are left out: tests may borrow from above.
struct Paths {
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Paths {
    fn take(&mut self, segments: &[String]) {
        let absolute = match segments[0].as_str() {
            "crate" => segments[1..].to_vec(),
            "self" => self.module.iter().chain(&segments[1..]).cloned().collect(),
            "super" => {
                let up = segments.iter().take_while(|s| *s == "super").count();
                let base = self.module.len().saturating_sub(up);
                self.module[..base].iter().chain(&segments[up..]).cloned().collect()
            }
            _ => return,
        };
        self.found.insert(absolute);
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(p) => self.tree(&p.tree, &with(&p.ident)),
            syn::UseTree::Name(n) if n.ident == "self" => self.take(before),
            syn::UseTree::Name(n) => self.take(&with(&n.ident)),
            syn::UseTree::Rename(r) if r.ident == "self" => self.take(before),
            syn::UseTree::Rename(r) => self.take(&with(&r.ident)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Group(g) => g.items.iter().for_each(|t| self.tree(t, before)),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|i| i == "test"))
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.take(&path.segments.iter().map(|s| s.ident.to_string()).collect::<Vec<_>>());
        }
        syn::visit::visit_path(self, path);
    }
}

/// Every file of the program that is not a test.
fn modules() -> Vec<Module> {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut files = Vec::new();
    sources(src, &mut files);
    let mut tests = BTreeSet::new();
    let mut modules = Vec::new();
    for file in files {
        let path: Vec<String> = file.strip_prefix(src).unwrap().with_extension("").iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        let text = fs::read_to_string(&file).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for item in &parsed.items {
            if let syn::Item::Mod(m) = item
                && is_test(&m.attrs)
            {
                tests.insert(path.iter().filter(|p| *p != "lib").cloned().chain([m.ident.to_string()]).collect::<Vec<_>>());
            }
        }
        let mut paths = Paths { module: path.clone(), found: BTreeSet::new() };
        paths.visit_file(&parsed);
        modules.push(Module { path, uses: paths.found, text });
    }
    // A file that only tests include is a test.
    modules.retain(|m| m.path != ["lib"] && !tests.iter().any(|t| m.path.starts_with(t)));
    assert!(modules.len() > 100, "the sources are where they were");
    modules
}

/// The file that a path leads to: the longest part of it that is a file.
fn file_of<'a>(path: &[String], files: &'a BTreeMap<&[String], usize>) -> Option<&'a usize> {
    (1..=path.len()).rev().find_map(|n| files.get(&path[..n]))
}

#[test]
fn every_module_uses_only_modules_below_it() {
    let modules = modules();
    let mut wrong = BTreeSet::new();
    for (folder, floors) in FLOORS {
        let folder: Vec<String> = folder.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let floor = |name: &String| floors.iter().position(|names| names.contains(&name.as_str()));
        for module in modules.iter().filter(|m| m.path.len() > folder.len() && m.path.starts_with(&folder)) {
            let own = &module.path[folder.len()];
            let Some(own_floor) = floor(own) else {
                wrong.insert(format!("{own} has no floor in {}", folder.join("::")));
                continue;
            };
            for used in module.uses.iter().filter(|u| u.len() > folder.len() && u.starts_with(&folder)) {
                let other = &used[folder.len()];
                // An item of the folder's own file is not a module.
                if other != own && floor(other).is_some_and(|below| below <= own_floor) {
                    wrong.insert(format!("{} uses {}", module.path.join("::"), used.join("::")));
                }
            }
        }
    }
    for module in &modules {
        let top = module.path[0].as_str();
        if module.text.contains("ratatui") && top != "ui" {
            wrong.insert(format!("{} knows ratatui", module.path.join("::")));
        }
        if ["ui", "front", "report"].contains(&top) && module.uses.iter().any(|u| ["pg", "replay", "migration"].contains(&u[0].as_str())) {
            wrong.insert(format!("{} knows the engine", module.path.join("::")));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let modules = modules();
    let files: BTreeMap<&[String], usize> = modules.iter().enumerate().map(|(i, m)| (m.path.as_slice(), i)).collect();
    let edges: Vec<BTreeSet<usize>> = modules
        .iter()
        .enumerate()
        .map(|(i, m)| m.uses.iter().filter_map(|u| file_of(u, &files)).copied().filter(|other| *other != i).collect())
        .collect();
    let reaches = |from: usize, to: usize| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            for other in &edges[next] {
                if seen.insert(*other) {
                    open.push(*other);
                }
            }
        }
        seen.contains(&to)
    };
    let circles: Vec<String> = (0..modules.len())
        .flat_map(|a| edges[a].iter().map(move |b| (a, *b)))
        .filter(|(a, b)| reaches(*b, *a))
        .map(|(a, b)| format!("{} -> {}", modules[a].path.join("::"), modules[b].path.join("::")))
        .collect();
    assert_eq!(circles, Vec::<String>::new());
}
