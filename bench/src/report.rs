//! The results, for people and for programs.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tabled::{
    builder::Builder,
    settings::{Alignment, Padding, Style, object::Columns},
};

use crate::row::Finished;

/// A number with as many digits as make sense.
pub(crate) fn number(value: f64) -> String {
    let grouped = |digits: String| {
        let (whole, rest) = digits.split_once('.').unwrap_or((&digits, ""));
        let mut text = String::new();
        for (place, digit) in whole.chars().enumerate() {
            if place > 0 && (whole.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        if rest.is_empty() { text } else { format!("{text}.{rest}") }
    };
    match value {
        _ if !value.is_finite() => "-".to_owned(),
        _ if value.abs() >= 100.0 => grouped(format!("{value:.0}")),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The cells of one row, as the table and the document show them.
pub(crate) fn cells(finished: &Finished) -> [String; 8] {
    let Finished { row, outcome } = finished;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let spread = match (outcome.ratios(), &outcome.peer) {
        (Some(ratios), _) => format!("{:.2} – {:.2}", ratios.min(), ratios.max()),
        (None, Some(_)) => or_dash(None),
        (None, None) => format!("{} – {}", number(outcome.ours.min()), number(outcome.ours.max())),
    };
    [
        row.name.to_owned(),
        row.unit.to_owned(),
        number(outcome.ours.median()),
        or_dash(outcome.peer.as_ref().map(|peer| number(peer.median()))),
        or_dash(outcome.ratio().map(|ratio| format!("{ratio:.2}"))),
        spread,
        or_dash(row.target.map(crate::row::Target::text)),
        match finished.met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        }
        .to_owned(),
    ]
}

/// The results as a table.
pub(crate) fn table(all: &[Finished]) -> String {
    let mut table = Builder::default();
    table.push_record([
        "NAME", "UNIT", "OURS", "PEER", "RATIO", "SPREAD", "TARGET", "MET", "PEER IS",
    ]);
    for finished in all {
        let peer = finished.row.peer.unwrap_or_default().to_owned();
        table.push_record(cells(finished).into_iter().chain([peer]));
    }
    let mut table = table.build();
    table.with(Style::empty()).with(Padding::new(0, 3, 0, 0));
    for column in 2..=4 {
        table.modify(Columns::one(column), Alignment::right());
    }
    table.to_string().lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Writes the results as an array of objects.
pub(crate) fn write_json(all: &[Finished], file: &Path) -> Result<()> {
    let rows: Vec<Value> = all.iter().map(to_json).collect();
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn to_json(finished: &Finished) -> Value {
    let Finished { row, outcome } = finished;
    let finite = |value: f64| value.is_finite().then_some(value);
    json!({
        "name": row.name,
        "unit": row.unit,
        "ours": finite(outcome.ours.median()),
        "peer": outcome.peer.as_ref().and_then(|peer| finite(peer.median())),
        "peer_name": row.peer,
        "ratio": outcome.ratio(),
        "target": row.target.map(crate::row::Target::value),
        "met": finished.met(),
        "rounds": outcome.ours.rounds(),
    })
}
