//! Changes that cannot be applied, and failures of lanes: the operator decides.

use super::{
    away::SideEvent,
    replay::{RunningReplay, SAMPLE_EVERY, Waiting},
};

use futures_util::{FutureExt, StreamExt};
use std::collections::HashSet;
use tokio::time::MissedTickBehavior;

use crate::{
    error::{Error, Result},
    event::{Answer, Command, Difference, Event, FailedStatement, Level, Stage, Subject},
    migration::{
        context::Context,
        restore::{changes, ddl},
    },
    name::TableName,
    plan::FollowDdl,
    replay::{
        lane::{Conflict, ConflictAnswer},
        schema_change::{SchemaChange, adds_only},
    },
    sqlstate,
};

/// What happens while replay runs.
enum Next<T> {
    Conflict(Conflict),
    Answered(Waiting, Answer),
    SchemaChanged(SchemaChange),
    /// A sample is due.
    Sample,
    Done(T),
}

impl RunningReplay {
    /// Runs work, or waits for a command that ends the wait ([`crate::migration::prompts::Prompts::drive`]), while replay is sampled and
    /// its conflicts are asked about. A lane or a router that fails ends it.
    pub async fn drive<T>(
        &mut self,
        cx: &mut Context,
        stage: Stage,
        work: impl Future<Output = Result<T>>,
        mut takes: impl FnMut(Command) -> Result<T, Command>,
    ) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    Some(error) = self.lanes.handle.failures.recv() => Err(error),
                    Some(conflict) = self.lanes.handle.conflicts.recv() => Ok(Next::Conflict(conflict)),
                    Some((waiting, answer)) = self.waiting.next() => Ok(Next::Answered(waiting, answer?)),
                    Some(change) = self.lanes.handle.schema_changes.recv() => Ok(Next::SchemaChanged(change)),
                    event = self.joining.next() => match event {
                        SideEvent::Failed(error) => Err(error),
                        SideEvent::Conflict(conflict) => Ok(Next::Conflict(conflict)),
                        SideEvent::SchemaChanged(change) => Ok(Next::SchemaChanged(change)),
                    },
                    result = &mut work => result.map(Next::Done),
                    _ = tick.tick() => Ok(Next::Sample),
                }
            };
            match cx.prompts.drive(stage, next, |command| takes(command).map(Next::Done)).await? {
                // In boxes, because their futures are large.
                Next::Conflict(conflict) => Box::pin(self.ask(cx, conflict)).await?,
                Next::Answered(waiting, answer) => self.answered(cx, waiting, answer).await?,
                Next::SchemaChanged(change) => Box::pin(self.follow(cx, change)).await?,
                Next::Sample => Box::pin(self.sample(cx)).await?,
                Next::Done(result) => return Ok(result),
            }
        }
    }

    /// Asks the operator about a conflict. Without anybody to ask, it ends the run.
    async fn ask(&mut self, cx: &mut Context, mut conflict: Conflict) -> Result<()> {
        let table = conflict.relation.as_ref().map(|r| r.table.clone());
        if conflict.sql.is_none() && table.as_ref().is_some_and(|t| self.accepted.contains(t)) {
            let _ = conflict.answer.send(ConflictAnswer::Accept);
            return Ok(());
        }
        if Box::pin(self.copies_again(cx, &conflict)).await? {
            return Ok(());
        }
        if self.follow_schema(cx, &conflict).await? {
            let _ = conflict.answer.send(ConflictAnswer::Retry);
            return Ok(());
        }
        if let Some(sql) = conflict.sql.take() {
            let needed = self.schema.needed(cx).await.unwrap_or_default();
            let all: Vec<String> = needed.into_iter().filter_map(|r| r.attempts.into_iter().next()).chain([sql]).collect();
            conflict.sql = Some(all.join(";\n"));
        }
        if !cx.config.interactive {
            return Err(unasked(conflict));
        }
        let subject = table.clone().map_or(Subject::Lane(conflict.lane), Subject::Table);
        let object = subject.to_string();
        let Error { message, sqlstate, .. } = &conflict.error;
        // The error of a change names its row, which only the journal may have.
        let logged = if conflict.sql.is_some() { message.as_str() } else { "a change waits for the operator" };
        tracing::error!(object, sqlstate, "{logged}");
        let event = match (&table, &conflict.sql) {
            (Some(table), None) => Event::Diverged { table: table.clone(), reason: conflict.error.to_string() },
            (_, sql) => {
                let sql = sql.clone().unwrap_or_default();
                Event::StatementFailed(FailedStatement { object: object.clone(), message: message.clone(), sqlstate: sqlstate.clone(), sql })
            }
        };
        cx.reporter.report(event).await;
        let mut asked = cx.prompts.open_failure(Stage::CatchUp, subject, question(&object, &conflict)).await;
        self.waiting.push(Box::pin(async move {
            let answer = asked.answer().await;
            (Waiting { conflict, table }, answer)
        }));
        Ok(())
    }

    /// Whether the conflict comes from a change of the source's schema that the target has followed now.
    async fn follow_schema(&mut self, cx: &Context, conflict: &Conflict) -> Result<bool> {
        match &conflict.sql {
            Some(sql) if cx.follow_ddl() != FollowDdl::Ask && adds_only(sql) => {
                let target = cx.target("follow-ddl").await?;
                let mut followed = ddl::in_transaction(&target, sql).await;
                let needs_more = |e: &Error| e.has_code(sqlstate::INVALID_TEXT_REPRESENTATION) || ddl::NOT_FOUND.iter().any(|code| e.has_code(code));
                if followed.as_ref().is_err_and(needs_more) && self.schema.make_needed(cx).await? {
                    followed = ddl::in_transaction(&target, sql).await;
                }
                if followed.is_ok() {
                    changes::report_followed(&cx.reporter, sql).await;
                }
                Ok(followed.is_ok())
            }
            None if SCHEMA_REFUSES.iter().any(|code| conflict.error.has_code(code)) => self.schema.relax(cx).await,
            _ => Ok(false),
        }
    }

    /// Carries an answer out. The lanes that wait because of one table have been answered together.
    async fn answered(&mut self, cx: &mut Context, first: Waiting, answer: Answer) -> Result<()> {
        let mut answered = vec![(first, answer)];
        while let Some(Some((waiting, answer))) = self.waiting.next().now_or_never() {
            answered.push((waiting, answer?));
        }
        let mut settled = HashSet::new();
        for (Waiting { conflict, table }, answer) in answered {
            let accepted = answer == Answer::Skip;
            // Reported first, because the lane may fail again immediately.
            if let Some(table) = table.filter(|table| settled.insert(table.clone())) {
                if accepted {
                    self.accept(cx, &table, conflict.sql.is_some()).await;
                }
                cx.reporter.report(Event::DivergenceSettled { table, accepted }).await;
            }
            let _ = conflict.answer.send(if accepted { ConflictAnswer::Accept } else { ConflictAnswer::Retry });
        }
        Ok(())
    }

    /// Remembers that the operator accepts that a table differs: other lanes need not ask, and the migration does not end as equal.
    async fn accept(&mut self, cx: &mut Context, table: &TableName, altered: bool) {
        self.accepted.insert(table.clone());
        cx.record.differences.entry(table.clone()).or_insert(Difference::Accepted);
        if let Err(e) = cx.save() {
            cx.notice(Level::Warn, e.to_string()).await;
        }
        if altered {
            cx.reporter.report(Event::StatementSkipped { object: table.to_string() }).await;
        }
    }
}

