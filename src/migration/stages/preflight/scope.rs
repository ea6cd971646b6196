//! What of the source is migrated, and what does not arrive like everything else.

use super::{
    super::identity,
    finding::{Finding, first_few},
};
use crate::{
    error::Result,
    event::Stage,
    format,
    migration::context::Context,
    name::{TableName, plain_ident},
    pg::{
        catalog::{
            self, ForeignPart, SourceRelation, UnreadableColumn,
            exclusion::{self, Excluded},
            unsupported::{self, Unsupported},
        },
        client::Client,
    },
    scope::{Inclusion, Scope},
};

pub const FILTERS: &str = "filters";
pub const SCOPE: &str = "scope";
pub const OWNERS_AND_GRANTS: &str = "owners and grants";
pub const FOREIGN_PARTITIONS: &str = "foreign partitions";
pub const OBJECT_NAMES: &str = "columns that name objects";
pub const UNREADABLE: &str = "values that no server reads";

// As `unsupported::find` names them.
pub const PUBLICATIONS: &str = "publications";
pub const SUBSCRIPTIONS: &str = "subscriptions";
pub const DATABASE_SETTINGS: &str = "database settings";
pub const DATABASE_GRANTS: &str = "grants on the database";
pub const DATABASE_COMMENT: &str = "comment on the database";
pub const SECURITY_LABELS: &str = "security labels";
pub const TABLESPACES: &str = "tablespaces";
pub const UNLOGGED_TABLES: &str = "unlogged tables";
pub const LARGE_OBJECTS: &str = "large objects";
pub const EXTENSION_ROWS: &str = "rows of extensions";
const KINDS: [&str; 10] = [
    PUBLICATIONS, SUBSCRIPTIONS, DATABASE_SETTINGS, DATABASE_GRANTS, DATABASE_COMMENT, SECURITY_LABELS, TABLESPACES, UNLOGGED_TABLES, LARGE_OBJECTS,
    EXTENSION_ROWS,
];

/// What the checks are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Migration,
    /// `hyperlift check`
    CheckOnly,
}

/// The source's tables, and what the filters and the flags say of it.
#[derive(Debug)]
pub struct ScopeFacts {
    pub scope: Scope,
    /// All tables of the source.
    pub relations: Vec<SourceRelation>,
    /// What the filters leave out; `None` without filters.
    pub omitted: Option<Excluded>,
    pub purpose: Purpose,
    /// The filters are fixed: names on the source may have changed since then.
    pub has_begun: bool,
    pub unsupported: Vec<Unsupported>,
    /// Tables that get another replica identity by the plan.
    pub altered: usize,
    /// Foreign tables below tables of the source, each with whether its root becomes one table.
    pub foreign_parts: Vec<(ForeignPart, bool)>,
    /// Columns whose values name other objects.
    pub object_names: Vec<String>,
    /// Columns whose values cannot be written to a target.
    pub unreadable: Vec<UnreadableColumn>,
    pub owners: bool,
    pub grants: bool,
}

impl ScopeFacts {
    /// The tables whose rows are copied.
    pub fn copied(&self) -> Vec<&SourceRelation> {
        self.of(Inclusion::All).collect()
    }

    /// Their size.
    pub fn bytes(&self) -> u64 {
        self.of(Inclusion::All).map(|r| r.bytes).sum()
    }

    fn of(&self, extent: Inclusion) -> impl Iterator<Item = &SourceRelation> {
        self.relations.iter().filter(move |r| self.scope.inclusion(&r.table) == extent)
    }
}

pub async fn gather(cx: &Context, source: &Client, purpose: Purpose) -> Result<ScopeFacts> {
    let scope = cx.plan.scope.clone();
    let omitted = if scope.is_everything() { None } else { Some(exclusion::resolve(source, &cx.plan).await?) };
    let unsupported = unsupported::find(source, &cx.plan).await?;
    debug_assert!(unsupported.iter().all(|a| KINDS.contains(&a.check.as_str())), "a kind without a check: {unsupported:?}");
    let relations = catalog::relations(source).await?;
    let copied: Vec<(u32, TableName)> =
        relations.iter().filter(|r| scope.inclusion(&r.table) == Inclusion::All).map(|r| (r.oid, r.table.clone())).collect();
    let altered = relations.iter().filter(|r| scope.inclusion(&r.table) == Inclusion::All && identity::is_altered_by(&cx.plan, r)).count();
    Ok(ScopeFacts {
        unreadable: catalog::unreadable_columns(source, &copied).await?,
        relations,
        altered,
        omitted,
        purpose,
        has_begun: cx.is_finished(Stage::Preflight),
        unsupported,
        foreign_parts: foreign_parts(cx, source).await?,
        object_names: unsupported::object_references(source).await?,
        owners: cx.plan.owners,
        grants: cx.plan.grants,
        scope,
    })
}

async fn foreign_parts(cx: &Context, source: &Client) -> Result<Vec<(ForeignPart, bool)>> {
    let mut found = catalog::foreign_parts(source).await?;
    found.retain(|part| cx.plan.scope.inclusion(&part.root) == Inclusion::All);
    Ok(found
        .into_iter()
        .map(|part| {
            let merged = cx.plan.is_one_table(&part.root);
            (part, merged)
        })
        .collect())
}

