//! What the operator may do now. The engine decides in the end; these say which keys would be of use.

use super::State;
use crate::event::{CutoverStep, IdentityRow, IdentityState, PromptKind, Stage, StageState};

impl State {
    /// Whether this stage runs, so that its choices and checks can be ordered.
    pub fn stage_runs(&self, stage: Stage) -> bool {
        self.ended.is_none() && self.stage == Some(stage) && self.stage_state(stage) == StageState::Running
    }

    /// Whether a failure is what is asked about. The cutover box comes before it.
    pub fn asks_about_failure(&self) -> bool {
        self.ended.is_none() && self.prompts.shown().is_some_and(|p| p.kind == PromptKind::Failure)
    }

    /// The id of the prompt that `c` would answer.
    pub fn can_continue(&self) -> Option<u64> {
        self.prompts.to_continue().filter(|_| self.ended.is_none())
    }

    /// Whether the cutover box can be shown, with or without open gates.
    pub fn can_show_cutover_box(&self) -> bool {
        self.ended.is_none() && matches!(self.stage, Some(Stage::CatchUp | Stage::Verify)) && !self.is_cutover_box_open()
    }

    /// Hard gates that have not passed.
    fn hard_gates_open(&self) -> usize {
        self.gates.iter().filter(|g| g.hard && !g.passed).count()
    }

    /// `1 gate has not passed yet`; `None` when all hard gates have passed.
    pub fn gates_not_passed(&self) -> Option<String> {
        match self.hard_gates_open() {
            0 => None,
            1 => Some("1 gate has not passed yet".into()),
            n => Some(format!("{n} gates have not passed yet")),
        }
    }

    /// Whether `c` opens the cutover box.
    pub fn can_open_cutover(&self) -> bool {
        self.can_show_cutover_box() && self.prompts.shown().is_none() && !self.gates.is_empty() && self.hard_gates_open() == 0
    }

    /// Whether the cutover box is on the screen.
    pub fn is_cutover_box_open(&self) -> bool {
        let asked = self.prompts.shown().is_some_and(|p| matches!(p.kind, PromptKind::Cutover | PromptKind::LateWrite));
        self.ended.is_none() && (asked || self.cutover.running)
    }

    pub fn is_late_write(&self) -> bool {
        self.ended.is_none() && self.prompts.shown().is_some_and(|p| p.kind == PromptKind::LateWrite)
    }

    /// The id of the prompt that `Y` would answer, or why it would not.
    pub fn can_confirm(&self) -> Result<u64, String> {
        let Some(prompt) = self.prompts.shown().filter(|p| p.kind == PromptKind::Cutover && self.ended.is_none()) else {
            return Err("nothing to confirm".into());
        };
        if let Some(why) = &prompt.blocked_by {
            return Err(format!("not yet: {why}"));
        }
        self.gates_not_passed().map_or(Ok(prompt.id), Err)
    }

    /// Going back is possible while the last group of steps has not begun.
    pub fn can_abort(&self) -> bool {
        self.is_cutover_box_open() && !self.cutover.steps.contains_key(&CutoverStep::LastObjects)
    }

    pub fn can_pause(&self) -> bool {
        self.ended.is_none() && matches!(self.stage, Some(Stage::Copy | Stage::CatchUp))
    }

    pub fn can_set_jobs(&self) -> bool {
        self.stage_runs(Stage::Copy) && self.copy.table_jobs > 0
    }

    /// Whether the identity of this table is still to be chosen, or the choice can be changed.
    pub fn can_choose_identity(&self, row: &IdentityRow) -> bool {
        self.stage_runs(Stage::Identity) && !matches!(row.state, IdentityState::Ok | IdentityState::Applied)
    }

    /// Whether the operator has to do something before the migration continues.
    pub fn waits_for_operator(&self) -> bool {
        self.ended.is_none() && self.prompts.shown().is_some()
    }

    /// Completed in this run: leaving is all that remains.
    pub fn can_leave(&self) -> bool {
        self.stage == Some(Stage::Done) && self.cutover.completed.is_some() && self.ended.is_none()
    }
}