/// Refusals by a constraint, a type or a column of the target, which the source may not have any more (PostgreSQL documentation, appendix A).
const SCHEMA_REFUSES: [&str; 7] = [
    sqlstate::UNIQUE_VIOLATION,
    sqlstate::CHECK_VIOLATION,
    sqlstate::NOT_NULL_VIOLATION,
    sqlstate::EXCLUSION_VIOLATION,
    sqlstate::FOREIGN_KEY_VIOLATION,
    sqlstate::INVALID_TEXT_REPRESENTATION,
    sqlstate::GENERATED_ALWAYS,
];

/// What the operator reads.
fn question(object: &str, conflict: &Conflict) -> String {
    let mut error = conflict.error.to_string();
    if !error.contains(object) {
        error = format!("{object}: {error}");
    }
    let error = error.trim_end_matches('.');
    match (&conflict.relation, &conflict.sql) {
        (_, Some(sql)) => format!("{error}. Run on the target: {}; then retry (r), or go on as it is (K).", sql.replace('\n', " ")),
        (Some(_), None) => format!("{error}. Retry (r), copy the table again (T), or accept that it differs (K)."),
        (None, None) => format!("{error}. Fix the cause, then retry (r)."),
    }
}

/// The error of a conflict that nobody can be asked about.
fn unasked(conflict: Conflict) -> Error {
    let mut error = conflict.error.context("replay");
    if let Some(sql) = &conflict.sql {
        return error.hint(format!("run on the target: {}; then start hyperlift again", sql.replace('\n', " ")));
    }
    // Counting helps with a change that found no row or collided, not where a partition, a column or a statement is missing.
    let counts = error.sqlstate.is_none() || error.has_code(crate::sqlstate::UNIQUE_VIOLATION);
    if conflict.relation.is_some() && counts {
        let hint = error.hint.map(|h| h + "; ").unwrap_or_default();
        error.hint = Some(hint + "or start with --on-conflict count, which counts such changes and goes on");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::lane::ConflictRelation;

    fn table() -> ConflictRelation {
        ConflictRelation { oid: 1, table: TableName::new("public", "t") }
    }

    fn conflict(relation: Option<ConflictRelation>, sql: Option<&str>, error: Error) -> Conflict {
        let (answer, _) = tokio::sync::oneshot::channel();
        Conflict { lane: 3, relation, sql: sql.map(str::to_owned), error, answer }
    }

    fn hint(relation: Option<ConflictRelation>, sql: Option<&str>, error: Error) -> String {
        unasked(conflict(relation, sql, error)).hint.unwrap_or_default()
    }

    #[test]
    fn a_question_names_its_object_once_and_the_keys_that_answer_it() {
        let text = |object, relation, sql, error| question(object, &conflict(relation, sql, Error::failed(error)));
        assert_eq!(
            text("public.t", Some(table()), None, "public.t: UPDATE of id = 1: no such row"),
            "public.t: UPDATE of id = 1: no such row. Retry (r), copy the table again (T), or accept that it differs (K)."
        );
        assert_eq!(
            text("public.t", Some(table()), None, "TRUNCATE: no"),
            "public.t: TRUNCATE: no. Retry (r), copy the table again (T), or accept that it differs (K)."
        );
        assert_eq!(
            text("public.t", Some(table()), Some("alter table public.t\nadd a int"), "public.t was altered"),
            "public.t was altered. Run on the target: alter table public.t add a int; then retry (r), or go on as it is (K)."
        );
        assert_eq!(text("lane 3", None, None, "permission denied."), "lane 3: permission denied. Fix the cause, then retry (r).");
    }

    #[test]
    fn counting_is_proposed_only_for_changes_that_it_would_count() {
        let code = |code: &str| Error::database(code, "no", None, None);
        for counted in [Error::failed("no such row"), code(crate::sqlstate::UNIQUE_VIOLATION)] {
            assert!(hint(Some(table()), None, counted).contains("--on-conflict count"));
        }
        // A missing partition, a table that was altered, a whole lane.
        for hint in [
            hint(Some(table()), None, code("23514")),
            hint(Some(table()), Some("alter table t add column a int"), Error::failed("altered").hint("run it")),
            hint(None, None, Error::failed("the lane failed")),
        ] {
            assert!(!hint.contains("--on-conflict"), "{hint}");
        }
    }
}
