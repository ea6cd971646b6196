//! The lines of the log pane.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, ops::Deref};

use crate::event::Level;

/// Lines that the screen keeps; the whole log is in the work directory.
const LINES: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub level: Level,
    pub text: String,
}

/// The newest lines, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log(VecDeque<LogLine>);

impl Deref for Log {
    type Target = VecDeque<LogLine>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Log {
    pub(super) fn add(&mut self, at: Timestamp, level: Level, text: impl Into<String>) {
        if self.0.len() >= LINES {
            self.0.pop_front();
        }
        self.0.push_back(LogLine { at, level, text: text.into() });
    }
}
