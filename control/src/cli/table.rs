//! Tables: columns without lines around them, `-` for what is absent.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::Value;
use tabled::{
    builder::Builder,
    settings::{Alignment, Padding, Style, object::Columns},
};

use crate::{
    model::{
        BindingView, ChildView, DockerNetworkView, DropView, FdbView, Finding, LastDrop,
        NetworkFinding, NetworkView, ParentView,
    },
    plan::Step,
};

/// What is between two columns.
const GAP: &str = "   ";

/// One line of a table that goes on: nobody knows how wide its columns will have to be, and the last is as wide
/// as it is.
pub(super) fn line(cells: impl IntoIterator<Item = String>, widths: &[usize]) -> String {
    let widths = widths.iter().copied().chain([0]);
    let cells = cells.into_iter().zip(widths);
    let line: Vec<_> = cells.map(|(cell, width)| format!("{:width$}", printable(&cell))).collect();
    line.join(GAP) + "\n"
}

/// What is shown of something in one line of a table.
pub(super) trait Row {
    /// The columns' names.
    const HEADER: &'static [&'static str];

    /// A cell for each column.
    fn cells(&self) -> Vec<String>;
}

impl Row for ParentView {
    const HEADER: &'static [&'static str] = &[
        "IFACE", "STATE", "MAC", "MTU", "XDP", "TC", "UNKNOWN", "NETWORKS", "CHILDREN", "ADOPTED",
        "PROBLEMS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.iface.clone(),
            self.state.clone(),
            optional(self.mac),
            optional(self.mtu),
            self.xdp_attached.clone(),
            optional(self.tc.as_ref()),
            word(self.unknown),
            list(&self.networks),
            self.children.to_string(),
            self.adopted.to_string(),
            if self.problems.is_empty() { "-".into() } else { self.problems.len().to_string() },
        ]
    }
}

impl Row for NetworkView {
    const HEADER: &'static [&'static str] =
        &["NAME", "PARENT", "VLAN", "KIND", "MODE", "MTU", "SUBNETS", "CHILDREN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.spec.name.clone(),
            self.spec.parent.clone(),
            self.spec.vlan.to_string(),
            word(self.spec.kind),
            optional(self.mode_in_force.map(word)),
            optional(self.spec.mtu),
            list(&self.spec.subnets.iter().map(|s| s.subnet).collect::<Vec<_>>()),
            self.children.len().to_string(),
        ]
    }
}

impl Row for ChildView {
    const HEADER: &'static [&'static str] = &[
        "NAME", "NETWORK", "PARENT", "VLAN", "KIND", "MODE", "NETNS", "IFNAME", "MAC", "IP",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            optional(self.network.as_ref()),
            self.parent.clone(),
            self.trunk.as_ref().map_or_else(|| self.vlan.to_string(), ToString::to_string),
            word(self.kind),
            optional(self.mode.map(word)),
            optional(self.netns.as_ref()),
            optional(self.ifname.as_ref()),
            self.mac.to_string(),
            list(&self.ip),
            self.state.clone(),
        ]
    }
}

impl Row for BindingView {
    const HEADER: &'static [&'static str] = &["NETWORK", "IP", "MAC", "PORT", "SOURCE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.network.clone(),
            self.ip.to_string(),
            self.mac.to_string(),
            self.port.clone(),
            word(self.source),
        ]
    }
}

impl Row for FdbView {
    const HEADER: &'static [&'static str] = &["PARENT", "MAC", "VLAN", "PORT", "KIND", "OWNER"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.parent.clone(),
            self.mac.to_string(),
            self.vlan.map_or_else(|| "any".into(), |vlan| vlan.to_string()),
            self.port.to_string(),
            self.kind.clone(),
            self.owner.clone(),
        ]
    }
}

impl Row for DropView {
    const HEADER: &'static [&'static str] = &[
        "PARENT",
        "PORT",
        "REASON",
        "DROPPED",
        "LOGGED",
        "LAST",
        "SOURCE",
        "DESTINATION",
        "VLAN",
        "TYPE",
    ];

    fn cells(&self) -> Vec<String> {
        let last = |of: fn(&LastDrop) -> String| self.last.as_ref().map_or_else(|| "-".into(), of);
        vec![
            self.parent.clone(),
            self.port.clone().unwrap_or_else(|| "-".into()),
            self.reason.clone(),
            self.dropped.to_string(),
            self.logged.to_string(),
            last(|last| format!("{} s ago", last.seconds_ago)),
            last(|last| last.source.to_string()),
            last(|last| last.destination.to_string()),
            last(|last| last.vlan.to_string()),
            last(|last| last.ethertype.clone()),
        ]
    }
}

impl Row for NetworkFinding {
    const HEADER: &'static [&'static str] = &["NETWORK", "FINDING"];

    fn cells(&self) -> Vec<String> {
        vec![self.network.clone(), self.finding.clone()]
    }
}

