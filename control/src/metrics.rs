//! What Prometheus is told: the metrics, and the address at which they are to be had.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, prometheus_text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    events::EventKind,
    model::{ChildView, ParentView, PoolView, PortStats, StatsView},
};

pub(crate) use prometheus_text::CONTENT_TYPE;

/// A loopback address: whoever can reach it sees the metrics, and is asked for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(pub(crate) SocketAddr);

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let address: SocketAddr = text.parse().map_err(|_| {
            Error::invalid(format!(
                "\"{text}\" is not an address and a port; write it as 127.0.0.1:9469 or [::1]:9469"
            ))
        })?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(Error::invalid(format!(
                "{address} is not a loopback address, and metrics are given to whoever asks; use \
                 127.0.0.1:{port} or [::1]:{port}, and let a proxy with a password serve others",
                port = address.port()
            )));
        }
        Ok(Self(address))
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// All that is told at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    /// The counters of each parent.
    pub(crate) stats: Vec<StatsView>,
    /// The parents.
    pub(crate) parents: Vec<ParentView>,
    /// All children.
    pub(crate) children: Vec<ChildView>,
    /// The pools, with their networks.
    pub(crate) pools: Vec<(String, PoolView)>,
    /// How many entries the forwarding table of each parent has.
    pub(crate) fdb: Vec<(String, usize)>,
    /// How many events there were of each kind.
    pub(crate) events: Vec<(EventKind, u64)>,
}

/// The labels of a sample.
type Labels = Vec<(&'static str, String)>;

impl Scrape {
    /// The metrics as Prometheus reads them (text format 0.0.4).
    pub(crate) fn text(self) -> Result<String> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)
            .map_err(|e| Error::failed(format!("cannot write the metrics: {e}")))?;
        Ok(text)
    }

    fn ports(&self, page: &mut Page<'_>) -> fmt::Result {
        let networks: BTreeMap<(&str, &str), &str> = self
            .children
            .iter()
            .filter_map(|it| Some(((&*it.parent, &*it.name), it.network.as_deref()?)))
            .collect();
        let labels = |parent: &str, port: &PortStats| -> Labels {
            let is_child = !matches!(&*port.kind, "wire" | "host");
            let network = networks.get(&(parent, &*port.name)).copied().unwrap_or_default();
            vec![
                ("parent", parent.to_owned()),
                ("port", port.port.to_string()),
                ("child", if is_child { port.name.clone() } else { String::new() }),
                ("network", network.to_owned()),
                ("kind", port.kind.clone()),
            ]
        };
        let of_each = |value: fn(&PortStats) -> u64| {
            let all = self.stats.iter().flat_map(|it| it.ports.iter().map(|p| (&it.parent, p)));
            all.map(|(parent, port)| (labels(parent, port), value(port))).collect::<Vec<_>>()
        };
        page.counters(
            "maclane_port_receive_packets",
            "Frames that came in from a port, segments of an offloaded frame one by one.",
            of_each(|port| port.rx_packets),
        )?;
        page.counters(
            "maclane_port_receive_bytes",
            "Bytes that came in from a port.",
            of_each(|port| port.rx_bytes),
        )?;
        page.counters(
            "maclane_port_transmit_packets",
            "Frames that went out to a port.",
            of_each(|port| port.tx_packets),
        )?;
        page.counters(
            "maclane_port_transmit_bytes",
            "Bytes that went out to a port.",
            of_each(|port| port.tx_bytes),
        )
    }

    fn drops(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = || {
            self.stats.iter().flat_map(|it| it.drops.iter().map(move |drops| (&it.parent, drops)))
        };
        let labels = |parent: &String, reason: &String| {
            vec![("parent", parent.clone()), ("reason", reason.clone())]
        };
        page.counters(
            "maclane_drops",
            "Frames that were dropped, by reason.",
            all().map(|(parent, drops)| (labels(parent, &drops.reason), drops.packets)),
        )?;
        page.counters(
            "maclane_drop_bytes",
            "Bytes of frames that were dropped, by reason.",
            all().map(|(parent, drops)| (labels(parent, &drops.reason), drops.bytes)),
        )
    }

    fn children(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut count: BTreeMap<Labels, f64> = BTreeMap::new();
        for child in &self.children {
            let network = child.network.clone().unwrap_or_default();
            let labels = vec![
                ("parent", child.parent.clone()),
                ("network", network),
                ("state", child.state.clone()),
            ];
            *count.entry(labels).or_default() += 1.0;
        }
        page.gauges(
            "maclane_children",
            "Children, by network and by state; adopted ones are in no network.",
            count,
        )
    }

    fn pools(&self, page: &mut Page<'_>) -> fmt::Result {
        let of_each = |value: fn(&PoolView) -> f64| {
            self.pools.iter().map(move |(network, pool)| {
                let labels =
                    vec![("network", network.clone()), ("subnet", pool.subnet.to_string())];
                (labels, value(pool))
            })
        };
        page.gauges(
            "maclane_leases",
            "Addresses of a subnet that children have.",
            of_each(|pool| as_float(pool.leased)),
        )?;
        page.gauges(
            "maclane_pool_addresses",
            "Addresses that children can get of a subnet.",
            of_each(|pool| pool.size.parse().unwrap_or_default()),
        )
    }

    fn parents(&self, page: &mut Page<'_>) -> fmt::Result {
        let of_each = |value: fn(&ParentView) -> f64| {
            self.parents.iter().map(move |it| (of_parent(&it.iface), value(it)))
        };
        page.gauges(
            "maclane_parent_up",
            "Whether the interface of a parent is there and up.",
            of_each(|parent| if parent.state == "up" { 1.0 } else { 0.0 }),
        )?;
        page.gauges(
            "maclane_problems",
            "How much is wrong or limited with a parent; `maclane parent show` says what.",
            of_each(|parent| as_float(parent.problems.len())),
        )?;
        page.gauges(
            "maclane_fdb_entries",
            "Entries of the forwarding table of a parent.",
            self.fdb.iter().map(|(parent, entries)| (of_parent(parent), as_float(*entries))),
        )
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.ports(&mut page)?;
        self.drops(&mut page)?;
        self.children(&mut page)?;
        self.pools(&mut page)?;
        self.parents(&mut page)?;
        page.counters(
            "maclane_events",
            "What has happened since the daemon runs, by kind; see `maclane events`.",
            self.events.iter().map(|(kind, total)| (vec![("kind", kind.to_string())], *total)),
        )?;
        page.gauges(
            "maclane_build_info",
            "Always 1; the version of the daemon is in its label.",
            [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
        )
    }
}

