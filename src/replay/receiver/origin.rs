//! The source as the receiver knows it: where it is, and whether it is still the server with which the migration began (I5).

use std::{io::Write, path::Path, time::Duration};

use super::history::{HistoryCheck, gone_back};
use crate::{
    error::{Error, Kind, Result},
    lsn::Lsn,
    name::{ident, literal},
    pg::{
        client,
        connect::{conninfo::Conninfo, session::Side},
        publication::{self, Publications},
        slot,
        wire::Wire,
    },
    private,
    replay::spool::Received,
    sqlstate::{OBJECT_NOT_IN_PREREQUISITE_STATE, UNDEFINED_OBJECT},
};

/// The source is asked this long for the reason of an error.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to read from, and as whom.
#[derive(Clone)]
pub struct Origin {
    pub source: Conninfo,
    pub application_name: String,
    pub slot: String,
    pub publications: Vec<String>,
    /// The same as they were made, where that is known.
    pub recorded: Publications,
    /// `system_identifier` of the source when the migration began.
    pub system_id: String,
}

impl Origin {
    /// A connection on which the stream flows from the end of the spool in `dir` on, or from before it, to be compared with what was
    /// received. `copied`: the greatest WAL position at which a table was copied.
    pub async fn open_stream(&self, dir: &Path, end: Lsn, copied: Lsn) -> Result<(Wire, HistoryCheck)> {
        let mut wire = Wire::open_replication(&self.source, &self.application_name).await?;
        self.identify(&mut wire, dir, end.max(copied)).await?;
        // A huge transaction may keep the walsender from reading our status for longer than its default of a minute.
        wire.simple("set wal_sender_timeout = '5min'").await?;
        let confirmed = self.confirmed(&mut wire).await?.unwrap_or(end);
        if confirmed > end {
            return Err(Error::refused(format!("the spool in {} ends at {end}, but the slot was confirmed up to {confirmed}", dir.display()))
                .detail(
                    "transactions in between are lost to this migration: somebody has moved the slot, or the spool is not the one that was written",
                )
                .hint("restore the work directory, or run `hyperlift clean`, empty the target and start again"));
        }
        let history = HistoryCheck::new(Received::read(dir).filter(|received| received.up_to <= end), confirmed);
        let start = history.start(confirmed, end);
        let publications = self.publications.iter().map(|p| ident(p)).collect::<Vec<_>>().join(",");
        wire.start_replication(&format!(
            "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '1', publication_names {})",
            ident(&self.slot),
            literal(&publications).trim_start()
        ))
        .await?;
        Ok((wire, history))
    }

    /// Up to where the slot believes that we have everything; `None` when there is no such slot. While a session of before uses the slot,
    /// that may still take a status of ours.
    async fn confirmed(&self, wire: &mut Wire) -> Result<Option<Lsn>> {
        let sql = format!("select confirmed_flush_lsn, active from pg_replication_slots where slot_name = {}", literal(&self.slot));
        let rows = wire.simple(&sql).await?;
        let field = |n: usize| rows.first().and_then(|row| row.get(n)?.as_deref());
        if field(1) == Some("t") {
            return Err(Error::connection(format!("slot {} is in use by another session", self.slot)));
        }
        field(0).map(str::parse).transpose()
    }

    /// The error with which receiving ends: where the slot is lost or a publication is gone, that, in words that say what to do.
    pub async fn explain(&self, error: Error) -> Error {
        if !error.has_code(UNDEFINED_OBJECT) && !error.has_code(OBJECT_NOT_IN_PREREQUISITE_STATE) {
            return error;
        }
        // The servers' own words are in the language of the server.
        let ask = async {
            let client = client::connect(&self.source, Side::Source, &self.application_name).await?;
            match slot::slot(&client, &self.slot).await? {
                None => return Err(slot::gone(&self.slot)),
                Some(slot) => slot.check(&self.slot)?,
            }
            publication::unpublished(&client, &self.recorded).await
        };
        match tokio::time::timeout(EXPLAIN_TIMEOUT, ask).await {
            Ok(Err(found)) if found.kind == Kind::Refused => found,
            Ok(Ok(unpublished)) => publication::refusal(&unpublished).unwrap_or(error),
            _ => error,
        }
    }

    /// Another system is refused, and so is one that has gone back, or that left the old timeline, before `end` of what was received and
    /// copied.
    async fn identify(&self, wire: &mut Wire, dir: &Path, end: Lsn) -> Result<()> {
        let rows = wire.simple("IDENTIFY_SYSTEM").await?;
        let field = |n: usize| rows.first().and_then(|r| r.get(n).cloned().flatten()).unwrap_or_default();
        let (system, timeline, at) = (field(0), field(1).parse::<u32>().unwrap_or(0), field(2).parse::<Lsn>()?);
        if system != self.system_id {
            return Err(Error::refused(format!("the source is another server now: system identifier {system} instead of {}", self.system_id))
                .hint("connect to the server with which this migration began; a restored copy cannot continue it"));
        }
        if at < end {
            return Err(before(&format!("its WAL ends at {at}"), end));
        }
        // In the directory of the spool that was received on it, so that it outlives this process.
        let file = dir.join("timeline");
        let known = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(known) = known.filter(|known| *known != timeline) {
            let history = wire.simple(&format!("TIMELINE_HISTORY {timeline}")).await?;
            let text = history.first().and_then(|r| r.get(1).cloned().flatten()).unwrap_or_default();
            match branch_point(&text, known) {
                Some(branch) if branch >= end => {}
                Some(branch) => return Err(before(&format!("timeline {timeline} left timeline {known} at {branch}"), end)),
                None => return Err(before(&format!("timeline {timeline} does not come from timeline {known}"), end)),
            }
        }
        if known != Some(timeline) {
            let new = dir.join("timeline.new");
            let mut written = private::file().truncate(true).open(&new)?;
            written.write_all(timeline.to_string().as_bytes())?;
            written.sync_all()?;
            std::fs::rename(&new, &file)?;
        }
        Ok(())
    }
}

fn before(how: &str, end: Lsn) -> Error {
    gone_back(&format!("{how}, but what was received and copied goes up to {end}"))
}

/// Where a timeline ended, from a history file (PostgreSQL documentation 26.3.5): lines of timeline, LSN and reason.
fn branch_point(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut parts = line.split_whitespace();
        (parts.next()?.parse() == Ok(timeline)).then(|| parts.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_of_a_timeline_is_read_from_its_history() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t1/5000060\tbefore 2000-01-01\n";
        assert_eq!(
            (branch_point(history, 1), branch_point(history, 2), branch_point(history, 3)),
            (Some(Lsn(0x300_0000)), Some(Lsn((1 << 32) + 0x500_0060)), None)
        );
    }
}
