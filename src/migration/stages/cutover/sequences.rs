//! Sequences: no stream carries their values and definitions, so they follow the source's once the source is quiet.

use std::collections::{BTreeMap, HashMap};

use crate::{
    error::{Error, Result},
    migration::context::Context,
    name::{TableName, ident, literal},
    pg::{
        catalog::{self, SequenceState, exclusion::Excluded},
        client::Client,
    },
};

/// How the sequences were set.
pub enum Sequences {
    /// This many were set or altered.
    Set(usize),
    /// The values of some cannot be read, for this reason. Nothing was set.
    Unreadable { reason: String },
}

/// A statement for the target, and the sequence that it concerns.
struct Order {
    sequence: TableName,
    sql: String,
}

/// Gives the target's sequences the definitions and values of the source's. What fails is reported, and keeps no other sequence from being
/// set.
pub async fn set(cx: &mut Context, source: &Client, omitted: &Excluded) -> Result<Sequences> {
    let (sequences, unreadable) = catalog::sequences(source).await?;
    if let Some((sequence, e)) = unreadable.into_iter().find(|(sequence, _)| !omitted.has_relation(sequence)) {
        let reason = format!("sequence {sequence} of the source cannot be read ({e}): grant usage on its schema and select on it to this user");
        return Ok(Sequences::Unreadable { reason });
    }
    let target = cx.target("cutover").await?;
    let mut names = follow_names(&cx.record.sequences, &sequences);
    names.retain(|order| !omitted.has_relation(&order.sequence));
    if !names.is_empty() {
        run(cx, &target, names).await?;
        // The cutover may be tried again, and names that were swapped must not be swapped back.
        cx.record.sequences = sequences.iter().map(|s| (s.oid, s.table.clone())).collect();
        cx.save()?;
    }
    let sequences: Vec<SequenceState> = sequences.into_iter().filter(|s| !omitted.has_relation(&s.table)).collect();
    let (there, _) = catalog::sequences(&target).await?;
    let there: HashMap<TableName, SequenceState> = there.into_iter().map(|s| (s.table.clone(), s)).collect();
    let definitions = sequences.iter().filter_map(|s| define(s, there.get(&s.table))).collect();
    let altered = run(cx, &target, definitions).await?;
    let values = sequences.iter().filter_map(|s| set_value(s, there.get(&s.table))).collect();
    let set = run(cx, &target, values).await?;
    Ok(Sequences::Set(altered.max(set)))
}

/// Sequences that were renamed, or dropped, on the source since the copy.
fn follow_names(recorded: &BTreeMap<u32, TableName>, now: &[SequenceState]) -> Vec<Order> {
    let mut orders = Vec::new();
    let renamed: HashMap<u32, &TableName> =
        now.iter().filter_map(|s| recorded.get(&s.oid).filter(|before| **before != s.table).map(|before| (s.oid, before))).collect();
    // By a name that nobody has, because two may have swapped their names.
    let aside = |oid: u32| format!("hyperlift_renamed_{oid}");
    for s in now {
        let Some(before) = renamed.get(&s.oid) else { continue };
        let sql = format!("alter sequence if exists {} rename to {}", before.sql(), aside(s.oid));
        orders.push(Order { sequence: s.table.clone(), sql });
    }
    for s in now {
        let Some(before) = renamed.get(&s.oid) else { continue };
        let old = TableName::new(&before.schema, aside(s.oid));
        let name = TableName::new(&before.schema, &s.table.name);
        let mut sql = format!("alter sequence if exists {} rename to {}", old.sql(), ident(&s.table.name));
        if before.schema != s.table.schema {
            sql = format!("{sql}; alter sequence if exists {} set schema {}", name.sql(), ident(&s.table.schema));
        }
        orders.push(Order { sequence: s.table.clone(), sql });
    }
    for (oid, before) in recorded {
        if now.iter().all(|s| s.oid != *oid && s.table != *before) {
            orders.push(Order { sequence: before.clone(), sql: format!("drop sequence if exists {}", before.sql()) });
        }
    }
    orders
}

