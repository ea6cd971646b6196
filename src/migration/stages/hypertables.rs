//! Stage 4: which tables become hypertables. The schema is restored and empty; conversion comes before the rows.
//!
//! `candidates` lists the tables with what is known to be in the way, `times` searches rows that a hypertable refuses, and `trial` asks the
//! target itself about everything else. `convert` makes the hypertables.

mod candidates;
mod convert;
mod times;
mod trial;

use self::{times::Times, trial::Trials};
use crate::{
    error::{Error, Result},
    event::{Candidate, Command, Event, Level, Stage},
    migration::{context::Context, relations, restore::flatten},
    name::TableName,
    pg::{
        catalog::{self, ForeignKey},
        client::Client,
    },
    plan::{Hypertable, KeyChoice},
    scope::Inclusion,
};

/// Problems that are named in a sentence.
const NAMED: usize = 5;

/// What the operator may order while the stage asks.
enum Order {
    Recheck,
    Select { hypertables: Vec<Hypertable>, one_table: Vec<TableName> },
}

fn order(command: Command) -> Result<Order, Command> {
    match command {
        Command::Recheck => Ok(Order::Recheck),
        Command::SelectHypertables { selection: hypertables, one_table } => Ok(Order::Select { hypertables, one_table }),
        other => Err(other),
    }
}

pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Hypertables).await;
    let source = cx.source("hypertables").await?;
    let mut relations = catalog::relations(&source).await?;
    // A table that is migrated without its rows may be a hypertable, too.
    relations.retain(|r| cx.plan.scope.inclusion(&r.table) != Inclusion::Nothing);
    flatten::read_back(cx, &relations).await?;
    if cx.timescale.installed.is_none() {
        if let Some(h) = cx.plan.hypertables.first() {
            return Err(Error::refused(format!("the plan makes {} a hypertable, but the target has no TimescaleDB", h.table))
                .hint("install TimescaleDB on the target, or take the [[hypertable]] entries out of the plan"));
        }
        if let Some(obstacle) = flatten::obstacle(cx, &source, &relations).await?.filter(|_| !cx.is_finished(Stage::Hypertables)) {
            return Err(Error::refused(obstacle).hint("change this on the source, or take the table out of one_table in the plan"));
        }
        cx.notice(Level::Info, "no TimescaleDB on the target: all tables stay plain").await;
        flatten::run(cx, &source, &relations).await?;
        return cx.finish(Stage::Hypertables).await;
    }
    let finished = cx.is_finished(Stage::Hypertables);
    let mut known = Known::default();
    loop {
        known.read(cx, &source, &mut relations).await?;
        let mut candidates = candidates::list(cx, &source, &relations, &known.exclusions).await?;
        let listed = candidates.clone();
        cx.reporter.report(Event::CandidatesListed { candidates: listed.clone() }).await;
        let problem = known.problem(cx, &source, &relations, &mut candidates).await?;
        if candidates != listed {
            cx.reporter.report(Event::CandidatesListed { candidates: candidates.clone() }).await;
        }
        if finished && problem.is_none() {
            break;
        }
        let text = format!("{}{}", question(&candidates), flatten::remark(cx, &source, &relations).await?);
        match cx.prompts.ask_continue(Stage::Hypertables, text, problem, order).await? {
            None => {
                // Somebody may have made hypertables while the question was open.
                let mut now = candidates::list(cx, &source, &relations, &known.exclusions).await?;
                let is_same = now.iter().zip(&candidates).all(|(now, then)| now.made == then.made);
                if is_same || known.problem(cx, &source, &relations, &mut now).await?.is_none() {
                    break;
                }
            }
            Some(Order::Select { hypertables, one_table }) => {
                cx.plan.select(hypertables, one_table);
                flatten::read_back(cx, &relations).await?;
                cx.save_plan()?;
            }
            Some(Order::Recheck) => known.forget(),
        }
    }
    flatten::run(cx, &source, &relations).await?;
    convert::convert(cx).await?;
    convert::read_back(cx, &source, &relations, &known.exclusions).await?;
    cx.save_plan()?;
    let summaries = relations.iter().filter(|r| cx.plan.scope.inclusion(&r.table) == Inclusion::All).map(|r| relations::summary(r, cx)).collect();
    cx.reporter.report(Event::RelationsFound { relations: summaries }).await;
    cx.finish(Stage::Hypertables).await
}

fn question(candidates: &[Candidate]) -> String {
    let chosen = candidates.iter().filter(|c| c.chosen.is_some()).count();
    let joined = candidates.iter().filter(|c| c.chosen.is_none() && c.one_table).count();
    let converted = if chosen == 1 { "1 table becomes a hypertable".to_owned() } else { format!("{chosen} tables become hypertables") };
    let joined_text = match joined {
        0 => String::new(),
        1 => ", 1 loses its partitions".into(),
        n => format!(", {n} lose their partitions"),
    };
    let kept = if candidates.iter().any(|c| c.partitions > 0) { "stay as they are" } else { "stay plain" };
    format!("{converted}{joined_text}, {} {kept}. Nothing runs until you press c.", candidates.len() - chosen - joined)
}

