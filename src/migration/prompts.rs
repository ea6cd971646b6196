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

    /// Asks; the answer comes while [`Self::drive`] runs.
    pub async fn open(
        &mut self,
        stage: Stage,
        kind: PromptKind,
        subject: Option<Subject>,
        text: impl Into<String>,
        blocked_by: Option<String>,
    ) -> Asked {
        let (waits, answer) = oneshot::channel();
        let id = self.enter(Prompt { id: 0, stage, kind, subject, text: text.into(), blocked_by }, waits).await;
        Asked { id, answer }
    }

    /// Gives a prompt its id and shows it. Who asks about a failure that is open already waits for the same answer, because the operator
    /// decides about the table or the statement.
    async fn enter(&mut self, prompt: Prompt, waits: oneshot::Sender<Answer>) -> u64 {
        let same = |p: &Prompt| (p.kind, p.stage, &p.subject) == (PromptKind::Failure, prompt.stage, &prompt.subject);
        if let Some(known) = self.open.iter_mut().find(|o| prompt.kind == PromptKind::Failure && same(&o.prompt)) {
            known.waiting.push(waits);
            return known.prompt.id;
        }
        self.last_id += 1;
        let prompt = Prompt { id: self.last_id, ..prompt };
        self.open.push(Open { prompt: prompt.clone(), waiting: vec![waits] });
        self.reporter.report(Event::PromptOpened { prompt }).await;
        self.last_id
    }

    /// An open prompt waits for something else first, or for nothing any more. It stays the same prompt.
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
        let mut asked = self.open(stage, PromptKind::Continue, None, text, blocked_by).await;
        let id = asked.id;
        let continued = async {
            asked.answer().await?;
            Ok(None)
        };
        let next = self.drive(stage, continued, |command| takes(command).map(Some)).await?;
        self.close(id).await;
        Ok(next)
    }

    /// Runs work until it ends or the operator stops. Meanwhile what workers ask is shown, answers are brought to those who wait for them,
    /// and other commands go to the stage: `Ok` ends the wait with this result, `Err` refuses the command.
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
                Some(question) = self.questions.recv() => self.show(stage, question).await?,
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

    /// Shows what a worker asks. Without anybody to ask, the failure ends the run.
    async fn show(&mut self, stage: Stage, Question { subject, error, answer }: Question) -> Result<()> {
        if !self.interactive {
            return Err(error.context(subject.to_string()));
        }
        let text = format!("{subject} failed: {error}");
        self.enter(Prompt { id: 0, stage, kind: PromptKind::Failure, subject: Some(subject), text, blocked_by: None }, answer).await;
        Ok(())
    }

    /// Brings an answer to all who wait for it.
    async fn answer(&mut self, id: u64, answer: Answer) {
        let Some(at) = self.open.iter().position(|o| o.prompt.id == id) else {
            return self.refuse(answer.word(), "this question is not open any more").await;
        };
        if let Some(why) = self.open[at].prompt.objection(answer) {
            return self.refuse(answer.word(), why).await;
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
