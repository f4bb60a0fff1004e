//! A page of text: styles, wrapped paragraphs, headings and tables of one width.
//!
//! Everything is collected in memory and written once. Takes strings that are harmless already; adds
//! the only escape codes of the page, and only with colour.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// Style of what must be seen first.
pub(super) const BOLD: &str = "1";
/// Style of what may be skipped.
pub(super) const DIM: &str = "2";
/// Style of headings.
const HEADING: &str = "1;36";

/// Narrower terminals get lines of this width; their own wrapping has to do.
const MIN_WIDTH: usize = 48;
/// Wider lines are hard to read.
const MAX_WIDTH: usize = 180;
/// Prose is set narrower than tables.
const MAX_PROSE: usize = 100;

/// The page under construction.
pub(super) struct Page {
    out: String,
    colour: bool,
    /// Columns.
    pub(super) width: usize,
}

impl Page {
    pub(super) fn new(colour: bool, width: u16) -> Self {
        let width = usize::from(width).clamp(MIN_WIDTH, MAX_WIDTH);
        Self {
            out: String::new(),
            colour,
            width,
        }
    }

    pub(super) fn text(self) -> String {
        self.out
    }

    pub(super) fn blank(&mut self) {
        self.out.push('\n');
    }

    /// One line as it is.
    pub(super) fn line(&mut self, s: &str) {
        self.out.push_str(s.trim_end());
        self.out.push('\n');
    }

    /// The text in a style (parameters of an SGR code), or as it is without colour.
    pub(super) fn styled(&self, style: &str, s: &str) -> String {
        if !self.colour || style.is_empty() || s.is_empty() {
            return s.to_owned();
        }
        format!("\x1b[{style}m{s}\x1b[0m")
    }

    pub(super) fn heading(&mut self, title: &str) {
        self.blank();
        let title = self.styled(HEADING, title);
        self.line(&title);
    }

    /// Wrapped prose: `mark` stands before the first line, and the others are indented to match.
    pub(super) fn paragraph(&mut self, style: &str, indent: usize, mark: &str, s: &str) {
        let hang = indent
            + if mark.chars().count() <= 4 {
                mark.chars().count()
            } else {
                2
            };
        let first = indent + columns(mark);
        let width = self.width.min(MAX_PROSE);
        for (i, line) in wrap(s, width, first, hang).into_iter().enumerate() {
            let (margin, mark) = if i == 0 { (indent, mark) } else { (hang, "") };
            let body = self.styled(style, &line);
            self.line(&format!("{}{mark}{body}", " ".repeat(margin)));
        }
    }

    /// An empty table with this page's width and look.
    pub(super) fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(self.width as u16)
            .set_header(header.iter().map(Cell::new).collect::<Vec<_>>());
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    /// A cell of figures.
    pub(super) fn right(&self, s: String) -> Cell {
        Cell::new(s).set_alignment(CellAlignment::Right)
    }

    pub(super) fn add_table(&mut self, table: &Table) {
        for line in table.lines() {
            self.line(&line);
        }
    }
}

/// Columns that a string takes. East Asian wide characters count twice, which is near enough for
/// wrapping: a line that is a little short or long does no harm.
fn columns(s: &str) -> usize {
    s.chars()
        .map(|c| {
            if ('\u{1100}'..'\u{ff00}').contains(&c) && wide(c) {
                2
            } else {
                1
            }
        })
        .sum()
}

fn wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}')
}

/// Breaks at spaces, and inside words that are longer than a line.
fn wrap(s: &str, width: usize, first: usize, hang: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = width.saturating_sub(first).max(8);
    for word in s.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        let used = columns(line);
        let gap = usize::from(used > 0);
        if used + gap + columns(word) <= room {
            if gap == 1 {
                line.push(' ');
            }
            line.push_str(word);
            continue;
        }
        if used > 0 {
            lines.push(String::new());
            room = width.saturating_sub(hang).max(8);
        }
        for c in word.chars() {
            let line = lines.last_mut().expect("there is always a line");
            if columns(line) + 2 > room {
                lines.push(String::from(c));
                room = width.saturating_sub(hang).max(8);
            } else {
                line.push(c);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_at_spaces_and_endless_words_are_broken() {
        let lines = wrap("one two three four", 10, 0, 2);
        assert_eq!(lines, ["one two", "three", "four"]);
        let long = "x".repeat(95);
        let lines = wrap(&long, 20, 0, 0);
        assert!(lines.iter().all(|l| l.len() <= 20));
        assert_eq!(lines.concat(), long);
    }

    #[test]
    fn styles_are_left_out_without_colour() {
        assert_eq!(Page::new(false, 80).styled(BOLD, "x"), "x");
        assert_eq!(Page::new(true, 80).styled(BOLD, "x"), "\x1b[1mx\x1b[0m");
    }
}
