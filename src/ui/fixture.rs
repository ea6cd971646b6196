//! A migration of a shop with metrics, as recorded events at fixed times. Each function tells the story up to one moment, with the names
//! and sentences that the engine uses, so that the screens show nothing that cannot happen.

mod before_copy;
mod cutting_over;
mod moving;

use jiff::{Timestamp, tz::TimeZone};

pub use self::{before_copy::*, cutting_over::*, moving::*};
use crate::{
    event::{Endpoint, Event, Prompt, PromptKind, Stage, StageState, Stamped, Subject},
    lsn::Lsn,
    name::TableName,
    state::State,
    ui::app::App,
};

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

pub fn table(name: &str) -> TableName {
    TableName::parse(&if name.contains('.') { name.to_owned() } else { format!("public.{name}") }).unwrap()
}

/// Name, bytes and rows; the largest first, as they are found.
const TABLES: [(&str, u64, u64); 10] = [
    ("metrics", 203 * GB, 2_400_000_000),
    ("events", 75 * GB + 600 * MB, 610_000_000),
    ("audit.log", 64 * GB + 200 * MB, 400_000_000),
    ("order_items", 25 * GB + 400 * MB, 180_000_000),
    ("orders", 10 * GB, 41_000_000),
    ("sessions", 4 * GB, 22_000_000),
    ("geo_blobs", 2 * GB + 300 * MB, 90_000),
    ("customers", GB + 200 * MB, 5_200_000),
    ("products", 310 * MB, 420_000),
    ("regions", 2 * MB, 180),
];

fn size_of(name: &str) -> (u64, u64) {
    let (_, bytes, rows) = *TABLES.iter().find(|(n, ..)| *n == name).unwrap();
    (bytes, rows)
}

/// The state and the clock of the story.
pub struct Story {
    pub state: State,
    /// Seconds since 1970.
    at: i64,
}

impl Story {
    fn new() -> Self {
        Self { state: State::default(), at: "2026-03-01T10:00:00Z".parse::<Timestamp>().unwrap().as_second() }
    }

    /// This many seconds later, this happens.
    pub fn then(&mut self, seconds: i64, event: Event) -> &mut Self {
        self.at += seconds;
        self.state.apply(&Stamped { at: Timestamp::from_second(self.at).unwrap(), event });
        self
    }

    fn stage(&mut self, stage: Stage, state: StageState) -> &mut Self {
        self.then(0, Event::StageChanged { stage, state })
    }

    pub fn prompt(&mut self, id: u64, stage: Stage, kind: PromptKind, text: &str, blocked_by: Option<&str>) -> &mut Self {
        let prompt = Prompt { id, stage, kind, subject: None, text: text.into(), blocked_by: blocked_by.map(str::to_owned) };
        self.then(0, Event::PromptOpened { prompt })
    }

    pub fn failure(&mut self, id: u64, stage: Stage, subject: Subject, error: &str) -> &mut Self {
        let text = format!("{subject} failed: {error}");
        let prompt = Prompt { id, stage, kind: PromptKind::Failure, subject: Some(subject), text, blocked_by: None };
        self.then(0, Event::PromptOpened { prompt })
    }
}

fn endpoints() -> (Endpoint, Endpoint) {
    let source = Endpoint { address: "prod-db:5432/shop".into(), version: "16.4".into(), timescale: None };
    let target = Endpoint { address: "ts-cloud:5432/tsdb".into(), version: "16.4".into(), timescale: Some("2.17.2".into()) };
    (source, target)
}

pub fn starting() -> Story {
    let mut s = Story::new();
    let (source, target) = endpoints();
    let unknown = |e: &Endpoint| Endpoint { address: e.address.clone(), ..Endpoint::default() };
    let (id, dir) = ("k7m2qd".into(), "shop".into());
    s.then(0, Event::Opened { id, dir, source: unknown(&source), target: unknown(&target), resumed: false, analyze_below: 30 * MB });
    s.stage(Stage::Preflight, StageState::Running);
    s.then(1, Event::Connected { source, target });
    s
}

/// A dashboard with a fixed zone.
pub fn app(ascii: bool) -> App {
    App::new(ascii, false, TimeZone::UTC)
}

/// The slot's consistent point.
const SLOT_AT: Lsn = Lsn(0x8_3E00_0000);