/// The statement that gives the target's sequence the definition of the source's. One that belongs to a column comes with its table.
fn define(source: &SequenceState, target: Option<&SequenceState>) -> Option<Order> {
    let (name, options) = (source.table.sql(), source.definition.options());
    let sql = match target {
        Some(target) if target.definition == source.definition => return None,
        // Bounds are checked against the value that the sequence has, so both change together.
        Some(_) => format!("alter sequence {name} {options} restart with {}", source.last_value),
        None if source.owned => return None,
        None => format!("create sequence {name} {options}"),
    };
    Some(Order { sequence: source.table.clone(), sql })
}

/// The statement that sets the value. A sequence never goes backwards, except when it was never used on the target, or when it cycles.
fn set_value(source: &SequenceState, target: Option<&SequenceState>) -> Option<Order> {
    let definition = &source.definition;
    let needed = match target {
        None => !source.owned,
        Some(target) if target.definition != *definition => true,
        Some(target) => {
            let further = if definition.increment > 0 { target.last_value > source.last_value } else { target.last_value < source.last_value };
            let ahead = further && !definition.cycles && !target.is_untouched();
            let same = target.last_value == source.last_value && (target.is_called || !source.is_called);
            !ahead && !same
        }
    };
    let sql = format!("select setval({}::regclass, {}, {})", literal(&source.table.sql()), source.last_value, source.is_called);
    needed.then_some(Order { sequence: source.table.clone(), sql })
}

/// Runs the statements together; where that fails, each by itself. Returns how many were run.
async fn run(cx: &mut Context, target: &Client, orders: Vec<Order>) -> Result<usize> {
    let together: Vec<&str> = orders.iter().map(|o| o.sql.as_str()).collect();
    match target.batch_execute(&together.join(";\n")).await {
        Ok(()) => return Ok(orders.len()),
        Err(e) if e.as_db_error().is_none() => return Err(Error::from(e).context("sequences")),
        Err(_) => {}
    }
    let mut done = 0;
    for Order { sequence, sql } in orders {
        match target.batch_execute(&sql).await {
            Ok(()) => done += 1,
            Err(e) => cx.differs(format!("SEQUENCE {sequence}"), format!("{}; it was: {sql}", Error::from(e))).await?,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::catalog::SequenceDefinition;

    fn sequence(oid: u32, name: &str, last_value: i64) -> SequenceState {
        let definition = SequenceDefinition { data_type: "bigint".into(), start: 1, increment: 1, min: 1, max: i64::MAX, cache: 1, cycles: false };
        SequenceState { oid, table: TableName::new("public", name), definition, last_value, is_called: true, owned: false }
    }

    #[test]
    fn names_follow_the_source_also_when_they_are_swapped() {
        let recorded = BTreeMap::from([(1, "a"), (2, "b"), (3, "gone")].map(|(oid, name)| (oid, TableName::new("public", name))));
        let now = [sequence(1, "b", 1), sequence(2, "a", 1)];
        let orders: Vec<String> = follow_names(&recorded, &now).into_iter().map(|o| o.sql.replace('"', "")).collect();
        assert_eq!(
            orders,
            [
                "alter sequence if exists public.a rename to hyperlift_renamed_1",
                "alter sequence if exists public.b rename to hyperlift_renamed_2",
                "alter sequence if exists public.hyperlift_renamed_1 rename to b",
                "alter sequence if exists public.hyperlift_renamed_2 rename to a",
                "drop sequence if exists public.gone",
            ]
        );
    }

    #[test]
    fn a_sequence_goes_back_only_where_nobody_has_used_it() {
        let is_set = |source: &SequenceState, target: &SequenceState| set_value(source, Some(target)).is_some();
        let (near, far) = (sequence(1, "s", 5), sequence(1, "s", 9));
        assert!(is_set(&far, &near) && !is_set(&near, &far) && !is_set(&near, &near));
        let untouched = SequenceState { is_called: false, last_value: 1, ..far.clone() };
        assert!(is_set(&near, &untouched));
        let mut cycling = near.clone();
        cycling.definition.cycles = true;
        let mut there = far;
        there.definition.cycles = true;
        assert!(is_set(&cycling, &there));
    }
}
