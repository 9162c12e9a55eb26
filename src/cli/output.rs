//! What commands print: tables for people, JSON and YAML for programs.
//!
//! Text that comes from mail or from peers is shown without control characters, so that it cannot steer a terminal. A closed
//! pipe (`| head`) ends the command quietly.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// A table, for people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Only the names, as `collection/name`.
    Name,
}

/// A table whose columns are as wide as they must be.
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// The widest that a column but the last becomes.
const WIDEST: usize = 60;

impl Table {
    /// An empty one.
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.head.len();
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in all() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let last = column + 1 == columns;
                let long = !last && cell.chars().count() > WIDEST;
                let shown: String =
                    if long { cell.chars().take(WIDEST - 1).chain(['…']).collect() } else { cell.clone() };
                let fill = if last { 0 } else { widths[column] - shown.chars().count() + 3 };
                line.push_str(&shown);
                line.extend(std::iter::repeat_n(' ', fill));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text without what could steer a terminal: control characters, and marks that turn its direction.
pub fn plain(text: &str) -> String {
    let bad = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect()
}

/// Prints to stdout. A reader that went away is no error.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_octets(text.as_bytes())
}

/// The same for what may be no text.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_octets(octets: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(octets).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("stdout cannot be written"),
    }
}

/// Prints a value as JSON or YAML.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_value(value: &Value, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => print(&format!("{value:#}\n")),
        _ => print(&yaml(value)?),
    }
}

/// A value as YAML.
///
/// # Errors
/// Never for JSON values.
pub fn yaml(value: &Value) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value).context("the answer cannot be shown as YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Says something to a person, beside the output.
pub fn say(text: &str) {
    eprintln!("{}", text.lines().map(plain).collect::<Vec<_>>().join("\n"));
}

/// A line that shows how far a long operation is; on a terminal only, and gone at the end.
#[derive(Debug)]
pub struct Progress {
    on: bool,
    shown: usize,
}

impl Progress {
    /// A new one.
    pub fn new() -> Self {
        Progress { on: io::stderr().is_terminal(), shown: 0 }
    }

    /// Shows a state: a bar when the total is known.
    pub fn show(&mut self, done: u64, total: u64, words: &str) {
        if !self.on {
            return;
        }
        const BAR: u64 = 30;
        let filled = (done * BAR).checked_div(total).unwrap_or(0).min(BAR) as usize;
        let bar: String = (0..BAR as usize).map(|n| if n < filled { '█' } else { '░' }).collect();
        let line = format!("{bar} {done}/{total} {}", plain(words));
        let fill = self.shown.saturating_sub(line.chars().count());
        self.shown = line.chars().count();
        eprint!("\r{line}{}", " ".repeat(fill));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on && self.shown > 0 {
            eprint!("\r{}\r", " ".repeat(self.shown));
        }
    }
}

/// The value behind a JSON pointer as one cell: lists joined, objects as JSON.
pub fn cell(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let word = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            items.iter().map(word).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// How long ago a time was, as people say it: `5m`, `3h`, `2d`; times to come are `in 5m`.
pub fn ago(time: &str) -> String {
    let Ok(at) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    let seconds = jiff::Timestamp::now().as_second() - at.as_second();
    let span = match seconds.unsigned_abs() {
        s if s < 120 => format!("{s}s"),
        s if s < 120 * 60 => format!("{}m", s / 60),
        s if s < 48 * 3600 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    };
    if seconds < 0 { format!("in {span}") } else { span }
}

/// Octets as people say them.
pub fn octets(count: u64) -> String {
    match count {
        n if n < 10 << 10 => format!("{n} B"),
        n if n < 10 << 20 => format!("{} KiB", n >> 10),
        n if n < 10 << 30 => format!("{} MiB", n >> 20),
        n => format!("{} GiB", n >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_cannot_steer_the_terminal() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".into(), "ok".into()]);
        table.row(vec!["b\u{1b}[2J".into(), "\u{202e}evil".into()]);
        assert_eq!(table.to_string(), "NAME          STATE\na-long-name   ok\nb\u{fffd}[2J         \u{fffd}evil\n");
    }

    #[test]
    fn cells_are_short_texts() {
        let value = serde_json::json!({"a": ["x", "y"], "b": {"c": 1}, "d": true});
        assert_eq!(cell(&value, "/a"), "x,y");
        assert_eq!(cell(&value, "/b/c"), "1");
        assert_eq!(cell(&value, "/none"), "");
        assert_eq!(octets(20_000), "19 KiB");
    }
}
