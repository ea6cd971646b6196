//! One way to ask the operator: the book of open prompts, and the loop that takes the operator's commands.
//!
//! Workers ask through a [`PromptSender`] and wait; a stage asks with [`Prompts::open`]. Both wait for the answer to the id of their
//! prompt. Only [`Prompts::drive`] shows what workers ask and brings answers back, so each stage runs its work in it.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Answer, Command, Event, Prompt, PromptKind, Stage, Subject},
};

/// What a worker asks: whether to try again after a failure.
struct Question {
    subject: Subject,
    error: Error,
    answer: oneshot::Sender<Answer>,
}

/// The workers' end.
#[derive(Clone)]
pub struct PromptSender {
    questions: mpsc::Sender<Question>,
}

impl PromptSender {
    /// Asks what to do about a failure, and waits for the operator: [`Answer::Retry`] or [`Answer::Skip`].
    pub async fn ask(&self, subject: Subject, error: Error) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { subject, error, answer }).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }
}

/// A prompt that a stage has opened. Once this is dropped nobody waits for the answer, and the prompt closes.
pub struct Asked {
    pub id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Asked {
    /// Waits for the operator, while [`Prompts::drive`] runs.
    pub async fn answer(&mut self) -> Result<Answer> {
        (&mut self.answer).await.map_err(|_| Error::stopped())
    }
}

struct Open {
    prompt: Prompt,
    /// All of them get the answer.
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// The open prompts, and the operator's commands.
pub struct Prompts {
    reporter: Reporter,
    commands: mpsc::Receiver<Command>,
    cancel: CancellationToken,
    /// Somebody can answer.
    interactive: bool,
    /// Go on without asking where nothing blocks.
    yes: bool,
    sender: PromptSender,
    questions: mpsc::Receiver<Question>,
    last_id: u64,
    open: Vec<Open>,
}

impl Prompts {
    pub fn new(config: &Config, reporter: Reporter, commands: mpsc::Receiver<Command>, cancel: CancellationToken) -> Self {
        let (questions, incoming) = mpsc::channel(16);
        Self {
            reporter,
            commands,
            cancel,
            interactive: config.interactive,
            yes: config.yes,
            sender: PromptSender { questions },
            questions: incoming,
            last_id: 0,
            open: Vec::new(),
        }
    }

    pub fn sender(&self) -> PromptSender {
        self.sender.clone()
    }

    /// What failed and waits for the operator; the newest.
    pub fn failure(&self) -> Option<&Subject> {
        self.open.iter().rev().filter(|o| o.prompt.kind == PromptKind::Failure).find_map(|o| o.prompt.subject.as_ref())
    }

    /// Asks a question of the stage; the answer comes while [`Self::drive`] runs.
    pub async fn open(&mut self, stage: Stage, kind: PromptKind, text: impl Into<String>, blocked_by: Option<String>) -> Asked {
        let (waits, answer) = oneshot::channel();
        let id = self.show(Prompt { id: 0, stage, kind, subject: None, text: text.into(), blocked_by }, waits).await;
        Asked { id, answer }
    }

    /// Asks what to do about a failure. Where the subject is asked about already, the answer to that prompt is the answer to this one,
    /// because the operator decides about the whole table or statement.
    pub async fn open_failure(&mut self, stage: Stage, subject: Subject, text: impl Into<String>) -> Asked {
        let (waits, answer) = oneshot::channel();
        let id = self.fail(stage, subject, text.into(), waits).await;
        Asked { id, answer }
    }

    async fn fail(&mut self, stage: Stage, subject: Subject, text: String, waits: oneshot::Sender<Answer>) -> u64 {
        if let Some(known) = self.open.iter_mut().find(|o| o.prompt.stage == stage && o.prompt.subject.as_ref() == Some(&subject)) {
            known.waiting.push(waits);
            return known.prompt.id;
        }
        self.show(Prompt { id: 0, stage, kind: PromptKind::Failure, subject: Some(subject), text, blocked_by: None }, waits).await
    }

