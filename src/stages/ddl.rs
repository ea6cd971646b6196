//! Running the schema's statements on the target, each with its ledger row in one transaction (I2).

use std::collections::HashSet;

use super::trouble::{Asker, Resolution};
use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::Event,
    pg::{client::Client, dump::Statement, ledger},
};

/// Runs one statement unless the ledger has it. On an error the operator decides; `Ok(false)` means skipped.
pub async fn run(client: &Client, statement: &Statement, executed: &HashSet<String>, reporter: &Reporter, asker: &Asker) -> Result<bool> {
    let digest = statement.digest();
    if executed.contains(&digest) {
        return Ok(true);
    }
    let phase = statement.phase.word();
    loop {
        let done = ledger::record_ddl(phase, &statement.object, &digest, "done");
        match in_transaction(client, &format!("{};\n{done}", statement.sql.trim_end_matches(';'))).await {
            Ok(()) => return Ok(true),
            // An earlier run's session may have committed it after this run read the ledger.
            Err(e) if e.has_code("23505") && ledger::executed(client, phase).await?.contains(&digest) => return Ok(true),
            Err(e) => {
                report_failure(reporter, statement, &e).await;
                match asker.ask(&statement.object, e).await? {
                    Resolution::Retry => {}
                    Resolution::Skip => {
                        client.batch_execute(&ledger::record_ddl(phase, &statement.object, &digest, "skipped")).await?;
                        reporter.report(Event::StatementSkipped { object: statement.object.clone() }).await;
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// Runs statements as one transaction.
pub async fn in_transaction(client: &Client, sql: &str) -> Result<()> {
    let result = client.batch_execute(&format!("begin;\n{sql};\ncommit")).await;
    if let Err(e) = result {
        let error = Error::from(e);
        // Without this an error would leave the session in the failed transaction.
        client.batch_execute("rollback").await.ok();
        return Err(error);
    }
    Ok(())
}

pub async fn report_failure(reporter: &Reporter, statement: &Statement, e: &Error) {
    reporter
        .report(Event::StatementFailed {
            object: statement.object.clone(),
            message: e.message.clone(),
            sqlstate: e.sqlstate.clone(),
            sql: statement.sql.clone(),
        })
        .await;
}
