//! Every screen as the operator sees it, and what key presses order.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend, layout::Rect};
use std::time::{Duration, Instant};

use crate::{
    event::{Answer, Command, CutoverStep, Event, FailedStatement, Level, PromptKind, Stage, StageState, Subject},
    plan::{IdentityChoice, IdentityDefault, KeyChoice},
    state::State,
    ui::{
        app::{App, Effect},
        fixture::{self, Story, table},
        screens,
        view::{Modal, Overlay},
    },
};

const WIDE: (u16, u16) = (120, 36);
const NARROW: (u16, u16) = (80, 24);

fn draw(app: &App, state: &State, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| app.render(frame, state)).unwrap();
    text(&terminal)
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(buffer.area.width).max(1));
    rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned() + "\n").collect()
}

type Moment = (&'static str, fn() -> Story, fn(&mut App));

fn follow(_: &mut App) {}

fn select(app: &mut App, stage: Stage, row: &str) {
    app.view.selected.insert(stage, row.to_owned());
}

/// Every screen worth a snapshot.
const MOMENTS: &[Moment] = &[
    ("starting", fixture::starting, follow),
    ("preflight", fixture::preflight, follow),
    ("identity", fixture::identity, follow),
    ("identity_of_a_table_with_indexes", fixture::identity, |app| {
        select(app, Stage::Identity, "public.sessions");
        app.view.swapped = true;
    }),
    ("identity_of_all_open_tables", fixture::identity, |app| {
        app.on_key(&press('a'), &fixture::identity().state, Instant::now());
    }),
    ("schema", fixture::schema, follow),
    ("hypertables", fixture::hypertables, |app| select(app, Stage::Hypertables, "public.events")),
    ("hypertable_editor", fixture::hypertables, |app| {
        select(app, Stage::Hypertables, "public.events");
        app.view.swapped = true;
        app.view.field = 2;
    }),
    ("copy_waits", fixture::waiting, follow),
    ("copy", fixture::copy, |app| select(app, Stage::Copy, "public.events")),
    ("copy_other_pane", fixture::copy, |app| app.view.swapped = true),
    ("copy_filtered", fixture::copy, |app| {
        app.view.filtering = true;
        app.view.filter = "or".into();
    }),
    ("copy_details", fixture::copy, |app| app.view.overlay = Some(Overlay::Details)),
    ("another_stage", fixture::copy, |app| app.view.stage = Some(Stage::Schema)),
    ("catch_up", fixture::catch_up, follow),
    ("catch_up_details_of_a_slow_table", fixture::catch_up, |app| {
        select(app, Stage::CatchUp, "public.regions");
        app.view.overlay = Some(Overlay::Details);
    }),
    ("catch_up_other_pane", fixture::catch_up, |app| app.view.swapped = true),
    ("verify", fixture::catch_up, |app| app.view.stage = Some(Stage::Verify)),
    ("in_sync", fixture::in_sync, follow),
    ("cutover_box", fixture::cutover_box, follow),
    ("cutover_running", fixture::cutover_running, follow),
    ("late_write", fixture::late_write, follow),
    ("done", fixture::done, follow),
    ("done_with_late_write", fixture::done_with_late_write, follow),
    ("failed", fixture::failed, follow),
    ("stopping", fixture::copy, |app| app.view.stopping = true),
    ("quit", fixture::copy, |app| app.view.modal = Some(Modal::Quit)),
    ("skip_asks_for_the_name", fixture::copy, |app| {
        app.on_key(&press('K'), &fixture::copy().state, Instant::now());
    }),
    ("differences", fixture::differences, |app| {
        app.view.overlay = Some(Overlay::Differences);
        app.view.scroll = 2;
    }),
    ("difference_that_removes", fixture::differences, |app| {
        let state = fixture::differences().state;
        app.on_key(&press('D'), &state, Instant::now());
        app.on_key(&press('e'), &state, Instant::now());
    }),
    ("log", fixture::catch_up, |app| app.view.overlay = Some(Overlay::Log)),
    ("help", fixture::hypertables, |app| app.view.overlay = Some(Overlay::Help)),
];

fn moment((_, story, prepare): &Moment, ascii: bool) -> (App, State) {
    let mut app = fixture::app(ascii);
    prepare(&mut app);
    (app, story().state)
}

fn named(name: &str) -> &'static Moment {
    MOMENTS.iter().find(|m| m.0 == name).unwrap()
}

