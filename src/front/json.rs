//! `--json`: every event as one line of JSON.

use std::io::Write;

use crate::{bus::EventStream, error::Result};

/// Prints events until the stream ends. A reader that has gone away does not stop the migration.
pub async fn run(mut stream: EventStream, mut out: impl Write + Send) -> Result<()> {
    let mut open = true;
    while let Some(stamped) = stream.recv().await {
        if open {
            let mut line = serde_json::to_string(&*stamped)?;
            line.push('\n');
            open = out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Stage, Stamped};

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
