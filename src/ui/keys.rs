//! The one table of keys. The key line, the help and the dispatch of key presses come from it.
//!
//! A letter means the same on every screen; a test keeps it so.

mod key;

pub use self::key::Key;
use crate::event::Stage;

/// Where keys are pressed: a stage's screen, something laid over it, or a modal box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    Stage(Stage),
    Details,
    Differences,
    Log,
    Help,
    CutoverBox,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    ShowStage,
    Follow,
    Help,
    Log,
    Down,
    Up,
    PageDown,
    PageUp,
    Top,
    Bottom,
    Details,
    Differences,
    Run,
    Filter,
    Sort,
    Swap,
    Mark,
    All,
    NoneMarked,
    OneTable,
    NextField,
    Previous,
    Next,
    IdentityFull,
    IdentityIndex,
    InsertOnly,
    Continue,
    OpenCutover,
    Confirm,
    Abort,
    Retry,
    Skip,
    CopyAgain,
    Recheck,
    Pause,
    MoreJobs,
    FewerJobs,
    Copy,
    Write,
    Back,
    Redraw,
    Quit,
    Interrupt,
}

pub struct Binding {
    pub keys: &'static [Key],
    pub action: Action,
    /// It asks something of the engine: of no use once the run has ended.
    pub orders: bool,
    pub contexts: &'static [Context],
    /// As the key line and the help write it.
    pub label: &'static str,
    /// For the key line; empty: only in the help.
    pub hint: &'static str,
    pub help: &'static str,
}

use Context::{CutoverBox, Details, Differences, Help, Log, Quit};
use Key::{Char, Ctrl};
use Stage::{CatchUp, Copy, Cutover, Done, Hypertables, Identity, Preflight, Schema, Verify};

const fn on(stage: Stage) -> Context {
    Context::Stage(stage)
}

const STAGES: &[Context] = &[
    on(Preflight),
    on(Identity),
    on(Schema),
    on(Hypertables),
    on(Copy),
    on(CatchUp),
    on(Verify),
    on(Cutover),
    on(Done),
    Details,
    Differences,
    Log,
    Help,
];
const EVERYWHERE: &[Context] = &[
    on(Preflight),
    on(Identity),
    on(Schema),
    on(Hypertables),
    on(Copy),
    on(CatchUp),
    on(Verify),
    on(Cutover),
    on(Done),
    Details,
    Differences,
    Log,
    Help,
    CutoverBox,
    Quit,
];
/// The band asks about a failure on every screen, and under the box while the cutover runs.
const FAILURES: &[Context] = match EVERYWHERE.split_last() {
    Some((Quit, all_but_quit)) => all_but_quit,
    _ => EVERYWHERE,
};
const LISTS: &[Context] =
    &[on(Preflight), on(Identity), on(Schema), on(Hypertables), on(Copy), on(CatchUp), on(Done), Details, Differences, Log, Help];
const ROWS: &[Context] = &[on(Preflight), on(Identity), on(Schema), on(Hypertables), on(Copy), on(CatchUp)];
const STAGES_AND_DETAILS: &[Context] =
    &[on(Preflight), on(Identity), on(Schema), on(Hypertables), on(Copy), on(CatchUp), on(Verify), on(Cutover), on(Done), Details];

