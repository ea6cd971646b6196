//! Changes that cannot be applied, and failures of lanes: the operator decides.

use super::replay::{Driven, Replay, SAMPLE_EVERY};

use crate::{
    error::Result,
    event::{Command, Difference, Event, FailedStatement, Level, Stage},
    migration::context::Context,
    replay::lane::{self, Resolution},
};

impl Replay {
    /// Runs a future while replay is watched: samples, troubles, failures, commands.
    pub async fn drive<T>(&mut self, cx: &mut Context, work: &mut (impl Future<Output = Result<T>> + Unpin)) -> Result<Driven<T>> {
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(error) = self.failures.recv() => return Err(error),
                Some(trouble) = self.trouble.recv() => self.show_trouble(cx, trouble).await?,
                Some(reshaped) = self.reshapes.recv() => self.follow(cx, reshaped).await?,
                result = &mut *work => return result.map(Driven::Done),
                command = cx.command() => {
                    let command = command?;
                    if !self.answer_trouble(cx, &command).await {
                        return Ok(Driven::Command(command));
                    }
                }
                _ = tick.tick() => self.sample(cx).await?,
            }
        }
    }

    async fn show_trouble(&mut self, cx: &mut Context, trouble: lane::Trouble) -> Result<()> {
        let table = trouble.target.map(|t| self.relations[t].table.clone());
        if trouble.sql.is_none() && table.as_ref().is_some_and(|t| self.accepted.contains(t)) {
            let _ = trouble.answer.send(Resolution::Accept);
            return Ok(());
        }
        if !cx.config.interactive {
            let mut error = trouble.error.context("replay");
            // A missing partition or column is to be mended, not counted.
            if table.is_some() && (error.sqlstate.is_none() || error.has_code("23505")) {
                let hint = error.hint.map(|h| h + "; ").unwrap_or_default();
                error.hint = Some(hint + "or start with --on-conflict count, which counts such changes and goes on");
            }
            return Err(error);
        }
        let object = table.as_ref().map_or_else(|| format!("lane {}", trouble.lane), ToString::to_string);
        let event = match (&table, &trouble.sql) {
            (Some(table), None) => Event::Diverged { table: table.clone(), reason: trouble.error.to_string() },
            (_, sql) => Event::StatementFailed(FailedStatement {
                object: object.clone(),
                message: trouble.error.message.clone(),
                sqlstate: trouble.error.sqlstate.clone(),
                sql: sql.clone().unwrap_or_default(),
            }),
        };
        // The error of a change names its row, which the journal alone may have.
        let told = if trouble.sql.is_some() { trouble.error.message.as_str() } else { "a change waits for the operator" };
        tracing::error!(object, sqlstate = trouble.error.sqlstate, "{told}");
        cx.reporter.report(event).await;
        let text = match &trouble.sql {
            None => format!("{object}: {} Retry (r), or accept that this table differs (K).", trouble.error),
            Some(sql) => format!("{}. Run on the target: {}; then retry (r), or go on as it is (K).", trouble.error, sql.replace('\n', " ")),
        };
        self.open.entry(object.clone()).or_insert_with(|| (table, Vec::new())).1.push(trouble.answer);
        cx.open_trouble(Stage::CatchUp, &object, text).await;
        Ok(())
    }

    async fn answer_trouble(&mut self, cx: &mut Context, command: &Command) -> bool {
        let (object, resolution) = match command {
            Command::Retry { object } => (object, Resolution::Retry),
            Command::Skip { object } => (object, Resolution::Accept),
            _ => return false,
        };
        let Some((table, answers)) = self.open.remove(object) else { return false };
        for answer in answers {
            let _ = answer.send(resolution);
        }
        if resolution == Resolution::Accept {
            self.accepted.extend(table.clone());
        }
        if let Some(table) = table {
            if resolution == Resolution::Accept {
                cx.record.differences.entry(table.clone()).or_insert(Difference::Accepted);
                if let Err(e) = cx.save() {
                    cx.notice(Level::Warn, e.to_string()).await;
                }
            }
            cx.reporter.report(Event::DivergenceSettled { table, accepted: resolution == Resolution::Accept }).await;
        }
        cx.close_trouble(object, resolution == Resolution::Retry).await;
        true
    }
}