/// What is read from the source and tried on the target once, until the operator checks again.
#[derive(Default)]
struct Known {
    is_read: bool,
    foreign_keys: Vec<ForeignKey>,
    exclusions: Vec<catalog::ExclusionConstraint>,
    times: Times,
    trials: Trials,
}

impl Known {
    fn forget(&mut self) {
        *self = Self::default();
    }

    async fn read(&mut self, cx: &Context, source: &Client, relations: &mut Vec<catalog::SourceRelation>) -> Result<()> {
        if std::mem::replace(&mut self.is_read, true) {
            return Ok(());
        }
        *relations = catalog::relations(source).await?;
        relations.retain(|r| cx.plan.scope.inclusion(&r.table) != Inclusion::Nothing);
        self.exclusions = catalog::exclusion_constraints(source).await?;
        self.foreign_keys = catalog::foreign_keys(source).await?;
        // A table that is left out has no foreign keys on the target.
        self.foreign_keys.retain(|f| cx.plan.scope.inclusion(&f.from) != Inclusion::Nothing);
        for r in relations {
            for i in &mut r.indexes {
                i.referenced = self.foreign_keys.iter().any(|f| f.to == r.table && f.index == i.name);
            }
        }
        Ok(())
    }

    /// Why the current selection cannot be carried out. Found before the copy (H-3). The candidates get what the target says.
    async fn problem(
        &mut self,
        cx: &Context,
        source: &Client,
        relations: &[catalog::SourceRelation],
        candidates: &mut [Candidate],
    ) -> Result<Option<String>> {
        let mut problems = check_plan(cx, candidates);
        problems.extend(between_hypertables(candidates, &self.foreign_keys));
        let with_partitions = flatten::obstacle(cx, source, relations).await?;
        // The tables are no longer empty.
        let has_begun = cx.record.slot.is_some();
        let tried = match &with_partitions {
            None if !has_begun => self.trials.run(cx, source, candidates, |h, c| obstacle(h, c).is_none()).await,
            _ => Ok(()),
        };
        problems.extend(with_partitions);
        match tried {
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => problems.push(format!("the hypertables cannot be tried on the target: {e}")),
            Ok(()) => {}
        }
        let refused = candidates.iter().filter_map(|c| Some(format!("the target refuses {}: {}", c.table, c.refused.as_ref()?)));
        problems.extend(refused);
        if problems.is_empty() && !has_begun {
            return Ok(joined(&self.times.problems(cx, source, candidates).await?));
        }
        Ok(joined(&problems).map(|named| format!("{named}. Change this on the source and check again, or keep the table as it is")))
    }
}

/// The problems in one sentence.
fn joined(problems: &[String]) -> Option<String> {
    let more = if problems.len() > NAMED { format!("; and {} more", problems.len() - NAMED) } else { String::new() };
    (!problems.is_empty()).then(|| problems.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ") + &more)
}

fn check_plan(cx: &Context, candidates: &[Candidate]) -> Vec<String> {
    let problem = |h: &Hypertable| match candidates.iter().find(|c| c.table == h.table) {
        Some(candidate) => obstacle(h, candidate),
        None => Some(format!("{} does not exist on the source", h.table)),
    };
    cx.plan.hypertables.iter().filter_map(problem).collect()
}

/// Why a table cannot become this hypertable, as far as the source's catalogs show it.
fn obstacle(h: &Hypertable, c: &Candidate) -> Option<String> {
    if c.made {
        return None;
    }
    if let Some(obstacle) = &c.obstacle {
        return Some(format!("{} cannot be converted: {obstacle}", h.table));
    }
    if !c.columns.iter().any(|t| t.name == h.time_column) {
        return Some(format!("{} has no time column {}", h.table, h.time_column));
    }
    let lacking = c.keys.iter().find(|k| !k.columns.contains(&h.time_column));
    if let Some(key) = lacking.filter(|_| h.key == KeyChoice::Refuse) {
        return Some(format!("{}: key {} lacks {} and the plan says refuse", h.table, key.name, h.time_column));
    }
    c.keys.iter().find_map(|k| Some(format!("{}: key {}: {}", h.table, k.name, k.objection(h)?)))
}

/// TimescaleDB refuses foreign keys from one hypertable to another (H-8). They are created at the cutover, where it would be too late.
fn between_hypertables(candidates: &[Candidate], foreign_keys: &[ForeignKey]) -> Option<String> {
    let chosen = |table: &TableName| candidates.iter().any(|c| &c.table == table && c.chosen.is_some());
    let found = foreign_keys.iter().find(|f| f.from != f.to && chosen(&f.from) && chosen(&f.to))?;
    Some(format!("{}: its foreign key {} points at {}: a hypertable cannot point at another one", found.from, found.name, found.to))
}