#[test]
fn a_message_leaves_when_a_prompt_opens_after_it() {
    let (mut app, now) = (fixture::app(false), Instant::now());
    let (before, open) = (fixture::starting().state, fixture::preflight().state);
    app.say(Level::Info, "nothing waits for c", now);
    assert!(!app.tick(&before, now) && app.view.message.is_some());
    assert!(app.tick(&open, now) && app.view.message.is_none());
    // What is said about the question itself stays.
    app.say(Level::Info, "not yet: 1 failed", now);
    assert!(!app.tick(&open, now) && app.view.message.is_some());
}

#[test]
fn every_screen() {
    for moment_ in MOMENTS {
        let (app, state) = moment(moment_, false);
        for size in [WIDE, NARROW] {
            insta::assert_snapshot!(format!("{}_{}x{}", moment_.0, size.0, size.1), draw(&app, &state, size));
        }
    }
    for moment_ in MOMENTS.iter().filter(|m| ["identity", "copy", "catch_up", "cutover_box", "quit"].contains(&m.0)) {
        let (app, state) = moment(moment_, false);
        insta::assert_snapshot!(format!("{}_60x16", moment_.0), draw(&app, &state, (60, 16)));
    }
    let (app, state) = moment(named("catch_up"), false);
    insta::assert_snapshot!("too_small", draw(&app, &state, (52, 14)));
}

#[test]
fn every_screen_in_ascii() {
    for moment_ in MOMENTS {
        let (app, state) = moment(moment_, true);
        for size in [WIDE, NARROW, (60, 16)] {
            let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
            // Without the replacements for characters of names: the screens have none of their own.
            terminal.draw(|frame| screens::render(frame, &state, &app.view)).unwrap();
            let text = text(&terminal);
            let odd: String = text.lines().filter(|l| !l.is_ascii()).collect();
            assert!(odd.is_empty(), "{}: {odd}", moment_.0);
        }
    }
    let (app, state) = moment(named("copy"), true);
    insta::assert_snapshot!("copy_ascii", draw(&app, &state, WIDE));
}

#[test]
fn no_size_panics() {
    for moment_ in MOMENTS {
        let (mut app, state) = moment(moment_, false);
        for size in [(0, 0), (0, 9), (9, 0), (1, 1), (59, 15), (60, 16), (61, 40), (100, 17), (119, 27), (300, 100)] {
            draw(&app, &state, size);
        }
        for stage in Stage::ALL {
            app.view.stage = Some(stage);
            draw(&app, &state, (60, 16));
            draw(&app, &State::default(), WIDE);
        }
    }
}

#[test]
fn names_of_any_kind_are_drawn() {
    let mut s = fixture::copy();
    for name in ["größe", "日本語のとても長い名前のテーブルです日本語のとても長い", "with\nnewline", "\u{1b}[31mred"] {
        let relation = crate::event::RelationSummary {
            table: crate::name::TableName::new("public", name),
            kind: crate::event::RelationKind::Plain,
            bytes: u64::MAX / 4,
            rows: 0,
        };
        s.then(1, Event::RelationsFound { relations: vec![relation] });
        for ascii in [false, true] {
            let text = draw(&fixture::app(ascii), &s.state, NARROW);
            assert!(!text.contains('\u{1b}'));
            assert!(!ascii || text.is_ascii(), "{text}");
        }
    }
}

fn press(c: char) -> KeyEvent {
    KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)
}

/// A dashboard on a wide terminal, with a clock that the test moves.
struct Desk {
    app: App,
    story: Story,
    now: Instant,
}

impl Desk {
    fn new(story: Story) -> Self {
        let mut desk = Self { app: fixture::app(false), story, now: Instant::now() };
        desk.frame();
        desk
    }

