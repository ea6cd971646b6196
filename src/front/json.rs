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
