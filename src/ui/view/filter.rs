//! The filter of the lists.

use super::View;

impl View {
    /// Whether a row passes the filter by its name or by its state.
    pub(super) fn matches(&self, name: &impl std::fmt::Display, word: &str) -> bool {
        let wanted = self.filter.value().to_lowercase();
        wanted.is_empty() || name.to_string().to_lowercase().contains(&wanted) || word.to_lowercase().contains(&wanted)
    }

    /// `filter: geo`, for the title of a list.
    pub fn filter_text(&self) -> String {
        match (self.filtering, self.filter.value()) {
            (true, text) => format!("filter: {text}_"),
            (false, "") => String::new(),
            (false, text) => format!("filter: {text}"),
        }
    }

    /// Why a list is empty, when it would have rows without the filter; else `otherwise`.
    pub fn empty_list(&self, otherwise: &str) -> String {
        if self.filter.value().is_empty() { format!(" {otherwise}") } else { " Nothing matches the filter (/ changes it, esc clears it).".into() }
    }
}
