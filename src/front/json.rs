//! `--json`: every event as one line of JSON; while tables are copied and indexed, with the estimated time left.

use serde::Serialize;
use std::{io::Write, time::Duration};

use crate::{
    bus::EventStream,
    error::Result,
    event::{CopyProgress, Event, Stamped},
    state::State,
};

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    stamped: &'a Stamped,
    /// Of this table, until its last index is there; seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<u64>,
    /// Of all tables; seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_left_s: Option<u64>,
}

impl<'a> Line<'a> {
    fn of(stamped: &'a Stamped, state: &State) -> Self {
        let (left, total) = match &stamped.event {
            // Estimates go with progress: facts of many small tables need none.
            Event::CopyProgress(CopyProgress { table, .. }) | Event::IndexBuilding { table, .. } if stamped.event.is_progress() => {
                (state.table(table).and_then(|t| state.table_eta(t, stamped.at)), state.copy_eta(stamped.at))
            }
            _ => (None, None),
        };
        Self { stamped, left_s: left.as_ref().map(Duration::as_secs), total_left_s: total.as_ref().map(Duration::as_secs) }
    }
}

/// Prints events until the stream ends. The migration continues when nobody reads any more.
pub async fn run(mut stream: EventStream, mut out: impl Write + Send) -> Result<()> {
    let mut open = true;
    let mut state = State::default();
    while let Some(stamped) = stream.recv().await {
        state.apply(&stamped);
        if open {
            let mut line = serde_json::to_string(&Line::of(&stamped, &state))?;
            line.push('\n');
            open = out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stage;

    #[tokio::test]
    async fn a_line_for_each_event_reads_back() {
        let (events, stream) = tokio::sync::mpsc::unbounded_channel();
        let stamped = Stamped { at: jiff::Timestamp::UNIX_EPOCH, event: Event::Stopped { stage: Stage::Copy } };
        for _ in 0..2 {
            events.send(std::sync::Arc::new(stamped.clone())).unwrap();
        }
        drop(events);
        let mut out = Vec::new();
        run(stream, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.lines().next().unwrap(), r#"{"at":"1970-01-01T00:00:00Z","event":"stopped","stage":"copy"}"#);
        assert_eq!(serde_json::from_str::<Stamped>(text.lines().next().unwrap()).unwrap(), stamped);
    }
}
