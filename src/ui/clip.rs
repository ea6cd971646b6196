//! What `y` copies and `w` writes: the text of the screen.

use std::fmt::Write as _;

use crate::{
    event::{Candidate, KeyShape, SchemaDifference, Stage, UniqueKey},
    name::plain_ident,
    plan::{Hypertable, IdentityChoice, KeyChoice},
    state::State,
    ui::view::{Overlay, View},
};

/// The text of what is shown: SQL where there is some, else the error or the positions.
pub fn text(state: &State, view: &View) -> String {
    let stage = view.shown(state);
    if view.overlay == Some(Overlay::Log) {
        return joined(state.log.iter().map(|l| format!("{} {:5} {}", l.at, l.level.as_str(), l.text)));
    }
    if view.overlay == Some(Overlay::Differences) {
        return view.selected_difference(state).map_or_else(String::new, difference);
    }
    match stage {
        Stage::Preflight => {
            let checks = view.checks(state);
            checks.get(view.selected(stage, state)).map_or_else(String::new, |c| match &c.fix {
                Some(fix) => format!("{fix}\n"),
                None => format!("{}: {}\n", c.name, c.sentence),
            })
        }
        Stage::Identity => view.selected_identity(state).map_or_else(String::new, |row| {
            let choice = match (&row.proposed, view.eligible_index(row)) {
                (Some(IdentityChoice::Index(_)), Some(index)) => IdentityChoice::Index(index.clone()),
                (Some(choice), _) => choice.clone(),
                (None, _) => IdentityChoice::Full,
            };
            choice.sql(&row.table).map_or_else(|| format!("{}: {}\n", row.table, row.reason), |sql| sql + ";\n")
        }),
        Stage::Schema => view
            .statements(state)
            .get(view.selected(stage, state))
            .map(|f| &f.statement)
            .map_or_else(String::new, |f| format!("{}\n-- {}\n", f.sql.trim_end(), f.message)),
        Stage::Hypertables => view.selected_candidate(state).map_or_else(String::new, |c| hypertable_sql(c, view)),
        Stage::Copy => view.selected_table(stage, state).map_or_else(String::new, |t| {
            let error = t.copy.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
            format!("{} {}{error}\n", t.summary.table, t.state().as_str())
        }),
        Stage::CatchUp => {
            let table = view.selected_table(stage, state);
            let waits = table.and_then(|t| state.waits(t)).map(|f| f.statement.sql.trim_end().to_owned() + ";\n");
            waits.or_else(|| Some(table?.slow.as_ref()?.fix.clone() + "\n")).unwrap_or_else(|| positions(state))
        }
        _ => positions(state),
    }
}

/// The statement; what is known instead where there is none.
fn difference(d: &SchemaDifference) -> String {
    match &d.sql {
        Some(sql) => format!("{};\n", sql.trim_end().trim_end_matches(';')),
        None => format!("-- {} {}\n", d.object, d.how),
    }
}

fn positions(state: &State) -> String {
    let r = &state.replay;
    format!("source LSN   {}\nreceived LSN {}\napplied LSN  {}\n", r.status.source, r.received_lsn(), r.status.applied)
}

/// The file of this screen's SQL, and all of that SQL.
pub fn sql_file(stage: Stage, state: &State, view: &View) -> Option<(&'static str, String)> {
    let (file, text) = match stage {
        _ if view.overlay == Some(Overlay::Differences) => {
            ("schema-changes.sql", joined(state.differences.iter().map(|d| format!("-- {} {}: {}\n{}", d.object, d.how, d.state(), difference(d)))))
        }
        Stage::Preflight => (
            "preflight.txt",
            joined(state.preflight.checks.iter().filter_map(|c| Some(format!("-- {}: {}\n{}\n", c.name, c.sentence, c.fix.as_ref()?)))),
        ),
        Stage::Identity => ("identity.sql", joined(state.identity.rows.iter().filter_map(|r| Some(r.proposed.as_ref()?.sql(&r.table)? + ";")))),
        Stage::Schema => (
            "failed-schema.sql",
            joined(state.schema.failures.iter().map(|f| &f.statement).map(|f| format!("-- {}: {}\n{}\n", f.object, f.message, f.sql.trim_end()))),
        ),
        Stage::Hypertables => {
            ("hypertables.sql", joined(state.hypertables.candidates.iter().filter(|c| view.is_selected(c)).map(|c| hypertable_sql(c, view))))
        }
        _ => return None,
    };
    (!text.is_empty()).then_some((file, text))
}

fn joined(lines: impl Iterator<Item = String>) -> String {
    lines.fold(String::new(), |all, line| all + &line + "\n")
}

/// The statements that make a candidate a hypertable and bring its keys back after the copy.
pub fn hypertable_sql(candidate: &Candidate, view: &View) -> String {
    let Some(hypertable) = view.hypertable(candidate) else { return String::new() };
    let mut sql = format!("{};\n", hypertable.sql(&candidate.functions_in));
    for line in later_sql(candidate, &hypertable) {
        let _ = writeln!(sql, "-- after the copy:\n{line}");
    }
    sql
}

/// What becomes of the keys that lack the time column, after the copy.
pub fn later_sql(candidate: &Candidate, hypertable: &Hypertable) -> Vec<String> {
    // A key with an obstacle blocks the whole conversion. The text of others than lists of columns is known to the server alone.
    let is_shown = |k: &&UniqueKey| k.shape == KeyShape::Columns && k.objection(hypertable).is_none();
    let lacking = candidate.keys.iter().filter(is_shown).filter(|k| !k.columns.contains(&hypertable.time_column));
    let list = |columns: &[&str]| columns.iter().map(|c| plain_ident(c)).collect::<Vec<_>>().join(", ");
    lacking
        .filter_map(|key| {
            let table = &candidate.table;
            Some(match hypertable.key {
                KeyChoice::Extend if key.primary => {
                    format!("alter table {table} add primary key ({});", list(&hypertable.extended(&key.columns)))
                }
                KeyChoice::Extend => {
                    format!("create unique index {} on {table} ({});", plain_ident(&key.name), list(&hypertable.extended(&key.columns)))
                }
                KeyChoice::PlainIndex => {
                    format!(
                        "create index {} on {table} ({});",
                        plain_ident(&key.name),
                        list(&key.columns.iter().map(String::as_str).collect::<Vec<_>>())
                    )
                }
                KeyChoice::Refuse => return None,
            })
        })
        .collect()
}