pub fn filters(omitted: Option<&Excluded>, has_begun: bool) -> Finding {
    match omitted {
        None => Finding::ok("none are given"),
        Some(_) if has_begun => Finding::ok("fixed when the migration began"),
        Some(o) => Finding::require(
            o.unmatched.is_empty(),
            "each matches something on the source",
            format!("{} matches nothing on the source", o.unmatched.join(", ")),
            "correct the filter, or remove it",
        ),
    }
}

pub fn scope(f: &ScopeFacts) -> Finding {
    let all: u64 = f.relations.iter().map(|r| r.bytes).sum();
    let Some(omitted) = &f.omitted else {
        return if f.relations.is_empty() {
            Finding::warn("the source has no tables", "see that --source names the right database")
        } else {
            Finding::ok(format!("all {} tables, {}", f.relations.len(), format::bytes(all)))
        };
    };
    if let Some((first, more)) = omitted.problems.split_first().filter(|_| !f.has_begun) {
        let more = if more.is_empty() { String::new() } else { format!("; and {} more of this kind", more.len()) };
        return Finding::fail(format!("{first}{more}"), "leave that out, too, or keep what needs it");
    }
    let (kept, structure) = (f.of(Inclusion::All).count(), f.of(Inclusion::Structure).count());
    if kept == 0 {
        return Finding::warn(
            format!("the filters leave out the rows of all {} tables", f.relations.len()),
            "correct the filters (--include, --exclude)",
        );
    }
    let list = if f.purpose == Purpose::Migration { "listed in report/left-out.txt" } else { "named above" };
    let without_rows = if structure > 0 { format!("; {structure} more without rows") } else { String::new() };
    Finding::ok(format!(
        "{kept} of {} tables, {} of {}{without_rows}; left out: {} objects, {list}",
        f.relations.len(),
        format::bytes(f.bytes()),
        format::bytes(all),
        omitted.list.len()
    ))
}

/// Objects of one kind that do not arrive like everything else: one sentence for those with the same fate.
pub fn unsupported(found: &[Unsupported], kind: &str) -> Finding {
    let found: Vec<&Unsupported> = found.iter().filter(|a| a.check == kind).collect();
    let Some(first) = found.first() else { return Finding::ok("none") };
    let fates: Vec<String> = found
        .chunk_by(|a, b| a.reason == b.reason)
        .map(|same| {
            let names: Vec<String> = same.iter().map(|a| a.object.to_string()).collect();
            format!("{}: {}", first_few(&names), same[0].reason)
        })
        .collect();
    Finding::warn(fates.join("; "), &first.fix)
}

/// What becomes of rows that are on other servers.
pub fn foreign_partitions(found: &[(ForeignPart, bool)]) -> Finding {
    let names = |of_merged: bool| -> Vec<String> {
        found.iter().filter(|(_, merged)| *merged == of_merged).map(|(part, _)| format!("{} (of {})", part.table, part.root)).collect()
    };
    let (left, copied) = (names(false), names(true));
    let mut fates = Vec::new();
    if !copied.is_empty() {
        fates.push(format!("{}: the rows are copied once, because the table becomes one table; later changes are in no stream", first_few(&copied)));
    }
    if !left.is_empty() {
        fates.push(format!("{}: the rows stay where they are; the target reads them from the same server from the cutover on", first_few(&left)));
    }
    match (copied.is_empty(), left.is_empty()) {
        (true, true) => Finding::ok("none"),
        (true, false) => Finding::warn(fates.join("; "), "see that the target reaches that server, and has the user mappings"),
        (false, _) => Finding::warn(
            fates.join("; "),
            "leave the rows that are copied as they are until the end: if they have changed by then, the exit code is 5",
        ),
    }
}

pub fn object_names(columns: &[String]) -> Finding {
    if columns.is_empty() {
        return Finding::ok("none");
    }
    Finding::warn(
        columns.join(", "),
        "what they name has to exist on the target when the rows are copied: tables, types and functions do, indexes and roles that are not created do not",
    )
}

pub fn unreadable(columns: &[UnreadableColumn]) -> Finding {
    let Some(first) = columns.first() else { return Finding::ok("none") };
    let names: Vec<String> = columns.iter().map(|c| format!("{}.{} {}", c.table, plain_ident(&c.column), c.data_type)).collect();
    Finding::fail(
        format!("{}: a server prints such values, but reads none, so they cannot be copied", first_few(&names)),
        format!("{}; or leave the table out (--exclude table:{})", first.fix(), first.table),
    )
}

pub fn owners_and_grants(owners: bool, grants: bool) -> Finding {
    Finding::ok(match (owners, grants) {
        (false, false) => "all objects will belong to the target's user, without grants (--owners, --grants)",
        (true, false) => "owners as on the source; no grants (--grants)",
        (false, true) => "all objects will belong to the target's user (--owners); grants as on the source",
        (true, true) => "both as on the source",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict;

    #[test]
    fn objects_of_one_fate_share_a_sentence() {
        let label = |n: u32, reason: &str| Unsupported {
            check: SECURITY_LABELS.into(),
            object: format!("SECURITY LABELS of p{n}").into(),
            reason: reason.into(),
            fix: "security label ... on the target".into(),
            is_created: false,
        };
        let mut found: Vec<Unsupported> = (1..=7).map(|n| label(n, "stay on the source")).collect();
        found.push(label(8, "are lost"));
        let finding = unsupported(&found, SECURITY_LABELS);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.sentence.ends_with("SECURITY LABELS of p5 and 2 more: stay on the source; SECURITY LABELS of p8: are lost"), "{finding:?}");
        assert_eq!(unsupported(&found, TABLESPACES), Finding::ok("none"));
    }
}
