//! Questions to the operator.

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// `c`, after preflight, identity and hypertables, and before verify and cutover.
    Continue,
    /// A table or a statement failed: `r`, `K`.
    Trouble,
    /// The cutover box is open: `Y`, `x`, esc.
    Cutover,
    /// A late write was found while cutting over: `r` drains again, `x` goes back.
    LateWrite,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique within a run; an answer names it, so that it cannot answer a later prompt.
    pub id: u64,
    pub stage: Stage,
    pub kind: PromptKind,
    /// One or two sentences.
    pub text: String,
    /// What has to be settled first, for instance `1 open`; empty when the prompt can be answered.
    pub blocked_by: Option<String>,
}