/// In the order of the key line: what this screen is for first.
pub static TABLE: &[Binding] = &[
    Binding {
        keys: &[Char('Y')],
        action: Action::Confirm,
        orders: true,
        contexts: &[CutoverBox],
        label: "Y",
        hint: "cut over",
        help: "confirm the cutover",
    },
    Binding {
        keys: &[Char('x')],
        action: Action::Abort,
        orders: true,
        contexts: &[CutoverBox],
        label: "x",
        hint: "abort",
        help: "go back from the cutover, up to its last step",
    },
    Binding {
        keys: &[Char('c')],
        action: Action::Continue,
        orders: true,
        contexts: STAGES,
        label: "c",
        hint: "continue",
        help: "continue, when a prompt asks for it; with green gates: open the cutover box",
    },
    Binding {
        keys: &[Char('C')],
        action: Action::OpenCutover,
        orders: true,
        contexts: &[on(CatchUp), on(Verify), on(Cutover)],
        label: "C",
        hint: "cutover",
        help: "open the cutover box",
    },
    Binding {
        keys: &[Char('r')],
        action: Action::Retry,
        orders: true,
        contexts: FAILURES,
        label: "r",
        hint: "retry",
        help: "try what failed again; after a late write: drain again",
    },
    Binding {
        keys: &[Char('K')],
        action: Action::Skip,
        orders: true,
        contexts: FAILURES,
        label: "K",
        hint: "skip",
        help: "go on without it, or accept that the table differs (asks for its name)",
    },
    Binding {
        keys: &[Char('T')],
        action: Action::CopyAgain,
        orders: true,
        contexts: &[on(CatchUp)],
        label: "T",
        hint: "copy again",
        help: "empty the table on the target and copy it again, while the others are replayed (asks for its name)",
    },
    Binding {
        keys: &[Char('f')],
        action: Action::IdentityFull,
        orders: true,
        contexts: &[on(Identity)],
        label: "f",
        hint: "full",
        help: "REPLICA IDENTITY FULL",
    },
    Binding {
        keys: &[Char('u')],
        action: Action::IdentityIndex,
        orders: true,
        contexts: &[on(Identity)],
        label: "u",
        hint: "index",
        help: "REPLICA IDENTITY USING INDEX (h/l: another index)",
    },
    Binding {
        keys: &[Char('i')],
        action: Action::InsertOnly,
        orders: true,
        contexts: &[on(Identity)],
        label: "i",
        hint: "insert-only",
        help: "insert-only: UPDATE and DELETE do not reach the target (asks for the name)",
    },
    Binding { keys: &[Char('e')], action: Action::Run, orders: true, contexts: &[Differences], label: "e", hint: "run", help: "run the statement" },
    Binding {
        keys: &[Char('t')],
        action: Action::Swap,
        orders: false,
        contexts: &[on(Identity), on(Hypertables), on(Copy), on(CatchUp)],
        label: "t",
        hint: "other pane",
        help: "on a small screen: list, or details and graphs",
    },
    Binding {
        keys: &[Char(' ')],
        action: Action::Mark,
        orders: true,
        contexts: &[on(Hypertables)],
        label: "space",
        hint: "select",
        help: "convert this table, or keep it plain",
    },
    Binding {
        keys: &[Key::Tab, Key::BackTab],
        action: Action::NextField,
        orders: false,
        contexts: &[on(Hypertables)],
        label: "tab",
        hint: "field",
        help: "next field",
    },
    Binding {
        keys: &[Char('h'), Key::Left],
        action: Action::Previous,
        orders: false,
        contexts: &[on(Identity), on(Hypertables)],
        label: "h",
        hint: "",
        help: "previous value of the field",
    },
    Binding {
        keys: &[Char('l'), Key::Right],
        action: Action::Next,
        orders: false,
        contexts: &[on(Identity), on(Hypertables)],
        label: "h/l",
        hint: "change",
        help: "next value of the field",
    },
    Binding {
        keys: &[Char('a')],
        action: Action::All,
        orders: true,
        contexts: &[on(Identity), on(Hypertables), Differences],
        label: "a",
        hint: "all proposed",
        help: "do all that is proposed: replica identities, hypertables (time + append-only), statements that remove nothing",
    },
    Binding {
        keys: &[Char('n')],
        action: Action::NoneMarked,
        orders: true,
        contexts: &[on(Hypertables)],
        label: "n",
        hint: "none",
        help: "keep all tables plain",
    },
    Binding {
        keys: &[Char('m')],
        action: Action::OneTable,
        orders: true,
        contexts: &[on(Hypertables)],
        label: "m",
        hint: "one table",
        help: "a partitioned table becomes one plain table, or keeps its partitions",
    },
    Binding {
        keys: &[Char('R')],
        action: Action::Recheck,
        orders: true,
        contexts: &[on(Preflight), on(Identity), on(Hypertables)],
        label: "R",
        hint: "check again",
        help: "run the checks of this stage again",
    },
    Binding {
        keys: &[Char('p')],
        action: Action::Pause,
        orders: true,
        contexts: &[on(Copy), on(CatchUp)],
        label: "p",
        hint: "pause",
        help: "pause or resume the work of this stage",
    },
    Binding {
        keys: &[Char('+'), Char('=')],
        action: Action::MoreJobs,
        orders: true,
        contexts: &[on(Copy)],
        label: "+",
        hint: "",
        help: "one more copy job",
    },
    Binding {
        keys: &[Char('-')],
        action: Action::FewerJobs,
        orders: true,
        contexts: &[on(Copy)],
        label: "+/-",
        hint: "jobs",
        help: "one copy job fewer",
    },
    Binding { keys: &[Char('j'), Key::Down], action: Action::Down, orders: false, contexts: LISTS, label: "j/k", hint: "move", help: "down" },
    Binding { keys: &[Char('k'), Key::Up], action: Action::Up, orders: false, contexts: LISTS, label: "k", hint: "", help: "up" },
    Binding { keys: &[Key::PageDown], action: Action::PageDown, orders: false, contexts: LISTS, label: "PgDn", hint: "", help: "ten rows down" },
    Binding { keys: &[Key::PageUp], action: Action::PageUp, orders: false, contexts: LISTS, label: "PgUp", hint: "", help: "ten rows up" },
    Binding { keys: &[Char('g'), Key::Home], action: Action::Top, orders: false, contexts: LISTS, label: "g", hint: "", help: "first row" },
    Binding { keys: &[Char('G'), Key::End], action: Action::Bottom, orders: false, contexts: LISTS, label: "G", hint: "", help: "last row" },
    Binding {
        keys: &[Key::Enter],
        action: Action::Details,
        orders: false,
        contexts: STAGES_AND_DETAILS,
        label: "enter",
        hint: "details",
        help: "details of the row (never a confirmation)",
    },
    Binding {
        keys: &[Char('/')],
        action: Action::Filter,
        orders: false,
        contexts: ROWS,
        label: "/",
        hint: "filter",
        help: "filter; enter keeps it, esc clears it",
    },
    Binding {
        keys: &[Char('o')],
        action: Action::Sort,
        orders: false,
        contexts: &[on(Copy), on(CatchUp)],
        label: "o",
        hint: "sort",
        help: "another order",
    },
    Binding {
        keys: &[Char('1'), Char('2'), Char('3'), Char('4'), Char('5'), Char('6'), Char('7'), Char('8'), Char('9')],
        action: Action::ShowStage,
        orders: false,
        contexts: STAGES,
        label: "1-9",
        hint: "stages",
        help: "show a stage",
    },
    Binding {
        keys: &[Char('0')],
        action: Action::Follow,
        orders: false,
        contexts: STAGES,
        label: "0",
        hint: "follow",
        help: "follow the running stage",
    },
    Binding {
        keys: &[Char('D')],
        action: Action::Differences,
        orders: false,
        contexts: STAGES,
        label: "D",
        hint: "schema",
        help: "what differs in the schemas",
    },
    Binding { keys: &[Char('L')], action: Action::Log, orders: false, contexts: STAGES, label: "L", hint: "log", help: "the log" },
    Binding {
        keys: &[Char('y')],
        action: Action::Copy,
        orders: false,
        contexts: STAGES,
        label: "y",
        hint: "copy",
        help: "copy what is shown (SQL, error, LSNs) as text",
    },
    Binding {
        keys: &[Char('w')],
        action: Action::Write,
        orders: false,
        contexts: &[on(Preflight), on(Identity), on(Schema), on(Hypertables), Details, Differences],
        label: "w",
        hint: "write SQL",
        help: "write the SQL of this screen to a file in sql/",
    },
    Binding { keys: &[Key::Esc], action: Action::Back, orders: false, contexts: EVERYWHERE, label: "esc", hint: "", help: "back one level, close" },
    Binding {
        keys: &[Ctrl('l')],
        action: Action::Redraw,
        orders: false,
        contexts: EVERYWHERE,
        label: "ctrl-l",
        hint: "",
        help: "draw everything again",
    },
    Binding { keys: &[Char('?')], action: Action::Help, orders: false, contexts: STAGES, label: "?", hint: "help", help: "this help" },
    Binding {
        keys: &[Char('q')],
        action: Action::Quit,
        orders: false,
        contexts: EVERYWHERE,
        label: "q",
        hint: "quit",
        help: "quit: asks first, then stops safely; the migration can be continued",
    },
    Binding {
        keys: &[Ctrl('c')],
        action: Action::Interrupt,
        orders: false,
        contexts: EVERYWHERE,
        label: "ctrl-c",
        hint: "",
        help: "asks; again: stops safely; a third time within 8 s: ends immediately",
    },
];