    fn frame(&mut self) {
        self.app.drawn(Rect::new(0, 0, 120, 36), &self.story.state, self.now);
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn event(&mut self, event: KeyEvent) -> Vec<Effect> {
        let effects = self.app.on_key(&event, &self.story.state, self.now);
        self.frame();
        effects
    }

    fn key(&mut self, c: char) -> Vec<Effect> {
        self.event(press(c))
    }

    fn code(&mut self, code: KeyCode) -> Vec<Effect> {
        self.event(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn ctrl_c(&mut self) -> Vec<Effect> {
        self.event(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL))
    }

    fn type_(&mut self, text: &str) -> Vec<Effect> {
        for c in text.chars() {
            assert_eq!(self.key(c), []);
        }
        self.code(KeyCode::Enter)
    }
}

fn send(command: Command) -> Vec<Effect> {
    vec![Effect::Send(command)]
}

fn answer(prompt: u64, answer: Answer) -> Vec<Effect> {
    send(Command::Answer { prompt, answer })
}

#[test]
fn c_answers_the_open_prompt_by_its_id_and_no_blocked_one() {
    assert_eq!(Desk::new(fixture::hypertables()).key('c'), answer(4, Answer::Continue));
    assert_eq!(Desk::new(fixture::identity()).key('c'), []);
    assert_eq!(Desk::new(fixture::copy()).key('c'), []);
    assert_eq!(Desk::new(fixture::hypertables()).code(KeyCode::Enter), []);
    // It answers from any screen.
    let mut desk = Desk::new(fixture::hypertables());
    desk.key('1');
    assert_eq!(desk.key('c'), answer(4, Answer::Continue));
}

#[test]
fn c_opens_the_cutover_only_when_the_hard_gates_are_green() {
    assert_eq!(Desk::new(fixture::catch_up()).key('c'), []);
    assert_eq!(Desk::new(fixture::in_sync()).key('c'), send(Command::OpenCutover));
    assert_eq!(Desk::new(fixture::catch_up()).key('C'), send(Command::OpenCutover));
    assert_eq!(Desk::new(fixture::copy()).key('C'), []);
}

#[test]
fn y_counts_only_after_silence_and_when_the_box_was_seen() {
    let confirm = answer(9, Answer::Confirm);
    let mut desk = Desk::new(fixture::cutover_box());
    assert_eq!(desk.later(900).key('Y'), [], "the box was shown for less than a second");
    assert_eq!(desk.later(400).key('Y'), [], "another key came too recently");
    assert_eq!(desk.later(500).key('Y'), confirm);

    // A held key comes again and again.
    let mut desk = Desk::new(fixture::cutover_box());
    desk.key('j');
    for _ in 0..100 {
        assert_eq!(desk.later(30).key('Y'), []);
    }
    // Enter does nothing, a small letter neither.
    assert_eq!(desk.later(5_000).code(KeyCode::Enter), []);
    assert_eq!(desk.later(5_000).key('y'), []);
    assert_eq!(desk.later(5_000).key('c'), []);
}

#[test]
fn y_counts_for_the_box_that_was_seen() {
    // A new box starts its second again.
    let mut desk = Desk::new(fixture::cutover_box());
    desk.later(5_000);
    desk.story.prompt(11, Stage::CatchUp, PromptKind::Cutover, "again", None);
    assert_eq!(desk.key('Y'), []);
    assert_eq!(desk.later(1_100).key('Y'), answer(11, Answer::Confirm));

    // A box that could not be drawn does not count.
    let mut desk = Desk::new(fixture::cutover_box());
    desk.app.drawn(Rect::new(0, 0, 52, 14), &desk.story.state, desk.now);
    assert_eq!(desk.later(5_000).key('Y'), []);

    // A gate that is closed, or a prompt that is blocked.
    let mut desk = Desk::new(fixture::catch_up());
    desk.story.prompt(9, Stage::CatchUp, PromptKind::Cutover, "", None);
    desk.frame();
    assert_eq!(desk.later(5_000).key('Y'), []);
    assert!(desk.app.view.message.as_ref().unwrap().1.contains("1 gate has not passed yet"));

    // Under the quit box.
    let mut desk = Desk::new(fixture::cutover_box());
    desk.key('q');
    assert_eq!(desk.later(5_000).key('Y'), []);
}

#[test]
fn going_back_from_the_cutover() {
    let mut desk = Desk::new(fixture::cutover_box());
    assert_eq!(desk.code(KeyCode::Esc), answer(9, Answer::GoBack));
    assert_eq!(desk.key('x'), answer(9, Answer::GoBack));
    let mut desk = Desk::new(fixture::cutover_running());
    assert_eq!(desk.code(KeyCode::Esc), [], "esc does not stop a cutover that runs");
    assert_eq!(desk.key('x'), send(Command::AbortCutover));
    let mut desk = Desk::new(fixture::late_write());
    assert_eq!(desk.code(KeyCode::Esc), []);
    assert_eq!(desk.key('r'), answer(10, Answer::Retry));
    assert_eq!(desk.key('x'), answer(10, Answer::GoBack));
    desk.story.then(0, Event::CutoverStepped { step: CutoverStep::LastObjects, done: false, detail: String::new() });
    assert_eq!(desk.key('x'), []);
}

#[test]
fn the_keys_that_a_failed_object_of_the_cutover_offers_are_bound() {
    let object = "TRIGGER public.orders orders_audit";
    let fails = |story: &mut Story| {
        story.then(0, Event::CutoverStepped { step: CutoverStep::LastObjects, done: false, detail: String::new() });
        story.failure(30, Stage::Cutover, Subject::Object(object.into()), "function audit() does not exist (42883)");
    };
    // After a restart there is no box.
    let mut restarted = fixture::in_sync();
    restarted.then(0, Event::StageChanged { stage: Stage::Cutover, state: StageState::Running });
    for mut story in [fixture::cutover_running(), restarted] {
        fails(&mut story);
        let mut desk = Desk::new(story);
        let screen = draw(&desk.app, &desk.story.state, WIDE);
        assert!(screen.contains("[ r retry ]    [ K skip ]\n") && screen.contains("r retry  K skip"), "{screen}");
        assert_eq!(desk.key('r'), answer(30, Answer::Retry));
        desk.key('K');
        assert_eq!(desk.type_(object), answer(30, Answer::Skip));
    }
}

#[test]
fn the_answer_goes_to_the_failure_that_the_band_shows() {
    let mut desk = Desk::new(fixture::copy());
    desk.story.failure(31, Stage::Copy, Subject::Table(table("orders")), "the second one");
    desk.story.failure(32, Stage::Copy, Subject::Lane(3), "a lane");
    for (row, id, text) in [("public.orders", 31, "the second one"), ("public.geo_blobs", 5, "No space left on device")] {
        select(&mut desk.app, Stage::Copy, row);
        let screen = draw(&desk.app, &desk.story.state, WIDE);
        assert!(screen.contains("3 failures need you") && screen.contains(text), "{screen}");
        assert_eq!(desk.key('r'), answer(id, Answer::Retry));
    }
    select(&mut desk.app, Stage::Copy, "public.events");
    assert_eq!(desk.key('r'), [], "which of them?");
    // A lane cannot be skipped.
    desk.story.then(0, Event::PromptClosed { id: 5 }).then(0, Event::PromptClosed { id: 31 });
    assert!(!draw(&desk.app, &desk.story.state, WIDE).contains("K skip"));
    desk.key('K');
    assert!(desk.app.view.modal.is_none() && desk.app.view.message.as_ref().unwrap().1.contains("without a lane"));
    assert_eq!(desk.key('r'), answer(32, Answer::Retry));
}

#[test]
fn quitting_asks_and_then_stops_safely() {
    let mut desk = Desk::new(fixture::copy());
    assert_eq!(desk.key('q'), []);
    assert!(matches!(desk.app.view.modal, Some(Modal::Quit)));
    assert_eq!(desk.code(KeyCode::Esc), []);
    assert!(desk.app.view.modal.is_none());
    desk.key('q');
    assert_eq!(desk.code(KeyCode::Enter), []);
    assert!(desk.app.view.modal.is_none(), "any other key stays");
    desk.key('q');
    assert_eq!(desk.key('q'), send(Command::Stop));
    assert!(desk.app.view.stopping);
    assert_eq!(desk.key('q'), [], "once is enough");
}

#[test]
fn the_third_ctrl_c_ends_the_program() {
    let mut desk = Desk::new(fixture::copy());
    assert_eq!(desk.ctrl_c(), []);
    assert_eq!(desk.ctrl_c(), send(Command::Stop));
    assert_eq!(desk.later(9_000).ctrl_c(), send(Command::Stop), "too late for a third one: the safe stop again");
    assert_eq!(desk.later(7_000).ctrl_c(), [Effect::EndNow]);
    // It works while a name is typed.
    let mut desk = Desk::new(fixture::copy());
    desk.key('K');
    desk.key('p');
    desk.ctrl_c();
    assert!(matches!(desk.app.view.modal, Some(Modal::Quit)));
}

#[test]
fn leaving_what_is_over() {
    assert_eq!(Desk::new(fixture::done()).key('q'), send(Command::Leave));
    assert_eq!(Desk::new(fixture::done()).code(KeyCode::Enter), [], "leaving cleans up: that is never on enter");
    let mut desk = Desk::new(fixture::done());
    desk.key('5');
    assert_eq!(desk.code(KeyCode::Enter), [], "enter shows details elsewhere");
    assert_eq!(Desk::new(fixture::failed()).key('q'), [Effect::Leave]);
}

#[test]
fn what_failed_is_tried_again_or_skipped_by_its_name() {
    let mut desk = Desk::new(fixture::copy());
    select(&mut desk.app, Stage::Copy, "public.events");
    assert_eq!(desk.key('r'), answer(5, Answer::Retry), "the only one that failed");
    desk.key('K');
    assert_eq!(desk.type_("public.events"), []);
    assert!(desk.app.view.modal.is_some());
    desk.app.on_paste("public.geo_blobs");
    assert_eq!(desk.code(KeyCode::Enter), [], "pasted text presses no keys");
    desk.code(KeyCode::Esc);
    desk.key('K');
    assert_eq!(desk.type_("public.geo_blobs"), answer(5, Answer::Skip));

    // What was skipped is settled.
    let mut desk = Desk::new(fixture::catch_up());
    select(&mut desk.app, Stage::CatchUp, "public.geo_blobs");
    assert_eq!(desk.key('r'), []);

    assert_eq!(Desk::new(fixture::schema()).key('r'), answer(3, Answer::Retry));
    assert_eq!(Desk::new(fixture::in_sync()).key('r'), []);
}

#[test]
fn identities_are_chosen_and_taken_back() {
    let set = |name: &str, choice| send(Command::SetIdentity { table: table(name), choice });
    let mut desk = Desk::new(fixture::identity());
    // The first open one is selected.
    assert_eq!(desk.key('f'), set("metrics", Some(IdentityChoice::Full)));
    assert_eq!(desk.key('f'), set("metrics", None));
    assert_eq!(desk.key('u'), [], "it has no index");
    desk.key('i');
    assert_eq!(desk.type_("metrics"), []);
    desk.code(KeyCode::Esc);
    desk.key('i');
    assert_eq!(desk.type_("public.metrics"), set("metrics", Some(IdentityChoice::InsertOnly)));

    select(&mut desk.app, Stage::Identity, "public.sessions");
    assert_eq!(desk.key('u'), set("sessions", Some(IdentityChoice::Index("sessions_key".into()))));
    desk.key('l');
    assert_eq!(desk.key('u'), set("sessions", Some(IdentityChoice::Index("sessions_token_key".into()))));

    select(&mut desk.app, Stage::Identity, "audit.log");
    assert_eq!(desk.key('i'), set("audit.log", None), "what was accepted is taken back");
    select(&mut desk.app, Stage::Identity, "public.orders");
    assert_eq!(desk.key('f'), [], "nothing is open");
    assert_eq!(desk.key('R'), send(Command::Recheck));
}

#[test]
fn all_open_tables_get_their_proposals_once_their_number_is_typed() {
    let mut desk = Desk::new(fixture::identity());
    assert_eq!(desk.key('a'), [], "it asks first");
    assert_eq!(desk.type_("1"), []);
    desk.code(KeyCode::Esc);
    desk.key('a');
    assert_eq!(desk.type_("2"), send(Command::SettleIdentities { default: IdentityDefault::Proposed }));
    // What only insert-only is possible for is accepted table by table.
    let mut story = fixture::identity();
    for row in &mut story.state.identity.rows {
        row.proposed = row.proposed.as_ref().map(|_| IdentityChoice::InsertOnly);
    }
    let mut desk = Desk::new(story);
    desk.key('a');
    assert!(desk.app.view.modal.is_none());
}

fn selection(effects: &[Effect]) -> Vec<(String, String, String, KeyChoice)> {
    let [Effect::Send(Command::SelectHypertables { selection, .. })] = effects else { panic!("{effects:?}") };
    selection.iter().map(|h| (h.table.to_string(), h.time_column.clone(), h.chunk_interval.clone(), h.key)).collect()
}

#[test]
fn h_15_a_partitioned_table_becomes_a_hypertable_or_one_plain_table_or_neither() {
    let mut state = fixture::hypertables();
    state.state.hypertables.candidates[0].partitions = 12;
    let partitioned = state.state.hypertables.candidates[0].table.clone();
    let mut desk = Desk::new(state);
    let sent = |effects: Vec<Effect>| {
        let [Effect::Send(Command::SelectHypertables { selection, one_table })] = &effects[..] else { panic!("{effects:?}") };
        (selection.iter().any(|h| h.table == partitioned), one_table.contains(&partitioned))
    };
    desk.key('g');
    assert_eq!(sent(desk.key('m')), (false, true), "no hypertable any more");
    assert_eq!(sent(desk.key(' ')), (true, false));
    assert_eq!(sent(desk.key('m')), (false, true));
    assert_eq!(sent(desk.key('m')), (false, false));
    desk.key('j');
    assert_eq!(desk.key('m'), [], "it has no partitions");
}

#[test]
fn the_whole_selection_is_sent_at_each_change() {
    let mut desk = Desk::new(fixture::hypertables());
    let names = |effects: Vec<Effect>| selection(&effects).into_iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(names(desk.key(' ')), ["public.events", "audit.log"]);
    // Before the engine has answered, the next change builds on the last one.
    desk.key('j');
    assert_eq!(names(desk.key(' ')), ["audit.log"]);
    assert_eq!(names(desk.key('a')).len(), 3);
    assert_eq!(names(desk.key('n')), [""; 0]);
    select(&mut desk.app, Stage::Hypertables, "public.geo_blobs");
    assert_eq!(desk.key(' '), [], "it cannot be converted");
    // The engine's word counts in the end.
    desk.later(3_000).key('g');
    assert_eq!(names(desk.key(' ')), ["public.events", "audit.log"]);
}

#[test]
fn fields_of_a_hypertable_are_turned() {
    let mut desk = Desk::new(fixture::hypertables());
    select(&mut desk.app, Stage::Hypertables, "public.events");
    assert_eq!(selection(&desk.key('l'))[1].1, "seen_at");
    desk.code(KeyCode::Tab);
    assert_eq!(selection(&desk.key('l'))[1].2, "1 day");
    assert_eq!(selection(&desk.key('h'))[1].2, "7 days");
    desk.code(KeyCode::Tab);
    assert_eq!(selection(&desk.key('l'))[1].3, KeyChoice::PlainIndex);
    // A table that is not selected keeps its values until it is.
    select(&mut desk.app, Stage::Hypertables, "public.orders");
    assert_eq!(desk.key('l'), []);
    assert_eq!(selection(&desk.key(' ')).last().unwrap().3, KeyChoice::PlainIndex);
    // Another stage runs: the choice is made.
    let mut desk = Desk::new(fixture::copy());
    desk.key('4');
    assert_eq!(desk.key(' '), []);
}

#[test]
fn jobs_and_pausing() {
    let mut desk = Desk::new(fixture::copy());
    assert_eq!(desk.key('p'), send(Command::Pause));
    desk.story.then(0, Event::Paused { paused: true });
    assert_eq!(desk.key('p'), send(Command::Resume));
    assert_eq!(desk.key('+'), send(Command::SetJobs { table_jobs: 5 }));
    assert_eq!(desk.key('-'), send(Command::SetJobs { table_jobs: 3 }));
    desk.story.then(0, Event::JobsChanged { table_jobs: 1, index_jobs: 1 });
    assert_eq!(desk.key('-'), send(Command::SetJobs { table_jobs: 1 }));
}

#[test]
fn the_selected_row_is_kept_while_rows_move() {
    let mut desk = Desk::new(fixture::copy());
    desk.key('j');
    desk.key('j');
    let name = || "public.events".to_owned();
    assert_eq!(desk.app.view.selected.get(&Stage::Copy), Some(&name()));
    desk.key('o');
    desk.key('o');
    let rows = desk.app.view.rows(Stage::Copy, &desk.story.state);
    assert_eq!(rows[desk.app.view.selected(Stage::Copy, &desk.story.state)], name());
    desk.key('G');
    desk.key('g');
    assert_eq!(desk.app.view.selected(Stage::Copy, &desk.story.state), 0);
}

#[test]
fn statements_of_the_list_are_ordered_one_by_one_or_all_that_are_safe() {
    let mut desk = Desk::new(fixture::differences());
    let sql = |n: usize| fixture::differences().state.differences[n].sql.clone().unwrap();
    let ordered = |statements: Vec<String>| vec![Effect::Send(Command::RunStatements { statements })];
    desk.key('D');
    assert_eq!(desk.key('a'), ordered(vec![sql(1), sql(2)]));
    desk.key('j');
    assert_eq!(desk.key('e'), ordered(vec![sql(1)]));
    assert_eq!(desk.key('y'), [Effect::Copy(sql(1) + ";\n")]);
    let [Effect::Write { file, text }] = &desk.key('w')[..] else { panic!() };
    assert!(*file == "schema-changes.sql" && text.contains("was dropped: REMOVES") && text.contains(&sql(2)), "{text}");
    // What removes something wants the name first.
    desk.key('g');
    assert_eq!(desk.key('e'), []);
    for c in "TABLE public.old_prices".chars() {
        desk.key(c);
    }
    assert_eq!(desk.code(KeyCode::Enter), ordered(vec![sql(0)]));
    // The last one has none.
    desk.key('G');
    assert_eq!(desk.key('e'), []);
    assert!(desk.app.view.message.is_some());
}

#[test]
fn the_filter_takes_letters_and_pasted_text() {
    let mut desk = Desk::new(fixture::copy());
    desk.app.on_paste("nothing yet");
    desk.key('/');
    desk.key('q');
    desk.code(KeyCode::Backspace);
    desk.app.on_paste("ord\n");
    desk.key('e');
    desk.code(KeyCode::Enter);
    assert_eq!(desk.app.view.rows(Stage::Copy, &desk.story.state), ["public.order_items", "public.orders"]);
    desk.code(KeyCode::Esc);
    assert_eq!(desk.app.view.rows(Stage::Copy, &desk.story.state).len(), 10);
}

#[test]
fn showing_another_stage_and_following_again() {
    let mut desk = Desk::new(fixture::copy());
    desk.key('3');
    assert_eq!(desk.app.view.shown(&desk.story.state), Stage::Schema);
    desk.key('0');
    desk.story.then(0, Event::StageChanged { stage: Stage::CatchUp, state: StageState::Running });
    assert_eq!(desk.app.view.shown(&desk.story.state), Stage::CatchUp);
    // One key out of every overlay.
    for key in ['L', '?'] {
        desk.key(key);
        assert!(desk.app.view.overlay.is_some());
        desk.code(KeyCode::Esc);
        assert!(desk.app.view.overlay.is_none());
    }
    desk.code(KeyCode::Enter);
    assert_eq!(desk.app.view.overlay, Some(Overlay::Details));
    desk.code(KeyCode::Enter);
    assert_eq!(desk.app.view.overlay, None);
    desk.key('?');
    desk.key('q');
    assert!(desk.app.view.overlay.is_none() && desk.app.view.modal.is_none());
}

#[test]
fn text_is_copied_and_sql_is_written() {
    let mut desk = Desk::new(fixture::identity());
    let [Effect::Copy(text)] = &desk.key('y')[..] else { panic!() };
    assert_eq!(text, "alter table only \"public\".\"metrics\" replica identity full;\n");
    let [Effect::Write { file, text }] = &desk.key('w')[..] else { panic!() };
    assert_eq!((*file, text.lines().count()), ("identity.sql", 2));

    let mut desk = Desk::new(fixture::hypertables());
    select(&mut desk.app, Stage::Hypertables, "public.events");
    let [Effect::Copy(text)] = &desk.key('y')[..] else { panic!() };
    assert!(text.contains("create_hypertable") && text.contains("add primary key (id, created_at);"), "{text}");
    let [Effect::Copy(text)] = &Desk::new(fixture::catch_up()).key('y')[..] else { panic!() };
    assert!(text.contains("applied LSN"), "{text}");
    let mut desk = Desk::new(fixture::catch_up());
    select(&mut desk.app, Stage::CatchUp, "public.regions");
    assert_eq!(desk.key('y'), [Effect::Copy("create index concurrently on public.regions (name);\n".into())]);
}

#[test]
fn a_list_that_the_filter_empties_says_so_and_its_title_keeps_the_filter() {
    for (story, size) in [fixture::preflight, fixture::identity, fixture::schema, fixture::hypertables, fixture::copy].into_iter().zip([WIDE; 5]) {
        let mut app = fixture::app(false);
        app.view.filter = "nothing of this name".into();
        let screen = draw(&app, &story().state, size);
        assert!(screen.contains("Nothing matches the filter") && screen.contains("filter: nothing of this name"), "{screen}");
    }
}

#[test]
fn a_table_that_was_altered_comes_first_and_its_details_have_the_statement() {
    let mut s = fixture::catch_up();
    let (object, message, sql) = (table("regions").to_string(), "it was altered on the source", "alter table public.regions add column prio integer");
    s.then(0, Event::StatementFailed(FailedStatement { object, message: message.into(), sqlstate: None, sql: sql.into() }));
    s.failure(9, Stage::CatchUp, Subject::Table(table("regions")), &format!("{message}. {}", "Run on the target: a long statement; ".repeat(20)));
    let mut app = fixture::app(false);
    for size in [WIDE, NARROW] {
        app.view.overlay = None;
        let screen = draw(&app, &s.state, size);
        let first = screen.lines().find(|l| l.contains('›')).unwrap();
        assert!(first.contains("public.regions") && first.contains("ALTERED"), "{screen}");
        let band: Vec<_> = screen.lines().filter(|l| l.starts_with('┃')).collect();
        assert!(band[band.len() - 2].ends_with('…') && band[band.len() - 1].contains("enter details"), "{screen}");
        app.view.overlay = Some(Overlay::Details);
        let details = draw(&app, &s.state, size);
        assert!(details.contains(sql) && details.contains("r continues"), "{details}");
    }
}

#[test]
fn what_blocks_a_conversion_is_readable_and_no_statement_is_shown_that_will_not_run() {
    let mut s = fixture::hypertables();
    let mut candidates = fixture::candidates();
    let events = candidates.iter_mut().find(|c| c.table == table("events")).unwrap();
    events.keys[0].obstacle = Some("a foreign key points at it, which needs it as it is".into());
    s.then(0, Event::CandidatesListed { candidates });
    let why = "public.events: key events_pkey: a foreign key points at it, which needs it as it is";
    s.prompt(4, Stage::Hypertables, PromptKind::Continue, "3 tables become hypertables, 4 stay plain. Nothing runs until you press c.", Some(why));
    let mut app = fixture::app(false);
    select(&mut app, Stage::Hypertables, "public.events");
    for (swapped, size) in [(false, WIDE), (true, NARROW)] {
        app.view.swapped = swapped;
        let screen = draw(&app, &s.state, size);
        let words = screen.replace(['┃', '│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("Not yet: {why}.")) && words.contains("key events_pkey, and cannot be added: a foreign key"), "{screen}");
        assert!(!screen.contains("create_hypertable") && !screen.contains("add primary key"), "{screen}");
    }
}

#[test]
fn what_the_target_refused_is_in_its_row_and_what_it_will_not_have_in_the_editor() {
    let mut s = fixture::hypertables();
    let mut candidates = fixture::candidates();
    let events = candidates.iter_mut().find(|c| c.table == table("events")).unwrap();
    events.refused = Some("TRIGGER public.events each_row: not supported (0A000)".into());
    events.remarks = vec!["TRIGGER public.events off: left out, because it is disabled".into()];
    events.functions_in = "timescaledb".into();
    s.then(0, Event::CandidatesListed { candidates });
    let mut app = fixture::app(false);
    select(&mut app, Stage::Hypertables, "public.events");
    let screen = draw(&app, &s.state, WIDE);
    let row = screen.lines().find(|l| l.contains('›')).unwrap();
    assert!(row.contains("[x] public.events") && row.contains("refused: TRIGGER"), "{screen}");
    app.view.overlay = Some(Overlay::Details);
    let details = draw(&app, &s.state, WIDE);
    for part in
        ["The target refused it when it was tried: TRIGGER public.events each_row", "off: left out", "select \"timescaledb\".create_hypertable("]
    {
        assert!(details.contains(part), "{part}: {details}");
    }
}