impl Row for DockerNetworkView {
    const HEADER: &'static [&'static str] =
        &["DOCKER", "NETWORK", "PARENT", "VLAN", "ENDPOINTS", "CONTAINERS"];

    fn cells(&self) -> Vec<String> {
        let joined = self.endpoints.iter().filter(|endpoint| endpoint.sandbox.is_some());
        vec![
            // As Docker shows it.
            self.id.chars().take(12).collect(),
            self.network.clone(),
            optional(self.parent.as_ref()),
            self.trunk.as_ref().map_or_else(|| self.vlan.to_string(), ToString::to_string),
            self.endpoints.len().to_string(),
            joined.count().to_string(),
        ]
    }
}

impl Row for Step {
    const HEADER: &'static [&'static str] = &["ACTION", "OBJECT", "DETAILS"];

    fn cells(&self) -> Vec<String> {
        let details = Some(&self.details).filter(|details| !details.is_empty());
        vec![self.action.name().into(), self.object.clone(), optional(details)]
    }
}

impl Row for Finding {
    const HEADER: &'static [&'static str] = &["STATUS", "CHECK", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        vec![self.status.clone(), self.check.clone(), self.detail.clone()]
    }
}

/// One line for each of `rows`, below the header.
pub(super) fn rows<T: Row>(rows: &[T]) -> String {
    columns(T::HEADER, rows.iter().map(Row::cells), &[])
}

/// Aligned columns, those in `numbers` to the right.
pub(super) fn columns(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    numbers: &[usize],
) -> String {
    let mut table = Builder::default();
    table.push_record(header.iter().copied());
    for row in rows {
        table.push_record(row.iter().map(|cell| printable(cell)));
    }
    let mut table = table.build();
    table.with(Style::empty()).with(Padding::new(0, GAP.len(), 0, 0));
    for column in numbers {
        table.modify(Columns::one(*column), Alignment::right());
    }
    trimmed(&table.to_string())
}

/// A line for each field of an object, and for each further item of a list.
pub(super) fn fields(value: &Value) -> String {
    let mut table = Builder::default();
    for (name, value) in value.as_object().into_iter().flatten() {
        let mut lines = match value {
            Value::Array(items) if !items.is_empty() => items.iter().map(plain).collect(),
            one => vec![plain(one)],
        };
        for (at, line) in lines.drain(..).enumerate() {
            let name = if at == 0 { name.to_uppercase() } else { String::new() };
            table.push_record([name, printable(&line)]);
        }
    }
    let mut table = table.build();
    table.with(Style::empty()).with(Padding::new(0, 3, 0, 0));
    trimmed(&table.to_string())
}

/// Text with nothing in it that a terminal would act on: names of interfaces and namespaces may
/// come from inside containers.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => {
                let _ = write!(out, "{}", c.escape_default());
            }
            c => out.push(c),
        }
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Object(fields) => {
            let words = fields.iter().map(|(name, value)| format!("{name} {}", plain(value)));
            if fields.is_empty() { "-".into() } else { words.collect::<Vec<_>>().join(", ") }
        }
        other => other.to_string(),
    }
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "-".into() } else { items.join(",") }
}

fn word<T: ValueEnum + Copy>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |word| word.get_name().to_owned())
}

fn trimmed(table: &str) -> String {
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let rows = [["a".to_owned(), "1".into()], ["longer".into(), "1000".into()]];
        let text = columns(&["NAME", "N"], rows.map(Vec::from), &[1]);
        assert_eq!(text, "NAME        N\na           1\nlonger   1000\n");
        let text = columns(&["NAME", "N"], [vec!["longer".to_owned(), "1".into()]], &[]);
        assert_eq!(text, "NAME     N\nlonger   1\n");
        assert_eq!(columns(&["NAME", "N"], [], &[]), "NAME   N\n");
    }

    #[test]
    fn fields_have_a_line_for_each_item() {
        let value = json!({"name": "web", "mtu": null, "ip": ["a", "b"], "children": [], "n": 3, "pools": [{"subnet": "s", "gateway": null}]});
        let text = "NAME       web\nMTU        -\nIP         a\n           b\nCHILDREN   -\nN          3\nPOOLS      subnet s, gateway -\n";
        assert_eq!(fields(&value), text);
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(printable("eth\u{1b}[2J\u{9b}0"), "eth\\u{1b}[2J\\u{9b}0");
    }

    #[test]
    fn a_child_has_a_cell_for_every_column() {
        let child: ChildView = serde_json::from_value(json!({
            "name": "eth0/02:00:5e:00:53:01", "network": null, "parent": "eth0", "vlan": 0,
            "trunk": "10,20", "kind": "macvlan", "mode": "bridge", "netns": null, "ifname": null,
            "ifindex": null, "mac": "02:00:5e:00:53:01", "ip": ["10.0.0.9/24", "fd00::9/64"],
            "mtu": 1500, "port": 3, "state": "up", "origin": "adopted", "identity": "mac"
        }))
        .unwrap();
        let expected = "eth0/02:00:5e:00:53:01|-|eth0|10,20|macvlan|bridge|-|-|02:00:5e:00:53:01|10.0.0.9/24,fd00::9/64|up";
        assert_eq!(child.cells().join("|"), expected);
        assert_eq!(child.cells().len(), ChildView::HEADER.len());
    }
}
