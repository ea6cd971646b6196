//! A migration of a shop with metrics, as recorded events at fixed times. Each function tells the story up to one moment.

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    event::{
        Candidate, Check, CopyFormat, CutoverStep, Endpoint, Event, Gate, Holder, IdentityRow, IdentityState, LaneStatus, Level, Prompt, PromptKind,
        RelationKind, RelationSummary, Stage, StageState, Stamped, Subject, TableState, TimeColumn, UniqueKey, Verdict,
    },
    lsn::Lsn,
    name::TableName,
    plan::{Hypertable, IdentityChoice, KeyChoice},
    state::State,
    ui::app::App,
};

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

pub fn table(name: &str) -> TableName {
    TableName::parse(&if name.contains('.') { name.to_owned() } else { format!("public.{name}") }).unwrap()
}

/// Largest first, as they are found.
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

/// The state and the clock of the story.
pub struct Story {
    pub state: State,
    at: i64,
}

impl Story {
    fn new() -> Self {
        Self { state: State::default(), at: "2026-03-01T10:00:00Z".parse::<Timestamp>().unwrap().as_second() }
    }

    /// So many seconds later, this happens.
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
    let target = Endpoint { address: "ts-cloud:5432/tsdb".into(), version: "16.4".into(), timescale: Some("2.17".into()) };
    (source, target)
}

fn check(name: &str, verdict: Verdict, sentence: &str, fix: Option<&str>) -> Event {
    Event::Checked { check: Check { name: name.into(), verdict, sentence: sentence.into(), fix: fix.map(str::to_owned) } }
}

pub fn starting() -> Story {
    let mut s = Story::new();
    let (source, target) = endpoints();
    let unknown = |e: &Endpoint| Endpoint { address: e.address.clone(), ..Endpoint::default() };
    s.then(0, Event::Opened { id: "a1".into(), dir: "a1".into(), source: unknown(&source), target: unknown(&target), resumed: false });
    s.stage(Stage::Preflight, StageState::Running);
    s.then(1, Event::Connected { source, target });
    s
}

pub fn preflight() -> Story {
    use Verdict::{Fail, Ok, Warn};
    let mut s = starting();
    s.then(1, Event::ChecksStarted);
    let checks = [
        check("connections", Ok, "source and target answer; TLS on both", None),
        check("versions", Ok, "PostgreSQL 16.4 to 16.4, TimescaleDB 2.17", None),
        check(
            "wal_level",
            Fail,
            "is replica; logical decoding needs logical. The source has to be restarted once for it.",
            Some("alter system set wal_level = 'logical';\n-- then restart the source"),
        ),
        check("replication slots", Ok, "2 of 10 in use", None),
        check("wal senders", Ok, "1 of 10 in use", None),
        check(
            "max_slot_wal_keep_size",
            Warn,
            "is 64 GB: a longer interruption loses the slot, and the migration has to begin anew",
            Some("alter system set max_slot_wal_keep_size = -1;\nselect pg_reload_conf();"),
        ),
        check("ownership", Ok, "shop_owner owns all 10 tables", None),
        check("target is empty", Ok, "tsdb holds nothing but extensions", None),
        check("disk", Warn, "310.0 GB free in a1: less than the source's size, the spool may grow large in a long copy", None),
        check("extensions", Ok, "pgcrypto, citext exist on the target", None),
        check("collations", Ok, "C.UTF-8 on both sides", None),
    ];
    for event in checks {
        s.then(0, event);
    }
    let relations = TABLES
        .iter()
        .map(|(name, bytes, rows)| RelationSummary { table: table(name), kind: RelationKind::Plain, bytes: *bytes, rows: *rows })
        .collect();
    s.then(0, Event::RelationsFound { relations });
    s.prompt(1, Stage::Preflight, PromptKind::Continue, "11 checks: 1 failed, 2 warned. What failed has to be settled first.", Some("1 failed"));
    s
}

fn identity_row(name: &str, current: &str, effect: &str, state: IdentityState, proposed: Option<IdentityChoice>, reason: &str) -> IdentityRow {
    let bytes = TABLES.iter().find(|(n, ..)| *n == name).unwrap().1;
    IdentityRow { table: table(name), bytes, current: current.into(), effect: effect.into(), proposed, indexes: vec![], state, reason: reason.into() }
}

