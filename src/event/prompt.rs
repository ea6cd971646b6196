//! What is asked of the operator, and what they answer.

use serde::{Deserialize, Serialize};

use super::stage::Stage;
use crate::name::TableName;

/// What a prompt is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Table(TableName),
    /// A statement, by the object that it makes: `INDEX public.orders_idx`.
    Object(String),
    /// A lane of the replay, where the failure is of no table.
    Lane(u32),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table(table) => table.fmt(f),
            Self::Object(object) => f.write_str(object),
            Self::Lane(lane) => write!(f, "lane {lane}"),
        }
    }
}

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Whether to go on, after preflight, identity and hypertables: `c`.
    Continue,
    /// A table, a statement or a change failed: `r`, `K`.
    #[serde(alias = "trouble")]
    Failure,
    /// The cutover box is open: `Y`, `x`, esc.
    Cutover,
    /// A late write was found while cutting over: `r` drains again, `x` goes back.
    LateWrite,
}

/// What the operator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Continue,
    /// Try what failed again; after a late write: drain again.
    Retry,
    /// Go on without the statement or the rows of the table; accept that a table differs.
    Skip,
    /// Cut over now.
    Confirm,
    /// Close the cutover box, or give the cutover up after a late write.
    GoBack,
}

impl Answer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Confirm => "cut over",
            Self::GoBack => "go back",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique within a run; an answer names it, so that it cannot answer a later prompt.
    pub id: u64,
    pub stage: Stage,
    pub kind: PromptKind,
    /// What failed; `None` where the whole stage asks.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// One or two sentences.
    pub text: String,
    /// What has to be settled first, for instance `1 open`; empty when the prompt can be answered.
    pub blocked_by: Option<String>,
}

impl Prompt {
    /// Why the prompt does not take this answer; `None` when it does.
    pub fn objection(&self, answer: Answer) -> Option<String> {
        let answers: &[Answer] = match self.kind {
            PromptKind::Continue => &[Answer::Continue],
            PromptKind::Failure => &[Answer::Retry, Answer::Skip],
            PromptKind::Cutover => &[Answer::Confirm, Answer::GoBack],
            PromptKind::LateWrite => &[Answer::Retry, Answer::GoBack],
        };
        if !answers.contains(&answer) {
            return Some("the open question has other answers".into());
        }
        match (answer, &self.subject, &self.blocked_by) {
            (Answer::Skip, Some(Subject::Lane(_)), _) => Some("replay cannot go on without a lane: fix the cause, then retry".into()),
            (Answer::Continue | Answer::Confirm, _, Some(why)) => Some(format!("not yet: {why}")),
            _ => None,
        }
    }
}
