//! What is asked of the operator at the moment.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Prompt, PromptKind};

/// The open prompts, in the order in which they were opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPrompts {
    open: Vec<Prompt>,
}

impl OpenPrompts {
    pub fn apply(&mut self, event: &Event) {
        match event {
            // A later run asks again.
            Event::Opened { .. } => self.open.clear(),
            Event::PromptOpened { prompt } => match self.open.iter_mut().find(|p| p.id == prompt.id) {
                Some(known) => *known = prompt.clone(),
                None => self.open.push(prompt.clone()),
            },
            Event::PromptClosed { id } => self.open.retain(|p| p.id != *id),
            _ => {}
        }
    }

    /// The prompt on the screen: the newest, but a question of the stage or the cutover box before any failure.
    pub fn shown(&self) -> Option<&Prompt> {
        self.open.iter().rev().find(|p| p.kind != PromptKind::Failure).or(self.open.last())
    }

    /// What failed and waits for `r` or `K`, the oldest first.
    pub fn failures(&self) -> impl Iterator<Item = &Prompt> {
        self.open.iter().filter(|p| p.kind == PromptKind::Failure)
    }

    /// The failure of this row: a table, or the object of a statement.
    pub fn failure_of(&self, row: &str) -> Option<&Prompt> {
        self.failures().find(|p| p.subject.as_ref().is_some_and(|subject| subject.to_string() == row))
    }

    /// The id of the prompt that `c` answers now.
    pub fn to_continue(&self) -> Option<u64> {
        self.shown().filter(|p| p.kind == PromptKind::Continue && p.blocked_by.is_none()).map(|p| p.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Answer, Stage, Subject},
        name::TableName,
    };

    fn prompt(id: u64, stage: Stage, kind: PromptKind) -> Prompt {
        let subject = (kind == PromptKind::Failure).then(|| Subject::Table(TableName::new("public", format!("t{id}"))));
        Prompt { id, stage, kind, subject, text: String::new(), blocked_by: None }
    }

    fn opened(id: u64, stage: Stage, kind: PromptKind) -> Event {
        Event::PromptOpened { prompt: prompt(id, stage, kind) }
    }

    fn fold(events: &[Event]) -> OpenPrompts {
        let mut prompts = OpenPrompts::default();
        for event in events {
            prompts.apply(event);
        }
        prompts
    }

    fn shown(events: &[Event]) -> Option<u64> {
        fold(events).shown().map(|p| p.id)
    }

    #[test]
    fn a_failure_is_asked_about_until_it_is_answered_itself() {
        let failures = [1, 2, 3].map(|id| opened(id, Stage::Copy, PromptKind::Failure));
        let without = |closed: &[u64]| {
            let closed = closed.iter().map(|id| Event::PromptClosed { id: *id });
            fold(&failures.iter().cloned().chain(closed).collect::<Vec<_>>())
        };
        let shown = |closed: &[u64]| without(closed).shown().map(|p| p.id);
        assert_eq!([shown(&[1]), shown(&[3]), shown(&[2, 3]), shown(&[3, 1, 2])], [Some(3), Some(2), Some(1), None]);
        assert_eq!(without(&[2]).failure_of("public.t1").map(|p| p.id), Some(1));
        assert_eq!(without(&[2]).failure_of("public.t2"), None);
    }

    #[test]
    fn a_failure_stays_open_under_the_cutover_box() {
        let (failure, cutover) = (opened(1, Stage::CatchUp, PromptKind::Failure), opened(2, Stage::Cutover, PromptKind::Cutover));
        let closed = |id| Event::PromptClosed { id };
        // The box is reported again whenever a gate changes.
        let mut events = vec![failure, cutover.clone(), cutover];
        assert_eq!(shown(&events), Some(2));
        // A failure does not cover it.
        events.push(opened(3, Stage::CatchUp, PromptKind::Failure));
        assert_eq!(shown(&events), Some(2));
        events.extend([closed(2), closed(3)]);
        assert_eq!(shown(&events), Some(1));
        events.push(closed(1));
        assert_eq!(shown(&events), None);
    }

    #[test]
    fn a_prompt_is_closed_only_by_its_own_id() {
        let mut events = vec![opened(2, Stage::Identity, PromptKind::Continue), Event::PromptClosed { id: 1 }];
        assert_eq!(fold(&events).to_continue(), Some(2));
        events.push(Event::PromptClosed { id: 2 });
        assert_eq!(fold(&events).to_continue(), None);
    }

    #[test]
    fn a_prompt_takes_its_own_answers_when_nothing_blocks_it() {
        let all = [Answer::Continue, Answer::Retry, Answer::Skip, Answer::Confirm, Answer::GoBack];
        let taken = |prompt: &Prompt| all.into_iter().filter(|answer| prompt.objection(*answer).is_none()).collect::<Vec<_>>();
        let mut failure = prompt(1, Stage::CatchUp, PromptKind::Failure);
        assert_eq!(taken(&failure), [Answer::Retry, Answer::Skip]);
        // Replay cannot go on without one of its lanes.
        failure.subject = Some(Subject::Lane(3));
        assert_eq!(taken(&failure), [Answer::Retry]);
        assert_eq!(taken(&prompt(1, Stage::Cutover, PromptKind::LateWrite)), [Answer::Retry, Answer::GoBack]);
        let mut cutover = prompt(1, Stage::Cutover, PromptKind::Cutover);
        assert_eq!(taken(&cutover), [Answer::Confirm, Answer::GoBack]);
        cutover.blocked_by = Some("slot: lost".into());
        assert_eq!(taken(&cutover), [Answer::GoBack]);
        assert_eq!(cutover.objection(Answer::Confirm).as_deref(), Some("not yet: slot: lost"));
    }

    #[test]
    fn a_prompt_of_an_earlier_version_is_read() {
        let line = r#"{"event":"prompt_opened","prompt":{"id":7,"stage":"copy","kind":"trouble","text":"no","blocked_by":null}}"#;
        let Event::PromptOpened { prompt } = serde_json::from_str(line).unwrap() else { panic!("{line}") };
        assert_eq!((prompt.id, prompt.kind, prompt.subject), (7, PromptKind::Failure, None));
    }
}