    async fn show(&mut self, prompt: Prompt, waits: oneshot::Sender<Answer>) -> u64 {
        self.last_id += 1;
        let prompt = Prompt { id: self.last_id, ..prompt };
        self.open.push(Open { prompt: prompt.clone(), waiting: vec![waits] });
        self.reporter.report(Event::PromptOpened { prompt }).await;
        self.last_id
    }

    /// What an open prompt waits for first has changed. It stays the same prompt, and without a difference nothing is reported.
    pub async fn block(&mut self, id: u64, blocked_by: Option<String>) {
        let known = self.open.iter_mut().find(|o| o.prompt.id == id);
        if let Some(open) = known.filter(|o| o.prompt.blocked_by != blocked_by) {
            open.prompt.blocked_by = blocked_by;
            self.reporter.report(Event::PromptOpened { prompt: open.prompt.clone() }).await;
        }
    }

    /// The question is settled without an answer.
    pub async fn close(&mut self, id: u64) {
        let before = self.open.len();
        self.open.retain(|o| o.prompt.id != id);
        if self.open.len() < before {
            self.reporter.report(Event::PromptClosed { id }).await;
        }
    }

    /// Asks whether to continue; `None` means yes, and `Some` is an order that `takes` made of another command. With `--yes` it continues
    /// where nothing blocks; where something does and nobody can be asked, that is an error.
    pub async fn ask_continue<T>(
        &mut self,
        stage: Stage,
        text: impl Into<String>,
        blocked_by: Option<String>,
        mut takes: impl FnMut(Command) -> Result<T, Command>,
    ) -> Result<Option<T>> {
        let text = text.into();
        if let (Some(why), false) = (&blocked_by, self.interactive) {
            return Err(Error::refused(format!("{}: {why}", stage.title())).detail(text));
        }
        if self.yes && blocked_by.is_none() {
            return Ok(None);
        }
        let mut asked = self.open(stage, PromptKind::Continue, text, blocked_by).await;
        let id = asked.id;
        let continued = async {
            asked.answer().await?;
            Ok(None)
        };
        let next = self.drive(stage, continued, |command| takes(command).map(Some)).await?;
        self.close(id).await;
        Ok(next)
    }

    /// Runs work until it ends or the operator stops. Meanwhile what workers ask is shown, and answers go to those who wait for them. Other
    /// commands go to the stage: `Ok` ends the wait with this result, `Err` refuses the command. Pass `Err` itself as `takes` to refuse every
    /// command.
    pub async fn drive<T>(
        &mut self,
        stage: Stage,
        work: impl Future<Output = Result<T>>,
        mut takes: impl FnMut(Command) -> Result<T, Command>,
    ) -> Result<T> {
        let mut work = std::pin::pin!(work);
        self.close_unawaited().await;
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::stopped()),
                Some(question) = self.questions.recv() => self.take(stage, question).await?,
                result = &mut work => return result,
                command = self.commands.recv() => match command {
                    None => return Err(Error::stopped()),
                    Some(Command::Answer { prompt, answer }) => self.answer(prompt, answer).await,
                    Some(command) => match takes(command) {
                        Ok(result) => return Ok(result),
                        Err(command) => self.refuse(command_word(&command), format!("not possible in stage {}", stage.title())).await,
                    },
                },
            }
        }
    }

    /// A worker asks. Without anybody to answer, its failure ends the run.
    async fn take(&mut self, stage: Stage, Question { subject, error, answer }: Question) -> Result<()> {
        if !self.interactive {
            return Err(error.context(subject.to_string()));
        }
        let text = format!("{subject} failed: {error}");
        self.fail(stage, subject, text, answer).await;
        Ok(())
    }

    /// Brings an answer to all who wait for it.
    async fn answer(&mut self, id: u64, answer: Answer) {
        let Some(at) = self.open.iter().position(|o| o.prompt.id == id) else {
            return self.refuse(answer.as_str(), "this question is not open any more").await;
        };
        if let Some(why) = self.open[at].prompt.objection(answer) {
            return self.refuse(answer.as_str(), why).await;
        }
        let Open { prompt, waiting } = self.open.remove(at);
        // First, because those who wait may fail again immediately.
        if let (PromptKind::Failure, Answer::Retry, Some(subject)) = (prompt.kind, answer, &prompt.subject) {
            self.reporter.report(Event::StatementRetried { object: subject.to_string() }).await;
        }
        self.reporter.report(Event::PromptClosed { id }).await;
        for waits in waiting {
            let _ = waits.send(answer);
        }
    }

    async fn refuse(&self, command: impl Into<String>, why: impl Into<String>) {
        self.reporter.report(Event::CommandRefused { command: command.into(), why: why.into() }).await;
    }

    /// Closes the prompts of those who have ended.
    async fn close_unawaited(&mut self) {
        let unawaited: Vec<u64> = self.open.iter().filter(|o| o.waiting.iter().all(oneshot::Sender::is_closed)).map(|o| o.prompt.id).collect();
        for id in unawaited {
            self.close(id).await;
        }
    }
}

