//! What a check says: a verdict, a sentence, and what to do about it.

use crate::event::Verdict;

/// Objects named in a sentence.
const NAMED: usize = 5;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// What was found, and what it means.
    pub sentence: String,
    /// What to do about it; often SQL.
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(sentence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, sentence: sentence.into(), fix: None }
    }

    pub fn warn(sentence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, sentence: sentence.into(), fix: Some(fix.into()) }
    }

    pub fn fail(sentence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, sentence: sentence.into(), fix: Some(fix.into()) }
    }

    /// Ok, or a failure with its fix.
    pub fn require(ok: bool, good: impl Into<String>, bad: impl Into<String>, fix: impl Into<String>) -> Self {
        if ok { Self::ok(good) } else { Self::fail(bad, fix) }
    }

    /// Ok, because the check has nothing to judge here.
    pub fn does_not_apply(why: &str) -> Self {
        Self::ok(format!("does not apply: {why}"))
    }
}

/// The first few names, and how many more there are.
pub fn first_few<S: AsRef<str>>(names: &[S]) -> String {
    let named = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{named} and {} more", names.len() - NAMED) } else { named }
}