pub fn identity_rows() -> Vec<IdentityRow> {
    use IdentityState::{Accepted, Applied, Ok, Open, Warn};
    let ok = "The primary key finds every changed row.";
    let mut rows = vec![
        identity_row(
            "metrics",
            "nothing usable",
            "lost",
            Open,
            Some(IdentityChoice::Full),
            "No primary key, no unique index on NOT NULL columns. In the publication as it is, UPDATE and DELETE would FAIL on the source. So it stays out until you choose:",
        ),
        identity_row(
            "events",
            "default (PK)",
            "ok, slow",
            Warn,
            None,
            "It will become a hypertable; its key must contain the time column, or UPDATE and DELETE on the target look into every chunk.",
        ),
        identity_row(
            "audit.log",
            "nothing usable",
            "lost",
            Accepted,
            Some(IdentityChoice::InsertOnly),
            "No primary key and no unique index; you accepted that UPDATE and DELETE are lost.",
        ),
        identity_row("order_items", "default (PK)", "ok", Ok, None, ok),
        identity_row("orders", "default (PK)", "ok", Ok, None, ok),
        identity_row(
            "sessions",
            "default, no PK",
            "lost",
            Open,
            Some(IdentityChoice::Index("sessions_key".into())),
            "No primary key, but unique indexes on NOT NULL columns that may serve.",
        ),
        identity_row("geo_blobs", "default (PK)", "ok", Ok, None, ok),
        identity_row("customers", "default (PK)", "ok", Ok, None, ok),
        identity_row(
            "products",
            "index products_sku",
            "ok",
            Applied,
            None,
            "REPLICA IDENTITY USING INDEX was set by this migration; clean takes it back.",
        ),
        identity_row("regions", "full", "ok, slow", Ok, None, "Every changed row is written whole to WAL."),
    ];
    rows[5].indexes = vec!["sessions_key".into(), "sessions_token_key".into()];
    rows
}

pub fn identity() -> Story {
    let mut s = preflight();
    s.then(20, check("wal_level", Verdict::Ok, "is logical", None));
    s.then(0, Event::PromptClosed { id: 1 });
    s.stage(Stage::Preflight, StageState::Done).stage(Stage::Identity, StageState::Running);
    s.then(1, Event::IdentityListed { rows: identity_rows() });
    s.prompt(
        2,
        Stage::Identity,
        PromptKind::Continue,
        "2 tables are still open. Settle them (f, u or i), or leave and fix them yourself, then R to check again.",
        Some("2 open"),
    );
    s
}

pub fn schema() -> Story {
    let mut s = identity();
    s.then(30, Event::PromptClosed { id: 2 });
    s.stage(Stage::Identity, StageState::Done).stage(Stage::Schema, StageState::Running);
    s.then(2, Event::SchemaProgress { done: 231, total: 412, object: "TABLE public.order_items".into() });
    s.then(
        0,
        Event::StatementFailed {
            object: "FUNCTION public.geo_distance".into(),
            message: "could not access file \"$libdir/postgis-3\": No such file or directory".into(),
            sqlstate: Some("58P01".into()),
            sql: "create function public.geo_distance(a geometry, b geometry)\n    returns double precision\n    language c immutable strict\n    as '$libdir/postgis-3', 'ST_Distance';".into(),
        },
    );
    let function = Subject::Object("FUNCTION public.geo_distance".into());
    s.failure(20, Stage::Schema, function, "could not access file \"$libdir/postgis-3\": No such file or directory (58P01)");
    s
}

fn column(name: &str, data_type: &str, days: u64) -> TimeColumn {
    let intervals = ["7 days", "1 day", "1 month"].map(str::to_owned).to_vec();
    TimeColumn { name: name.into(), data_type: data_type.into(), not_null: true, intervals, span: days * 86_400 }
}