/// The command as the log names it: `open cutover`.
fn command_word(command: &Command) -> String {
    let tagged = serde_json::to_value(command).ok();
    tagged.and_then(|value| Some(value.get("command")?.as_str()?.replace('_', " "))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{self, EventStream, FrontEnd},
        cli::Cli,
        name::TableName,
    };
    use clap::Parser;

    /// A book of prompts with its operator.
    struct Operator {
        front: FrontEnd,
        events: EventStream,
    }

    fn start(interactive: bool, arguments: &[&str]) -> (Prompts, Operator) {
        let always = ["hyperlift", "--source", "postgres://a/a", "--target", "postgres://b/b", "--dir", "nowhere"];
        let mut config = Cli::parse_from(always.iter().chain(arguments)).migrate.config().unwrap();
        config.interactive = interactive;
        let (listener, events) = mpsc::unbounded_channel();
        let bus = bus::start(|_| {}, Some(listener));
        let prompts = Prompts::new(&config, bus.reporter, bus.commands, CancellationToken::new());
        (prompts, Operator { front: bus.front, events })
    }

    fn table(name: &str) -> Subject {
        Subject::Table(TableName::new("public", name))
    }

    impl Operator {
        async fn next(&mut self) -> Event {
            self.events.recv().await.unwrap().event.clone()
        }

        async fn opened(&mut self) -> Prompt {
            match self.next().await {
                Event::PromptOpened { prompt } => prompt,
                other => panic!("{other:?}"),
            }
        }

        async fn refused(&mut self) -> (String, String) {
            match self.next().await {
                Event::CommandRefused { command, why } => (command, why),
                other => panic!("{other:?}"),
            }
        }

        async fn answer(&self, prompt: u64, answer: Answer) {
            self.command(Command::Answer { prompt, answer }).await;
        }

        async fn command(&self, command: Command) {
            self.front.commands.send(command).await.unwrap();
        }
    }

    #[tokio::test]
    async fn those_who_ask_about_one_table_get_one_answer_and_others_their_own() {
        let (mut prompts, mut operator) = start(true, &[]);
        let sender = prompts.sender();
        let ask = |name: &str| {
            let (sender, subject) = (sender.clone(), table(name));
            async move { sender.ask(subject, Error::failed("no")).await }
        };
        let work = async {
            let (a, again, b) = tokio::join!(ask("a"), ask("a"), ask("b"));
            Ok([a?, again?, b?])
        };
        let operate = async {
            let (a, b) = (operator.opened().await, operator.opened().await);
            assert_eq!((a.subject.clone(), b.subject.clone()), (Some(table("a")), Some(table("b"))));
            assert_eq!(a.text, "public.a failed: no");
            operator.answer(b.id, Answer::Skip).await;
            assert_eq!(operator.next().await, Event::PromptClosed { id: b.id });
            operator.answer(a.id, Answer::Retry).await;
            assert_eq!(operator.next().await, Event::StatementRetried { object: "public.a".into() });
            assert_eq!(operator.next().await, Event::PromptClosed { id: a.id });
        };
        let (answers, ()) = tokio::join!(prompts.drive(Stage::Copy, work, Err), operate);
        assert_eq!(answers.unwrap(), [Answer::Retry, Answer::Retry, Answer::Skip]);
    }

    #[tokio::test]
    async fn an_answer_never_meets_a_later_prompt() {
        let (mut prompts, mut operator) = start(true, &[]);
        let sender = prompts.sender();
        let work = async {
            let first = sender.ask(table("a"), Error::failed("no")).await?;
            Ok([first, sender.ask(table("a"), Error::failed("no")).await?])
        };
        let operate = async {
            let first = operator.opened().await.id;
            operator.answer(first, Answer::Retry).await;
            operator.answer(first, Answer::Skip).await;
            operator.next().await;
            assert_eq!(operator.next().await, Event::PromptClosed { id: first });
            let mut events = [operator.next().await, operator.next().await];
            events.sort_by_key(|e| matches!(e, Event::PromptOpened { .. }));
            let [Event::CommandRefused { command, why }, Event::PromptOpened { prompt }] = &events else { panic!("{events:?}") };
            assert_eq!((command.as_str(), why.as_str()), ("skip", "this question is not open any more"));
            // Nor does an answer of another kind.
            operator.answer(prompt.id, Answer::Confirm).await;
            assert_eq!(operator.refused().await.0, "cut over");
            operator.answer(prompt.id, Answer::Skip).await;
        };
        let (answers, ()) = tokio::join!(prompts.drive(Stage::Copy, work, Err), operate);
        assert_eq!(answers.unwrap(), [Answer::Retry, Answer::Skip]);
    }

    #[tokio::test]
    async fn a_blocked_prompt_waits_and_is_reported_again_only_when_something_changed() {
        let (mut prompts, mut operator) = start(true, &[]);
        let blocked = |why: &str| Some(why.to_owned());
        let mut asked = prompts.open(Stage::Cutover, PromptKind::Cutover, "", blocked("lag: 3 s")).await;
        let id = asked.id;
        operator.answer(id, Answer::Confirm).await;
        let refused = async {
            assert_eq!(operator.opened().await.id, id);
            Ok(operator.refused().await.1)
        };
        assert_eq!(prompts.drive(Stage::CatchUp, refused, Err).await.unwrap(), "not yet: lag: 3 s");
        for why in [blocked("lag: 3 s"), blocked("lag: 1 s"), blocked("lag: 1 s"), None, None] {
            prompts.block(id, why).await;
        }
        operator.answer(id, Answer::Confirm).await;
        assert_eq!(prompts.drive(Stage::CatchUp, asked.answer(), Err).await.unwrap(), Answer::Confirm);
        let mut reported = Vec::new();
        loop {
            match operator.next().await {
                Event::PromptOpened { prompt } => reported.push(prompt.blocked_by),
                Event::PromptClosed { id: closed } if closed == id => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reported, [blocked("lag: 1 s"), None]);
    }

    #[tokio::test]
    async fn commands_go_to_the_stage_or_are_refused_and_a_prompt_without_a_reader_closes() {
        let (mut prompts, mut operator) = start(true, &[]);
        let dropped = prompts.open(Stage::Copy, PromptKind::LateWrite, "", None).await.id;
        operator.opened().await;
        operator.command(Command::Recheck).await;
        operator.command(Command::Pause).await;
        let takes = |command| if command == Command::Pause { Ok("paused") } else { Err(command) };
        assert_eq!(prompts.drive(Stage::Copy, std::future::pending(), takes).await.unwrap(), "paused");
        assert_eq!(operator.next().await, Event::PromptClosed { id: dropped });
        assert_eq!(operator.refused().await, ("recheck".into(), "not possible in stage Copy".into()));
    }

    #[tokio::test]
    async fn without_anybody_to_ask_a_failure_ends_the_run_and_yes_continues_where_nothing_blocks() {
        let (mut prompts, _operator) = start(false, &["--yes"]);
        let sender = prompts.sender();
        let work = async { sender.ask(table("a"), Error::failed("no")).await };
        assert_eq!(prompts.drive(Stage::Copy, work, Err).await.unwrap_err().to_string(), "public.a: no");
        let refuse = |command| -> Result<(), Command> { Err(command) };
        assert_eq!(prompts.ask_continue(Stage::Identity, "Go on?", None, refuse).await.unwrap(), None);
        let blocked = prompts.ask_continue(Stage::Identity, "Go on?", Some("1 open".into()), refuse).await.unwrap_err();
        assert!(blocked.to_string().contains("Identity: 1 open"), "{blocked}");
    }
}
