//! Boxes that want an answer first: quitting, and typing a name.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Clear};

use crate::{
    event::TableState,
    state::State,
    ui::{
        screens::progress,
        theme::Role,
        view::{Modal, NamePurpose, Proposals, View},
        widgets::text::{self, pane, width, wrap},
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    match &view.modal {
        None => {}
        Some(Modal::Quit) => quit(frame, area, state, view),
        Some(Modal::Name { purpose, input }) => {
            let (title, what) = match purpose {
                NamePurpose::Skip(_, object) => {
                    ("SKIP", format!("The migration continues without {object}: what is missing there stays missing on the target."))
                }
                NamePurpose::CopyAgain(table) => (
                    "COPY AGAIN",
                    format!("{table} is emptied on the target and copied again. The other tables are replayed meanwhile; the cutover waits for it."),
                ),
                NamePurpose::InsertOnly(table) => {
                    let moved = if state.identity.rows.iter().any(|r| r.table == *table && r.partitioned) {
                        " A row that an UPDATE moves to another partition will be there twice."
                    } else {
                        ""
                    };
                    ("INSERT-ONLY", format!("UPDATE and DELETE of {table} will not reach the target from now on.{moved} i takes it back."))
                }
                NamePurpose::Remove { sql, .. } => ("RUN ON THE TARGET", format!("It removes rows or values, as the source has done: {sql}")),
                NamePurpose::SettleAll(proposals) => ("REPLICA IDENTITY OF ALL OPEN TABLES", settle_all(*proposals)),
            };
            let mut lines: Vec<_> = wrap(&what, inner_width(area)).into_iter().map(Line::raw).collect();
            lines.push(Line::default());
            let asked = if matches!(purpose, NamePurpose::SettleAll(_)) { "the number of tables" } else { "its name" };
            lines.push(Line::raw(format!("Type {asked} to confirm: {}", purpose.name())));
            lines.push(Line::styled(format!("{} {}_", view.symbols.cursor, input.value()), view.style(Role::Focus)));
            lines.push(Line::default());
            lines.push(Line::styled("[ enter  when it is typed ]    [ esc  back ]", view.style(Role::Attention)));
            boxed(frame, area, title, lines, view);
        }
    }
}

fn settle_all(Proposals { full, index, left }: Proposals) -> String {
    let tables = |n: usize| if n == 1 { "1 table".to_owned() } else { format!("{n} tables") };
    let full = (full > 0).then(|| format!("REPLICA IDENTITY FULL on {}, whose changed rows are then written whole to WAL", tables(full)));
    let index = (index > 0).then(|| format!("REPLICA IDENTITY USING INDEX on {}", tables(index)));
    let both = full.into_iter().chain(index).collect::<Vec<_>>().join("; ");
    let open = if left > 0 {
        format!(" {} {} open, because only insert-only is possible.", tables(left), if left == 1 { "stays" } else { "stay" })
    } else {
        String::new()
    };
    format!("ALTER TABLE will set on the source: {both}. hyperlift clean undoes it.{open}")
}

fn inner_width(area: Rect) -> usize {
    usize::from(area.width.saturating_sub(10)).min(76)
}

fn quit(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let room = inner_width(area);
    let mut lines = Vec::new();
    let mut say = |text: &str, role| lines.extend(wrap(text, room).into_iter().map(|l| Line::styled(l, view.style(role))));
    if state.is_running() {
        say(&format!("The migration runs: {}.", progress(state)), Role::Busy);
        let copying = state.tables.count(TableState::Copying);
        let indexing = state.tables.count(TableState::Indexing);
        if copying > 0 {
            say(&format!("  {copying} being copied: these copies start again when it is continued"), Role::Plain);
        }
        if indexing > 0 {
            say(&format!("  {indexing} being indexed: the builds that run now start again"), Role::Plain);
        }
        if let Some(slot) = &state.replay.slot {
            say(&format!("  slot {slot} stays on the source and retains WAL until then"), Role::Plain);
        }
        if state.cutover.running {
            say("  the cutover is aborted, if that is still possible", Role::Attention);
        }
        say(&format!("Continue later: the same command, with --dir {}", state.dir), Role::Plain);
        say("In tmux you can leave without stopping: ctrl-b d detaches, tmux attach comes back.", Role::Dim);
    } else {
        say("Nothing runs.", Role::Plain);
    }
    lines.push(Line::default());
    lines.push(Line::styled("[ q  stop safely ]    [ esc  stay ]", view.style(Role::Attention)));
    boxed(frame, area, "QUIT?", lines, view);
}

fn boxed(frame: &mut Frame, area: Rect, title: &str, lines: Vec<Line<'static>>, view: &View) {
    let columns = lines.iter().map(Line::width).max().unwrap_or(0).max(width(title) + 6);
    let width = (columns as u16 + 6).min(area.width);
    let height = (lines.len() as u16 + 4).min(area.height);
    let at = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, at);
    let inner = pane(frame, at, title, "", Role::Attention, view);
    let inner =
        Rect { x: inner.x + 2, y: inner.y + 1.min(inner.height), width: inner.width.saturating_sub(4), height: inner.height.saturating_sub(1) };
    text::lines(frame, inner, lines);
}