fn of_parent(iface: &str) -> Labels {
    vec![("parent", iface.to_owned())]
}

/// Counts of what fits into memory: all of them are exact.
#[expect(clippy::cast_precision_loss, reason = "there are less than 2^53 of anything")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// What is written of metrics.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A counter, which gets the suffix `_total`.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, it)| (labels, ConstCounter::new(it)));
        self.family(name, help, MetricType::Counter, samples)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, it)| (labels, ConstGauge::new(it)));
        self.family(name, help, MetricType::Gauge, samples)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl Iterator<Item = (Labels, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, sample) in samples {
            sample.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_loopback_addresses_are_taken() {
        for good in ["127.0.0.1:9469", "[::1]:9469", "127.8.0.1:1", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(good.parse::<Address>().unwrap().0.to_string(), good);
        }
        for (bad, word) in [
            ("0.0.0.0:9469", "127.0.0.1:9469"),
            ("[::]:9469", "[::1]:9469"),
            ("192.168.50.9:80", "is not a loopback address"),
            ("localhost:9469", "\"localhost:9469\" is not an address and a port"),
            ("127.0.0.1", "write it as"),
            ("9469", "write it as"),
        ] {
            let message = bad.parse::<Address>().unwrap_err().message;
            assert!(message.contains(word), "{bad}: {message}");
        }
    }

    #[test]
    fn a_port_is_told_with_its_child_and_network() {
        let stats = json!([{
            "parent": "eth0",
            "ports": [
                { "port": 0, "name": "wire", "kind": "wire", "rx_packets": 1, "rx_bytes": 2, "tx_packets": 3, "tx_bytes": 4 },
                { "port": 2, "name": "web", "kind": "veth", "rx_packets": 5, "rx_bytes": 6, "tx_packets": 7, "tx_bytes": 8 },
            ],
            "drops": [{ "reason": "runt", "meaning": "", "packets": 9, "bytes": 10 }],
        }]);
        let children = json!([{
            "name": "web", "network": "lan", "parent": "eth0", "vlan": 0, "kind": "veth",
            "mac": "02:00:5e:00:53:01", "ip": [], "port": 2, "state": "no namespace",
            "origin": "created", "identity": "port",
        }]);
        let pool = json!({
            "subnet": "fd00::/112", "range": "", "size": "65535", "leased": 3,
        });
        let scrape = Scrape {
            stats: serde_json::from_value(stats).unwrap(),
            parents: Vec::new(),
            children: serde_json::from_value(children).unwrap(),
            pools: vec![("lan".into(), serde_json::from_value(pool).unwrap())],
            fdb: vec![("we\"ird".into(), 4)],
            events: vec![(EventKind::Spoof, 2)],
        };
        let text = scrape.text().unwrap();
        for line in [
            "# HELP maclane_port_receive_packets_total Frames that came in from a port, segments of an offloaded frame one by one.",
            "# TYPE maclane_port_receive_packets_total counter",
            "maclane_port_receive_packets_total{parent=\"eth0\",port=\"0\",child=\"\",network=\"\",kind=\"wire\"} 1",
            "maclane_port_transmit_bytes_total{parent=\"eth0\",port=\"2\",child=\"web\",network=\"lan\",kind=\"veth\"} 8",
            "maclane_drop_bytes_total{parent=\"eth0\",reason=\"runt\"} 10",
            "# TYPE maclane_children gauge",
            "maclane_children{parent=\"eth0\",network=\"lan\",state=\"no namespace\"} 1.0",
            "maclane_leases{network=\"lan\",subnet=\"fd00::/112\"} 3.0",
            "maclane_pool_addresses{network=\"lan\",subnet=\"fd00::/112\"} 65535.0",
            "maclane_fdb_entries{parent=\"we\\\"ird\"} 4.0",
            "maclane_events_total{kind=\"spoof\"} 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in:\n{text}");
        }
    }
}
