//! Sequences: no stream carries their values, so they are set once the source is quiet.

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    event::Level,
    migration::context::Context,
    name::{TableName, literal},
    pg::{
        catalog::{self, SequenceState, exclusion::Excluded},
        client::Client,
    },
};

/// Sets the target's sequences to the values of the source's; returns how many were set. A sequence never goes backwards, except when
/// it was never used on the target, or when it cycles.
pub async fn set(cx: &Context, source: &Client, omitted: &Excluded) -> Result<usize> {
    let target = cx.target("cutover").await?;
    let on_target: HashMap<TableName, SequenceState> = catalog::sequences(&target).await?.into_iter().map(|s| (s.table.clone(), s)).collect();
    let mut statements = Vec::new();
    for s in catalog::sequences(source).await?.into_iter().filter(|s| !omitted.has_relation(&s.table)) {
        let Some(known) = on_target.get(&s.table) else {
            cx.notice(Level::Warn, format!("sequence {} does not exist on the target", s.table)).await;
            continue;
        };
        let further = if s.increment > 0 { known.last_value > s.last_value } else { known.last_value < s.last_value };
        let ahead = further && !s.cycles && !known.is_untouched();
        let same = known.last_value == s.last_value && (known.is_called || !s.is_called);
        if !ahead && !same {
            statements.push(format!("select setval({}::regclass, {}, {})", literal(&s.table.sql()), s.last_value, s.is_called));
        }
    }
    target.batch_execute(&statements.join(";\n")).await.map_err(|e| Error::from(e).context("sequences"))?;
    Ok(statements.len())
}
