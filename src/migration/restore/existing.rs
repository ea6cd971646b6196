//! An object that exists already on the target: it was created by hand, or by a run whose answer was lost. Where it is as on the source, its
//! statement is done.

use crate::{
    error::{Error, Result},
    pg::{
        catalog,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        dump,
        object::ObjectRef,
    },
    sqlstate,
};

/// An object of this name exists, or the table has a key already, or a constraint has the index.
const EXISTS: [&str; 5] = [
    sqlstate::DUPLICATE_TABLE,
    sqlstate::DUPLICATE_OBJECT,
    sqlstate::DUPLICATE_FUNCTION,
    sqlstate::INVALID_TABLE_DEFINITION,
    sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
];

/// What to make of the failure of a statement: nothing, if its object exists already as on the source; else the failure, with what to do.
/// `source` comes with the name of the session.
pub async fn accept(target: &Client, source: (Conninfo, String), object: &ObjectRef, sql: &str, failure: Error) -> Result<()> {
    if !EXISTS.iter().any(|code| failure.has_code(code)) {
        return Err(failure);
    }
    let by_name = EXISTS[..3].iter().any(|code| failure.has_code(code));
    let Some(query) = dump::definition_query(object, sql) else {
        return Err(if by_name { failure.hint(COMPARE_BY_HAND) } else { failure });
    };
    let definitions = async {
        let here: Option<String> = catalog::value(target, &query).await?;
        // A task of its own, because the stack is deep here.
        let there = tokio::spawn(definition_on_source(source, query)).await.map_err(|e| Error::failed(e.to_string()))??;
        Ok::<_, Error>((here, there))
    };
    match definitions.await {
        Ok((Some(here), Some(there))) if here == there => Ok(()),
        Ok((Some(here), Some(there))) => {
            let one_line = !here.contains('\n') && !there.contains('\n');
            let how = if one_line { format!("it is {here} on the target, {there} on the source") } else { "it is not as on the source".into() };
            Err(failure.detail(how).hint("drop it on the target, then retry"))
        }
        Ok(_) => Err(failure),
        Err(e) => {
            tracing::warn!(%object, "cannot be compared: {e}");
            Err(failure.hint(COMPARE_BY_HAND))
        }
    }
}

async fn definition_on_source((source, application_name): (Conninfo, String), query: String) -> Result<Option<String>> {
    catalog::value(&client::connect(&source, Side::Source, &application_name).await?, &query).await
}

const COMPARE_BY_HAND: &str = "hyperlift cannot compare it with the source's: drop it on the target, then retry; or skip it, if it is the same";