pub fn candidates() -> Vec<Candidate> {
    let tz = "timestamp with time zone";
    let new = |name: &str, columns: Vec<TimeColumn>, primary: Option<&str>, why: &str, chosen: bool| {
        let (_, bytes, rows) = *TABLES.iter().find(|(n, ..)| *n == name).unwrap();
        let hypertable = columns.first().map(|c| Hypertable {
            table: table(name),
            time_column: c.name.clone(),
            chunk_interval: c.intervals[0].clone(),
            key: KeyChoice::Extend,
        });
        Candidate {
            table: table(name),
            bytes,
            rows,
            keys: primary
                .map(|c| UniqueKey { name: format!("{name}_pkey"), primary: true, columns: vec![c.into()], obstacle: None })
                .into_iter()
                .collect(),
            obstacle: columns.is_empty().then(|| "it has no column of time, date or whole numbers that grows".to_owned()),
            columns,
            proposed: why == "time + append-only",
            why: why.into(),
            chosen: hypertable.filter(|_| chosen),
            made: false,
            partitions: 0,
            one_table: false,
        }
    };
    vec![
        new("metrics", vec![column("ts", tz, 672)], None, "time + append-only", true),
        new(
            "events",
            vec![column("created_at", tz, 672), column("seen_at", "timestamp without time zone", 650)],
            Some("id"),
            "time + append-only",
            true,
        ),
        new("audit.log", vec![column("at", tz, 900)], None, "time + append-only", true),
        new("order_items", vec![], Some("id"), "", false),
        new("orders", vec![column("placed_at", tz, 2000)], Some("id"), "foreign keys point here", false),
        new("sessions", vec![column("started", tz, 90)], Some("token"), "updated often", false),
        new("geo_blobs", vec![], Some("id"), "", false),
    ]
}

pub fn hypertables() -> Story {
    let mut s = schema();
    s.then(4, Event::PromptClosed { id: 20 });
    s.then(0, Event::StatementSkipped { object: "FUNCTION public.geo_distance".into() });
    s.then(3, Event::SchemaProgress { done: 412, total: 412, object: String::new() });
    s.stage(Stage::Schema, StageState::Done).stage(Stage::Hypertables, StageState::Running);
    s.then(1, Event::CandidatesListed { candidates: candidates() });
    s.prompt(3, Stage::Hypertables, PromptKind::Continue, "3 tables become hypertables, 4 stay plain. Nothing runs until you press c.", None);
    s
}

fn copied(name: &str, state: TableState, part: f64, error: Option<&str>) -> Event {
    let (_, bytes, rows) = *TABLES.iter().find(|(n, ..)| *n == name).unwrap();
    let of = |n: u64| (n as f64 * part) as u64;
    Event::CopyProgress { table: table(name), state, rows: of(rows), bytes: of(bytes), error: error.map(str::to_owned) }
}

/// The largest table goes in parts; a type of the blobs comes from an extension.
fn begun(name: &str) -> Event {
    let format = if name == "geo_blobs" { CopyFormat::Text } else { CopyFormat::Binary };
    Event::CopyBegun { table: table(name), format, parts: if name == "metrics" { 64 } else { 1 } }
}

/// The slot waits for an old transaction of the application.
pub fn waiting() -> Story {
    let mut s = hypertables();
    s.then(9, Event::PromptClosed { id: 3 });
    for candidate in candidates().into_iter().filter_map(|c| c.chosen) {
        s.then(0, Event::HypertableCreated { hypertable: candidate });
    }
    s.stage(Stage::Hypertables, StageState::Done).stage(Stage::Copy, StageState::Running);
    s.then(0, Event::JobsChanged { table_jobs: 4, index_jobs: 2 });
    let holder =
        |pid, who: &str, state: &str, seconds, query: &str| Holder { pid, who: who.into(), state: state.into(), seconds, query: query.into() };
    s.then(
        5,
        Event::Waiting {
            what: "The slot".into(),
            holders: vec![
                holder(
                    4411,
                    "cron@shop nightly-report",
                    "idle in transaction",
                    3_725,
                    "select * from orders where placed_at > now() - interval '1 day'",
                ),
                holder(0, "xa-77120", "prepared", 90_312, ""),
            ],
        },
    );
    s
}

