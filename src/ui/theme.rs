//! Colours by what they mean, and the characters the screens are drawn with.
//!
//! Sixteen ANSI names only, no fixed background. Without colour the roles remain apart by bold, reverse and underline, and each
//! of them is carried by a word as well.

use ratatui::{
    style::{Color, Modifier, Style},
    symbols::border,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Plain,
    /// Cyan, not green: apart from red for red-green blindness.
    Ok,
    Busy,
    Attention,
    Failed,
    Dim,
    Focus,
    Chart1,
    Chart2,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Theme {
    /// No colours, only modifiers.
    pub mono: bool,
}

impl Theme {
    pub fn style(self, role: Role) -> Style {
        let style = Style::new();
        let colour = |c| if self.mono { style } else { style.fg(c) };
        match role {
            Role::Plain => style,
            Role::Ok | Role::Chart1 => colour(Color::Cyan),
            Role::Busy | Role::Focus => style.add_modifier(Modifier::BOLD),
            Role::Attention if self.mono => style.add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Role::Attention => colour(Color::Yellow).add_modifier(Modifier::BOLD),
            Role::Failed if self.mono => style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            Role::Failed => colour(Color::Red).add_modifier(Modifier::BOLD),
            Role::Dim => style.add_modifier(Modifier::DIM),
            Role::Chart2 => colour(Color::Magenta),
        }
    }
}

/// Every character outside of ASCII that the screens draw.
#[derive(Debug)]
pub struct Symbols {
    pub done: &'static str,
    pub running: &'static str,
    pub waiting: &'static str,
    pub skipped: &'static str,
    pub failed: &'static str,
    pub full: &'static str,
    pub empty: &'static str,
    /// At the left of the prompt band.
    pub band: &'static str,
    /// Marks the selected row.
    pub cursor: &'static str,
    pub arrow: &'static str,
    /// Around a value that can be changed.
    pub open: &'static str,
    pub close: &'static str,
    pub ellipsis: &'static str,
    pub dash: &'static str,
    pub down: &'static str,
    pub times: &'static str,
    /// A line across a chart.
    pub dots: &'static str,
    pub axis_x: &'static str,
    pub axis_y: &'static str,
    pub corner: &'static str,
    /// Charts are drawn in braille; else with asterisks.
    pub braille: bool,
    pub spark: &'static [&'static str; 8],
    pub border: border::Set<'static>,
}

pub static UNICODE: Symbols = Symbols {
    done: "✓",
    running: "▶",
    waiting: "·",
    skipped: "-",
    failed: "!",
    full: "█",
    empty: "░",
    band: "┃",
    cursor: "›",
    arrow: "→",
    open: "‹",
    close: "›",
    ellipsis: "…",
    dash: "—",
    down: "▾",
    times: "×",
    dots: "·",
    axis_x: "─",
    axis_y: "│",
    corner: "└",
    braille: true,
    spark: &["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    border: border::PLAIN,
};

pub static ASCII: Symbols = Symbols {
    done: "x",
    running: ">",
    waiting: ".",
    skipped: "-",
    failed: "!",
    full: "#",
    empty: "-",
    band: "|",
    cursor: ">",
    arrow: "->",
    open: "<",
    close: ">",
    ellipsis: "~",
    dash: "-",
    down: "v",
    times: "x",
    dots: ".",
    axis_x: "-",
    axis_y: "|",
    corner: "+",
    braille: false,
    spark: &["_", "_", ".", ".", "-", "-", "^", "^"],
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
};

/// The replacement for a character of a name or a message that ASCII does not have.
pub fn ascii_stand_in(symbol: &str) -> &'static str {
    match symbol {
        "—" | "–" => "-",
        "→" | "›" => ">",
        "…" => "~",
        "×" => "x",
        "·" => ".",
        "“" | "”" | "„" => "\"",
        "‘" | "’" => "'",
        _ => "?",
    }
}
