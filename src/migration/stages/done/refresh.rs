//! Materialised views: those that are populated on the source are refreshed on the target.

use crate::{
    error::{Error, Result},
    migration::{context::Context, restore::ddl},
    name::TableName,
    pg::{catalog, client::Client, ledger},
};

/// Refreshes them in the order of their dependencies. A view may read others through a function, which no catalog knows: views that failed
/// are tried again as long as others succeed. A function may also depend on the `search_path` of its database (N-4).
/// Returns whether all of them were refreshed.
pub async fn views(cx: &mut Context, target: &Client) -> Result<bool> {
    let mut remaining = match cx.source("cutover").await {
        Ok(source) => catalog::populated_matviews(&source).await?,
        Err(e) => {
            cx.unknown("MATERIALIZED VIEWS", format!("not refreshed: {e}")).await?;
            return Ok(false);
        }
    };
    // A view that the filters left out, or that was skipped, does not exist on the target.
    let names: Vec<String> = remaining.iter().map(TableName::sql).collect();
    let missing = target.query("select name from unnest($1::text[]) name where to_regclass(name) is null", &[&names]).await?;
    let missing: Vec<String> = missing.iter().map(|r| r.get("name")).collect();
    remaining.retain(|view| !missing.contains(&view.sql()));
    let path = ledger::migration(target).await?.and_then(|known| known.search_path);
    loop {
        let (mut failed, before) = (Vec::new(), remaining.len());
        for view in remaining {
            if let Some(e) = refresh(cx, target, &view, path.as_deref()).await? {
                failed.push((view, path.iter().fold(e, |e, path| ddl::with_search_path_hint(e, target.version(), path))));
            }
        }
        if failed.is_empty() || failed.len() == before {
            let refreshed = failed.is_empty();
            for (view, e) in failed {
                let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                cx.differs(format!("MATERIALIZED VIEW {view}"), format!("is there, but not refreshed: {e}{hint}")).await?;
            }
            return Ok(refreshed);
        }
        remaining = failed.into_iter().map(|(view, _)| view).collect();
    }
}

/// Refreshes a view; after a failure again with the source's `search_path`, if there is one. Returns why it could not be refreshed. A stop
/// and a lost connection are errors.
async fn refresh(cx: &Context, target: &Client, view: &TableName, path: Option<&str>) -> Result<Option<Error>> {
    let refresh = format!("refresh materialized view {}", view.sql());
    let with_path = path.map(|path| format!("begin; set local search_path = {path}; {refresh}; commit"));
    let mut failure = None;
    for sql in std::iter::once(refresh).chain(with_path) {
        match cx.unless_stopped(async { Ok(target.batch_execute(&sql).await?) }).await {
            Ok(()) => return Ok(None),
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => failure = Some(e),
        }
        target.batch_execute("rollback").await?;
    }
    Ok(failure)
}