pub fn copy() -> Story {
    let mut s = waiting();
    s.then(61, Event::Waiting { what: "The slot".into(), holders: vec![] });
    s.then(1, Event::SlotCreated { slot: "hyperlift_a1".into(), lsn: Lsn(0x8_3E00_0000) });
    for name in ["metrics", "events", "orders", "customers", "products", "regions", "geo_blobs"] {
        s.then(0, begun(name));
    }
    s.then(1, copied("regions", TableState::Done, 1.0, None));
    s.then(14, copied("products", TableState::Waiting, 1.0, None));
    s.then(0, Event::IndexProgress { table: table("products"), done: 0, total: 4, building: vec![] });
    let error = "target: invalid byte sequence for encoding \"UTF8\": 0x00 (22021)";
    s.then(40, copied("geo_blobs", TableState::Failed, 0.37, Some(error)));
    s.failure(21, Stage::Copy, Subject::Table(table("geo_blobs")), &format!("copy: {error}"));
    s.then(11, copied("customers", TableState::Indexing, 1.0, None));
    s.then(0, Event::IndexProgress { table: table("customers"), done: 2, total: 5, building: vec!["customers_email_idx".into()] });
    s.then(0, begun("order_items"));
    for i in 1..=60_u64 {
        let part = i as f64 / 60.0;
        s.then(15, copied("metrics", TableState::Copying, 0.73 * part, None));
        s.then(0, copied("events", TableState::Copying, 0.41 * part, None));
        s.then(0, copied("orders", TableState::Copying, 0.88 * part, None));
        s.then(0, copied("order_items", TableState::Copying, 0.12 * part, None));
        let bytes = i * 1_500_000;
        s.then(0, Event::Received { lsn: Lsn(0x8_3E00_0000 + bytes * 2), bytes: bytes * 3, spool_bytes: bytes, disk_free: 310 * GB });
        s.then(0, Event::SlotChecked { wal_status: "reserved".into(), safe_wal_bytes: Some(64 * GB) });
    }
    s
}

fn gates(open: bool, lag: &str) -> Event {
    let gate = |name: &str, passed, hard, detail: &str| Gate { name: name.into(), passed, hard, detail: detail.into() };
    Event::GatesChecked {
        gates: vec![
            gate("all tables copied", true, true, "10 of 10"),
            gate("nothing failed or diverged", true, true, "1 skipped"),
            gate("slot healthy", true, true, "reserved, 60.0 GB safe"),
            gate("all applied", !open, true, lag),
            gate("ANALYZE", !open, false, if open { "7 of 10" } else { "10 of 10" }),
            gate("verified", false, false, "not in this version"),
            gate("writers", false, false, "3: shop-api x2, cron"),
        ],
    }
}

pub fn catch_up() -> Story {
    let mut s = copy();
    s.then(30, Event::PromptClosed { id: 21 });
    s.then(0, copied("geo_blobs", TableState::Skipped, 0.37, None));
    for (name, ..) in TABLES.iter().filter(|t| t.0 != "geo_blobs") {
        s.then(2, copied(name, TableState::Done, 1.0, None));
        s.then(0, Event::IndexProgress { table: table(name), done: 3, total: 3, building: vec![] });
    }
    s.stage(Stage::Copy, StageState::Done).stage(Stage::CatchUp, StageState::Running);
    for i in 0..=120_u64 {
        let lag = 96 * MB - i * 700_000;
        let source = 0x8_4500_0000 + i * 10_000_000;
        let lag_ms = Some(lag / 2_000);
        let lane = |lane: u32| {
            // The last one has nothing to do, the third one waits for a lock.
            let lag = lag * u64::from(3 - lane) / 3;
            let held_up = (lane == 2).then(|| "canceling statement due to lock timeout (55P03)".to_owned());
            LaneStatus { lane, applied: Lsn(source - lag), lag, lag_ms: Some(lag / 2_000), waiting: lane == 3, held_up }
        };
        let lanes = (0..4).map(lane).collect();
        s.then(
            5,
            Event::Replayed {
                source: Lsn(source),
                received: Lsn(source - 4096),
                applied: Lsn(source - lag),
                lag,
                lag_ms,
                changes: i * 21_050,
                last_commit: Some(Timestamp::from_millisecond((s.at + 4) * 1000 + 118).unwrap()),
                source_time: Some(Timestamp::from_millisecond((s.at + 4) * 1000 + 530).unwrap()),
                lanes,
            },
        );
        s.then(0, Event::Received { lsn: Lsn(source), bytes: i * 9_700_000, spool_bytes: 412 * MB, disk_free: 300 * GB });
    }
    s.then(0, Event::Missed { table: table("sessions"), missed: 12 });
    for (name, [inserts, updates, deletes], [sets, in_order, full_row], missed) in [
        ("metrics", [4_812_400, 0, 0], [4_812_400, 0, 0], 0),
        ("orders", [11_208, 40_117, 12], [20_000, 31_337, 0], 0),
        ("sessions", [8_841, 17_002, 8_790], [34_600, 21, 0], 12),
        ("regions", [0, 1_204, 0], [0, 0, 1_204], 0),
    ] {
        s.then(0, Event::TableReplayed { table: table(name), inserts, updates, deletes, truncates: 0, sets, in_order, full_row, missed });
    }
    let reason = "each UPDATE and DELETE reads about 1 204 rows of the target: they are matched by the whole row (REPLICA IDENTITY FULL, no key)";
    let fix = "create index concurrently on public.regions (name);";
    s.then(0, Event::SlowedDown { table: table("regions"), reason: reason.into(), fix: fix.into() });
    s.then(0, Event::Notice { level: Level::Info, text: "lag under 30 MB: ANALYZE started".into() });
    s.then(0, Event::Analyzed { done: 7, total: 10, table: Some(table("order_items")) });
    s.then(0, gates(true, "15.9 MB behind"));
    s
}

