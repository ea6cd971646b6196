//! Whether the source still has the history that was received: a server that was put back to an older state has the same system identifier
//! and timeline, and its WAL may have grown past the old end since (I5).

use crate::{
    error::{Error, Result},
    lsn::Lsn,
    replay::spool::{Received, Transaction},
};

/// The end of the spool is compared with the beginning of a stream. After a crash of the source, the slot has forgotten what was confirmed
/// last, and what was received comes again. It comes again exactly as it was, or the source is another one.
#[derive(Debug, Default)]
pub struct HistoryCheck {
    /// `None` once everything was compared, or when there is nothing to compare.
    known: Option<Received>,
    /// The last transaction has to come again.
    awaited: bool,
}

impl HistoryCheck {
    /// `confirmed`: the slot streams everything that committed from there on.
    pub fn new(known: Option<Received>, confirmed: Lsn) -> Self {
        // What was confirmed does not come again. A slot that knows of it is of the same history.
        let known = known.filter(|known| known.up_to > confirmed);
        Self { awaited: known.and_then(|k| k.last).is_some_and(|last| last.commit >= confirmed), known }
    }

    /// Until then the slot must not move, because its position is the evidence.
    pub fn is_over(&self) -> bool {
        self.known.is_none()
    }

    /// Where the stream has to begin, for a spool that ends at `end`.
    pub fn start(&self, confirmed: Lsn, end: Lsn) -> Lsn {
        let Some(known) = self.known else { return end };
        known.last.map_or(confirmed, |last| last.commit).max(confirmed).min(end)
    }

    /// A transaction begins in the stream.
    pub fn begin(&mut self, begun: Transaction) -> Result<()> {
        let Some(known) = self.known else { return Ok(()) };
        if begun.commit >= known.up_to {
            return self.reach(begun.commit);
        }
        match known.last {
            Some(last) if begun == last => self.awaited = false,
            Some(last) if begun.commit < last.commit => {}
            Some(last) if begun.commit == last.commit => return Err(gone_back(&format!("another transaction commits at {}", begun.commit))),
            _ => {
                return Err(gone_back(&format!(
                    "a transaction commits at {} that was not there when the stream was read up to {}",
                    begun.commit, known.up_to
                )));
            }
        }
        Ok(())
    }

    /// Everything that committed before `lsn` has come.
    pub fn reach(&mut self, lsn: Lsn) -> Result<()> {
        let Some(known) = self.known.filter(|known| lsn >= known.up_to) else { return Ok(()) };
        if let Some(last) = known.last.filter(|_| self.awaited) {
            return Err(gone_back(&format!("the transaction that commits at {} is not there any more", last.commit)));
        }
        self.known = None;
        Ok(())
    }
}

/// The error for a source whose history is not the one that was received and copied.
pub fn gone_back(how: &str) -> Error {
    Error::refused(format!("the source has gone back: {how}"))
        .detail("it was restored from a backup or a snapshot, or another server took over before it had everything")
        .hint("what was copied and replayed may no longer be on the source: run `hyperlift clean`, empty the target and start again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(commit: u64, xid: u32) -> Transaction {
        Transaction { commit: Lsn(commit), xid, time: 1 }
    }

    fn check(last: Option<Transaction>, confirmed: u64) -> HistoryCheck {
        HistoryCheck::new(Some(Received { up_to: Lsn(100), last }), Lsn(confirmed))
    }

    #[test]
    fn a_stream_that_brings_what_was_received_is_of_the_same_source() {
        // The slot has all, or has forgotten some of it; with and without another transaction afterwards.
        for confirmed in [100, 51, 50, 20] {
            for next in [None, Some(transaction(100, 9))] {
                let mut check = check(Some(transaction(50, 7)), confirmed);
                for seen in [transaction(30, 6), transaction(50, 7)].into_iter().filter(|t| t.commit.0 >= confirmed) {
                    check.begin(seen).unwrap();
                    check.reach(Lsn(60)).unwrap();
                }
                assert_eq!(check.is_over(), confirmed == 100);
                match next {
                    None => check.reach(Lsn(100)).unwrap(),
                    Some(next) => check.begin(next).unwrap(),
                }
                assert!(check.is_over());
                check.begin(transaction(200, 10)).unwrap();
            }
        }
        let mut idle = check(None, 20);
        idle.reach(Lsn(100)).unwrap();
        assert!(idle.is_over());
    }

    #[test]
    fn a_stream_that_does_not_is_refused() {
        let other_time = Transaction { time: 2, ..transaction(50, 7) };
        for (other, confirmed) in
            [(transaction(50, 8), 20), (other_time, 20), (transaction(70, 8), 20), (transaction(70, 8), 60), (transaction(120, 9), 50)]
        {
            let refused = check(Some(transaction(50, 7)), confirmed).begin(other).unwrap_err();
            assert!(refused.exit_code() == 3 && refused.to_string().contains("gone back"), "{other:?} {confirmed}");
        }
        assert!(check(Some(transaction(50, 7)), 40).reach(Lsn(100)).is_err());
        assert!(check(None, 20).begin(transaction(70, 8)).is_err());
    }

    #[test]
    fn the_stream_begins_at_the_last_transaction_unless_the_slot_is_past_it() {
        let last = Some(transaction(50, 7));
        let start = |last, confirmed| check(last, confirmed).start(Lsn(confirmed), Lsn(110)).0;
        assert_eq!((start(last, 20), start(last, 60), start(last, 110), start(None, 20)), (50, 60, 110, 20));
        assert_eq!(HistoryCheck::default().start(Lsn(20), Lsn(110)), Lsn(110));
    }
}
