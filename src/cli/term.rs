//! Writing to terminals and pipes.
//!
//! Text from other users is written to a terminal without control characters; a pipe or a file gets it unchanged,
//! except for line breaks where each line is a row. Colour is for terminals only, and never with NO_COLOR set or
//! TERM=dumb. A reader that closes the pipe (`phalanx events | head`) ends the program without an error. Not here: what
//! is written.

pub use crate::text::Pieces;
use crate::text::{self, is_obeyed};
use comfy_table::{CellAlignment, Table, presets};
use std::io::{self, IsTerminal, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of a terminal that one cell of a table may take; a longer one is cut.
const CELL_WIDTH_MAX: usize = 100;

/// The few colours in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Errors, lost nodes.
    Red,
    /// Healthy.
    Green,
    /// Degraded.
    Yellow,
    /// Advice.
    Cyan,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Colour::Red => "31",
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Cyan => "36",
        }
    }
}

/// Whether the environment allows colour at all.
fn allows_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Wraps `text` in a colour when `on`.
fn wrap(text: &str, colour: Colour, on: bool) -> String {
    if on { format!("\x1b[{}m{text}\x1b[0m", colour.code()) } else { text.to_string() }
}

/// For stdout.
pub fn paint(text: &str, colour: Colour) -> String {
    wrap(text, colour, io::stdout().is_terminal() && allows_colour())
}

/// For stderr.
pub fn paint_err(text: &str, colour: Colour) -> String {
    wrap(text, colour, io::stderr().is_terminal() && allows_colour())
}

/// Writes data to stdout. A closed pipe ends the program.
pub fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(e) = written {
        if e.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {e}");
        }
        std::process::exit(i32::from(e.kind() != io::ErrorKind::BrokenPipe));
    }
}

/// Writes one line of data to stdout.
pub fn line(text: &str) {
    out(&format!("{text}\n"));
}

/// Writes a value as JSON to stdout: indented on a terminal, on one line otherwise.
pub fn json<T: serde::Serialize>(value: &T) {
    let text =
        if io::stdout().is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    line(&escaped(&text.expect("a status or report always encodes")));
}

/// Writes an answer to stdout: as JSON, or as a line.
pub fn answer<T: serde::Serialize>(is_json: bool, value: &T, text: impl FnOnce() -> String) {
    if is_json { json(value) } else { line(&text()) }
}

/// Whether stdout is a terminal that would obey this character.
pub fn obeys(c: char) -> bool {
    is_obeyed(c) && io::stdout().is_terminal()
}

/// Other users' text on one line, for stdout.
pub fn plain(text: &str) -> String {
    one_line(text, io::stdout().is_terminal())
}

/// Other users' text on one line, for stderr.
pub fn plain_err(text: &str) -> String {
    one_line(text, io::stderr().is_terminal())
}

fn one_line(text: &str, is_terminal: bool) -> String {
    if is_terminal { text::plain(text) } else { text.replace('\r', "\\r").replace('\n', "\\n") }
}

/// Other users' text with its line breaks, for stdout.
pub fn plain_lines(text: &str) -> String {
    if io::stdout().is_terminal() { text::plain_lines(text) } else { text.to_string() }
}

/// Other users' text with its line breaks, for stderr.
pub fn plain_lines_err(text: &str) -> String {
    if io::stderr().is_terminal() { text::plain_lines(text) } else { text.to_string() }
}

/// JSON for stdout.
pub fn escaped(json: &str) -> String {
    if io::stdout().is_terminal() { text::escaped(json) } else { json.to_string() }
}

/// Writes other users' bytes: escaped for a terminal, unchanged otherwise or if `is_raw`.
///
/// # Errors
/// Those of the output.
pub fn piece(mut to: impl Write + IsTerminal, bytes: &[u8], pieces: &mut Pieces, is_raw: bool) -> io::Result<()> {
    match is_raw || !to.is_terminal() {
        true => to.write_all(bytes)?,
        false => to.write_all(pieces.next(bytes).as_bytes())?,
    }
    to.flush()
}

/// A table: two spaces between columns, numbers right-aligned, words left-aligned, no blanks at line ends. Its width
/// does not depend on the terminal, because scripts read it.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| cut(&plain(cell), CELL_WIDTH_MAX))));
    for (at, column) in table.column_iter_mut().enumerate() {
        let is_number = !rows.is_empty() && rows.iter().all(|row| row[at].parse::<f64>().is_ok() || row[at] == "-");
        let alignment = if is_number { CellAlignment::Right } else { CellAlignment::Left };
        column.set_padding((0, 2)).set_cell_alignment(alignment);
    }
    table.trim_fmt() + "\n"
}

/// A cell cut to `width_max` columns of a terminal.
pub fn cut(cell: &str, width_max: usize) -> String {
    if cell.width() <= width_max {
        return cell.to_string();
    }
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(1);
        width < width_max
    };
    cell.chars().take_while(fits).chain(['…']).collect()
}

/// A rounded duration: `85 ms`, `3.2 s`, `4 min`, `3 h`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let rows = vec![vec!["n1".into(), "7".into(), "a".into()], vec!["n22".into(), "123".into(), "".into()]];
        assert_eq!(table(&["NODE", "LAST", "X"], &rows), "NODE  LAST  X\nn1       7  a\nn22    123\n");
        assert_eq!(table(&["A"], &[]), "A\n");
        let rows = [vec!["日本".into(), "x  y".into()], vec!["".into(), "".into()], vec!["abc".into(), "-1.5".into()]];
        assert_eq!(table(&["A", "B"], &rows), "A     B\n日本  x  y\n\nabc   -1.5\n");
        let long = table(&["A"], &[vec!["x".repeat(70_000)]]);
        assert!(long.chars().count() < 250 && long.ends_with("…\n"), "{} characters", long.len());
        assert_eq!([cut("日本語", 6), cut("日本語", 5), cut("abc", 2)], ["日本語", "日本…", "a…"]);
    }

    #[test]
    fn a_row_is_one_line_without_control_characters_on_a_terminal() {
        let theirs = "a\u{1b}[2J\n\u{202e}b\r\tc";
        assert_eq!(one_line(theirs, true), r"a\x1b[2J\n\u{202e}b\r\tc");
        assert_eq!(one_line(theirs, false), "a\u{1b}[2J\\n\u{202e}b\\r\tc");
    }

    #[test]
    fn colour_only_when_on() {
        assert_eq!(wrap("x", Colour::Red, false), "x");
        assert_eq!(wrap("x", Colour::Red, true), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn durations_are_rounded() {
        assert_eq!([span(85), span(3_250), span(61_000), span(7_200_000)], ["85 ms", "3.2 s", "1 min", "2 h"]);
    }
}
