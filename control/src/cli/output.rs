//! The one place that writes to standard output, and to standard error outside the log; `top` has the
//! terminal for itself.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    args::{Format, Global},
    table::{self, Row},
};

/// How results and notes are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    /// As the command line asks for.
    pub(crate) fn new(global: &Global) -> Self {
        Self { format: global.output, quiet: global.quiet }
    }

    /// True for `-o json`.
    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// An answer of the API, as it is or in the words of `table`.
    pub(super) fn answer(
        self,
        value: Value,
        table: impl FnOnce(Value) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        if self.is_json() { self.json(&value) } else { self.text(&table(value)?) }
    }

    /// An answer of the API, one object or many, as a row each.
    pub(super) fn rows<T: Row + DeserializeOwned>(self, value: Value) -> anyhow::Result<()> {
        self.answer(value, |value| {
            let rows = match value {
                Value::Array(rows) => rows,
                one => vec![one],
            };
            let rows = rows.into_iter().map(understand).collect::<anyhow::Result<Vec<T>>>()?;
            Ok(table::rows(&rows))
        })
    }

    /// An answer of the API, one object, as a line for each of its fields.
    pub(super) fn fields(self, value: Value) -> anyhow::Result<()> {
        self.answer(value, |value| Ok(table::fields(&value)))
    }

    /// JSON for people too: indented.
    pub(super) fn json(self, value: &impl Serialize) -> anyhow::Result<()> {
        self.text(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// Text as it is.
    #[expect(clippy::unused_self, reason = "all that is written goes through an `Output`")]
    pub(super) fn text(self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(STDOUT)
    }

    /// A line about what was done, for people.
    pub(super) fn note(self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }

    /// True if results go to a terminal.
    #[expect(clippy::unused_self, reason = "all that is written goes through an `Output`")]
    pub(super) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }
}

const STDOUT: &str = "cannot write to standard output";

/// What the API says, as a `T`.
pub(super) fn understand<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).context(
        "cannot understand the daemon's answer; is it another version? see \"maclane version\"",
    )
}

/// Text on standard error; nobody is left to tell if that is closed.
pub(crate) fn complain(text: &str) {
    let lines: Vec<_> = text.lines().map(table::printable).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}