/// What a key does in a context.
pub fn find(context: Context, key: Key) -> Option<Action> {
    TABLE.iter().find(|b| b.contexts.contains(&context) && b.keys.contains(&key)).map(|b| b.action)
}

/// Whether an action asks something of the engine.
pub fn orders(action: Action) -> bool {
    TABLE.iter().any(|b| b.action == action && b.orders)
}

/// The bindings of a context, in the order of the key line.
pub fn of(context: Context) -> impl Iterator<Item = &'static Binding> {
    TABLE.iter().filter(move |b| b.contexts.contains(&context))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
    use std::collections::HashMap;

    #[test]
    fn no_key_is_bound_twice_in_a_context_and_each_letter_has_one_meaning() {
        let mut seen = HashMap::new();
        for binding in TABLE {
            for key in binding.keys {
                for context in binding.contexts {
                    assert_eq!(seen.insert((key, context), binding.action), None, "{key:?} twice in {context:?}");
                }
            }
        }
        let mut meaning = HashMap::new();
        for binding in TABLE {
            for key in binding.keys {
                let action = *meaning.entry(key).or_insert(binding.action);
                assert_eq!(action, binding.action, "{key:?} means two things");
            }
        }
    }

    #[test]
    fn every_context_can_be_left() {
        for context in EVERYWHERE {
            assert_eq!(find(*context, Char('q')), Some(Action::Quit));
            assert_eq!(find(*context, Ctrl('c')), Some(Action::Interrupt));
            assert_eq!(find(*context, Key::Esc), Some(Action::Back));
        }
    }

    #[test]
    fn releases_repeats_and_alt_do_not_count() {
        let mut event = KeyEvent::new(KeyCode::Char('Y'), KeyModifiers::SHIFT);
        assert_eq!(Key::read(&event), Some(Char('Y')));
        event.kind = KeyEventKind::Repeat;
        assert_eq!(Key::read(&event), None);
        event.kind = KeyEventKind::Release;
        assert_eq!(Key::read(&event), None);
        assert_eq!(Key::read(&KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT)), None);
        assert_eq!(Key::read(&KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Ctrl('c')));
    }
}
