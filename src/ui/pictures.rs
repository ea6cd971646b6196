//! Pictures of the screens for the documents: what the renderer puts into the cells of a terminal, as SVG.
//!
//! Only tests draw them. `make pictures` writes them to `assets/pictures`; a test fails when one of them is out of date.
//!
//! Lines, bars and braille become shapes, because no two fonts draw them alike. Other characters are text, in runs of one style, each
//! stretched to the width of its cells.

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};
use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use crate::{
    event::Stage,
    ui::{
        app::App,
        fixture::{self, Story},
    },
};

/// Size of a cell and of the margin around all cells, pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 16.0;
/// Of the text's line above the bottom of its cell.
const DESCENT: f64 = 5.0;

const CSS: &str = "\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;fill:currentColor}
path{fill:currentColor}.l{fill:none;stroke:currentColor;stroke-width:1.1;stroke-linecap:square;opacity:.65}
.o{fill:none;stroke:currentColor;stroke-width:3.2;stroke-linecap:round}.e{opacity:.25}
svg{color:#c9d1d9}.b{color:#f0f6fc;font-weight:700}.d{color:#7d8590}.u{text-decoration:underline}
.black{color:#0d1117}.red{color:#ff7b72}.green{color:#7ee787}.yellow{color:#e3b341}.blue{color:#79c0ff}.magenta{color:#d2a8ff}.cyan{color:#56d4dd}
";

/// Number with at most one decimal.
fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn x(column: f64) -> String {
    n(MARGIN + column * WIDTH)
}

fn y(row: f64) -> String {
    n(MARGIN + row * HEIGHT)
}

/// The CSS classes of a cell's colour and weight.
fn classes(cell: &Cell) -> String {
    let (weight, colour) = (cell.modifier, if cell.modifier.contains(Modifier::REVERSED) { Color::Black } else { cell.fg });
    let mut out = Vec::new();
    if weight.contains(Modifier::BOLD) {
        out.push("b");
    }
    if weight.contains(Modifier::DIM) {
        out.push("d");
    }
    if weight.contains(Modifier::UNDERLINED) {
        out.push("u");
    }
    out.extend(match colour {
        Color::Black => Some("black"),
        Color::Red => Some("red"),
        Color::Green => Some("green"),
        Color::Yellow => Some("yellow"),
        Color::Blue => Some("blue"),
        Color::Magenta => Some("magenta"),
        Color::Cyan => Some("cyan"),
        _ => None,
    });
    out.join(" ")
}

/// Which halves of a cell the lines of a box fill: left, right, up, down.
fn box_lines(symbol: &str) -> Option<[bool; 4]> {
    Some(match symbol {
        "─" => [true, true, false, false],
        "│" => [false, false, true, true],
        "┌" => [false, true, false, true],
        "┐" => [true, false, false, true],
        "└" => [false, true, true, false],
        "┘" => [true, false, true, false],
        _ => return None,
    })
}

/// Shapes by their CSS classes, as the data of paths.
type Shapes = BTreeMap<String, String>;

fn add(shapes: &mut Shapes, classes: &str, shape: &str, data: &str) {
    shapes.entry(format!("{classes} {shape}").trim().to_owned()).or_default().push_str(data);
}

/// Lines of boxes, from cell to cell in one stroke.
fn strokes(buffer: &Buffer, shapes: &mut Shapes) {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    // Begin, end and classes of the stroke that may continue.
    let mut stroke: Option<(f64, f64, String)> = None;
    let mut flush = |stroke: &mut Option<(f64, f64, String)>, across: f64, horizontal: bool| {
        if let Some((from, to, classes)) = stroke.take() {
            let data = if horizontal { format!("M{} {}H{}", x(from), y(across), x(to)) } else { format!("M{} {}V{}", x(across), y(from), y(to)) };
            add(shapes, &classes, "l", &data);
        }
    };
    let mut walk = |along: u16, across: u16, horizontal: bool| {
        let middle = f64::from(across) + 0.5;
        for i in 0..along {
            let cell = &buffer[if horizontal { (i, across) } else { (across, i) }];
            let halves = box_lines(cell.symbol()).map_or([false; 2], |[l, r, u, d]| if horizontal { [l, r] } else { [u, d] });
            for (half, drawn) in halves.into_iter().enumerate() {
                let from = f64::from(i) + 0.5 * half as f64;
                match &mut stroke {
                    Some((_, to, known)) if drawn && *known == classes(cell) => *to = from + 0.5,
                    _ => {
                        flush(&mut stroke, middle, horizontal);
                        stroke = drawn.then(|| (from, from + 0.5, classes(cell)));
                    }
                }
            }
        }
        flush(&mut stroke, middle, horizontal);
    };
    (0..rows).for_each(|row| walk(columns, row, true));
    (0..columns).for_each(|column| walk(rows, column, false));
}

/// A filled part of a cell: from the left and from above, width and height, in cells.
fn block(symbol: &str) -> Option<[f64; 4]> {
    const EIGHTHS: [&str; 7] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇"];
    match symbol {
        "┃" => Some([0.3, 0.0, 0.35, 1.0]),
        "█" | "░" => Some([0.0, 0.1, 1.0, 0.8]),
        _ => EIGHTHS.iter().position(|s| *s == symbol).map(|i| (i + 1) as f64 / 8.0).map(|part| [0.0, 0.9 - part * 0.8, 0.9, part * 0.8]),
    }
}

/// Bars and sparks, those beside each other as one.
fn blocks(buffer: &Buffer, shapes: &mut Shapes) {
    for row in 0..buffer.area.height {
        let mut column = 0;
        while column < buffer.area.width {
            let cell = &buffer[(column, row)];
            let Some([left, top, width, height]) = block(cell.symbol()) else {
                column += 1;
                continue;
            };
            let same = |c: &u16| width >= 1.0 && buffer[(*c, row)].symbol() == cell.symbol() && classes(&buffer[(*c, row)]) == classes(cell);
            let run = 1 + (column + 1..buffer.area.width).take_while(same).count();
            let (x0, y0) = (x(f64::from(column) + left), y(f64::from(row) + top));
            let (w, h) = (n((width + run as f64 - 1.0) * WIDTH), n(height * HEIGHT));
            add(shapes, &classes(cell), if cell.symbol() == "░" { "e" } else { "" }, &format!("M{x0} {y0}h{w}v{h}h-{w}z"));
            column += run as u16;
        }
    }
}

/// The dots of braille patterns.
fn dots(buffer: &Buffer, shapes: &mut Shapes) {
    /// Bits of the two columns, from the top.
    const BITS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    for (row, column) in (0..buffer.area.height).flat_map(|r| (0..buffer.area.width).map(move |c| (r, c))) {
        let cell = &buffer[(column, row)];
        let Some(pattern) = braille(cell) else { continue };
        for (i, bits) in BITS.iter().enumerate() {
            for (j, _) in bits.iter().enumerate().filter(|(_, bit)| pattern & **bit != 0) {
                let (cx, cy) = (f64::from(column) + 0.25 + 0.5 * i as f64, f64::from(row) + 0.125 + 0.25 * j as f64);
                add(shapes, &classes(cell), "o", &format!("M{} {}h0", x(cx), y(cy)));
            }
        }
    }
}

fn braille(cell: &Cell) -> Option<u32> {
    let c = cell.symbol().chars().next()? as u32;
    (0x2800..0x2900).contains(&c).then(|| c - 0x2800)
}

fn is_shape(cell: &Cell) -> bool {
    box_lines(cell.symbol()).is_some() || block(cell.symbol()).is_some() || braille(cell).is_some()
}

/// What is left is text. ASCII goes in runs; other characters go alone in the middle of their cell, because fonts disagree about their width.
fn texts(buffer: &Buffer, out: &mut String) {
    for row in 0..buffer.area.height {
        let cell = |column: u16| &buffer[(column, row)];
        let base = n(MARGIN + f64::from(row + 1) * HEIGHT - DESCENT);
        let mut column = 0;
        while column < buffer.area.width {
            let first = cell(column);
            if first.symbol() == " " || is_shape(first) {
                column += 1;
                continue;
            }
            let style = classes(first);
            let class = if style.is_empty() { String::new() } else { format!(" class=\"{style}\"") };
            if !first.symbol().is_ascii() {
                let _ =
                    writeln!(out, "<text x=\"{}\" y=\"{base}\" text-anchor=\"middle\"{class}>{}</text>", x(f64::from(column) + 0.5), first.symbol());
                column += 1;
                continue;
            }
            let in_run = |c: u16| c < buffer.area.width && cell(c).symbol().is_ascii() && classes(cell(c)) == style;
            let mut end = column + 1;
            // A single blank joins two words of one style, a gap does not.
            while in_run(end) && (cell(end).symbol() != " " || in_run(end + 1) && cell(end + 1).symbol() != " ") {
                end += 1;
            }
            let text: String = (column..end).map(|c| cell(c).symbol()).collect();
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let length = n(f64::from(end - column) * WIDTH);
            let (x0, fit) = (x(f64::from(column)), "lengthAdjust=\"spacingAndGlyphs\"");
            let _ = writeln!(out, "<text x=\"{x0}\" y=\"{base}\" textLength=\"{length}\" {fit}{class}>{text}</text>");
            column = end;
        }
    }
}

/// Cells in reverse video.
fn backgrounds(buffer: &Buffer, out: &mut String) {
    for row in 0..buffer.area.height {
        for column in (0..buffer.area.width).filter(|c| buffer[(*c, row)].modifier.contains(Modifier::REVERSED)) {
            let mut cell = buffer[(column, row)].clone();
            cell.modifier.remove(Modifier::REVERSED);
            let (x0, y0) = (x(f64::from(column)), y(f64::from(row)));
            let _ = writeln!(out, "<path class=\"{}\" d=\"M{x0} {y0}h{}v{}h-{}z\"/>", classes(&cell), n(WIDTH), n(HEIGHT), n(WIDTH));
        }
    }
}

/// A terminal's cells as a picture with this title.
fn svg(buffer: &Buffer, title: &str) -> String {
    let width = n(2.0 * MARGIN + f64::from(buffer.area.width) * WIDTH);
    let height = n(2.0 * MARGIN + f64::from(buffer.area.height) * HEIGHT);
    let mut out =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
    let _ = writeln!(out, "<title>{title}</title>\n<style>\n{CSS}</style>");
    let _ = writeln!(out, "<rect x=\".5\" y=\".5\" width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"#0d1117\" stroke=\"#30363d\"/>");
    backgrounds(buffer, &mut out);
    let mut shapes = Shapes::new();
    strokes(buffer, &mut shapes);
    blocks(buffer, &mut shapes);
    dots(buffer, &mut shapes);
    for (classes, data) in &shapes {
        let class = if classes.is_empty() { String::new() } else { format!(" class=\"{classes}\"") };
        let _ = writeln!(out, "<path{class} d=\"{data}\"/>");
    }
    texts(buffer, &mut out);
    out + "</svg>\n"
}

type Picture = (&'static str, &'static str, fn() -> Story, fn(&mut App), (u16, u16));

const WIDE: (u16, u16) = (120, 36);

fn follow(_: &mut App) {}

fn events(app: &mut App) {
    app.view.selected.insert(Stage::Hypertables, "public.events".into());
}

const PICTURES: &[Picture] = &[
    ("preflight", "Preflight: the checks before anything is changed", fixture::preflight, follow, WIDE),
    ("identity", "Identity: the replica identity of each table", fixture::identity, follow, WIDE),
    ("schema", "Schema: a statement that failed waits for the operator", fixture::schema, follow, WIDE),
    ("hypertables", "Hypertables: which tables are converted, and the statements", fixture::hypertables, events, WIDE),
    ("copy", "Copy: the tables with their progress", fixture::copying, follow, WIDE),
    ("copy_80x24", "Copy on a small terminal", fixture::copying, follow, (80, 24)),
    ("catch_up", "Catch-up: the lag, the rates and the gates before the cutover", fixture::catch_up, follow, WIDE),
    ("verify", "Verify: skipped in this version", fixture::catch_up, |app| app.view.stage = Some(Stage::Verify), WIDE),
    ("cutover_box", "The cutover box: what is confirmed, and what happens then", fixture::cutover_box, follow, WIDE),
    ("cutover", "Cutover: the steps while it runs", fixture::cutover_running, follow, WIDE),
    ("done", "Done: the summary and what to do next", fixture::done, follow, WIDE),
];

fn draw((_, title, story, prepare, (width, height)): &Picture) -> String {
    let mut app = fixture::app(false);
    prepare(&mut app);
    let mut terminal = Terminal::new(TestBackend::new(*width, *height)).unwrap();
    terminal.draw(|frame| app.render(frame, &story().state)).unwrap();
    svg(terminal.backend().buffer(), title)
}

#[test]
fn pictures_are_up_to_date() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/pictures"));
    let write = std::env::var_os("HYPERLIFT_WRITE_PICTURES").is_some();
    for picture in PICTURES {
        let (file, text) = (dir.join(picture.0).with_extension("svg"), draw(picture));
        if write {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(&file, text).unwrap();
        } else {
            let known = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(known == text, "{} is out of date: run `make pictures`, and view the result", file.display());
        }
    }
}