/// Everything is applied; the cutover could begin.
pub fn level() -> Story {
    let mut s = catch_up();
    s.then(60, Event::Analyzed { done: 10, total: 10, table: None });
    let at = Lsn(0x8_4A9F_0110);
    let lanes = (0..4).map(|lane| LaneStatus { lane, applied: at, lag_ms: Some(0), waiting: true, ..LaneStatus::default() }).collect();
    s.then(
        0,
        Event::Replayed {
            source: at,
            received: at,
            applied: at,
            lag: 0,
            lag_ms: Some(0),
            changes: 2_526_000,
            last_commit: None,
            source_time: None,
            lanes,
        },
    );
    s.then(0, gates(false, "round trip 0.2 s"));
    s
}

pub fn cutover_box() -> Story {
    let mut s = level();
    s.then(5, Event::StageChanged { stage: Stage::Verify, state: StageState::Skipped });
    s.prompt(9, Stage::CatchUp, PromptKind::Cutover, "About 4 s of downtime: 18 sequences, 12 foreign keys and 9 triggers.", None);
    s
}

pub fn cutover_running() -> Story {
    let mut s = cutover_box();
    s.then(3, Event::PromptClosed { id: 9 });
    s.stage(Stage::CatchUp, StageState::Done).stage(Stage::Cutover, StageState::Running);
    s.then(0, Event::CutoverStarted { end: Some(Lsn(0x8_4A9F_0510)) });
    s.then(0, Event::CutoverStepped { step: CutoverStep::EndOfStream, done: true, detail: "8/4A9F0510".into() });
    s.then(2, Event::CutoverStepped { step: CutoverStep::Drain, done: false, detail: String::new() });
    s
}

pub fn late_write() -> Story {
    let mut s = cutover_running();
    s.then(1, Event::CutoverStepped { step: CutoverStep::Drain, done: true, detail: "1.2 s".into() });
    s.then(0, Event::CutoverStepped { step: CutoverStep::LateWrites, done: false, detail: String::new() });
    s.then(0, Event::LateWrite { table: table("orders"), lsn: Lsn(0x8_4A9F_0800) });
    s.prompt(10, Stage::Cutover, PromptKind::LateWrite, "public.orders was written after the end of the stream, by cron 10.0.3.9 (pid 4411).", None);
    s
}

pub fn done() -> Story {
    let mut s = cutover_running();
    for step in CutoverStep::ALL {
        s.then(0, Event::CutoverStepped { step, done: true, detail: String::new() });
    }
    s.then(1, Event::Completed { tables: 10, changes: 2_526_000, downtime_ms: 3_900 });
    s.stage(Stage::Cutover, StageState::Done).stage(Stage::Done, StageState::Running);
    s
}

pub fn done_with_late_write() -> Story {
    let mut s = done();
    s.then(8, Event::LateWrite { table: table("orders"), lsn: Lsn(0x8_4A9F_0800) });
    s
}

pub fn failed() -> Story {
    let mut s = copy();
    s.then(
        1,
        Event::Failed {
            message: "the slot hyperlift_a1 is lost: the source removed WAL that it needs (max_slot_wal_keep_size)".into(),
            hint: Some("raise max_slot_wal_keep_size, then begin anew with an empty target".into()),
        },
    );
    s
}

/// A dashboard with a fixed zone.
pub fn app(ascii: bool) -> App {
    App::new(ascii, false, TimeZone::UTC)
}
