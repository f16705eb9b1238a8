//! A host that gets more and more macvlan children, with addresses as users' children have them.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::Result;
use tests::{netns::Netns, topology::PARENT};

use crate::{
    children::{milliseconds, namespaces},
    context::Context,
    line::{Line, Side},
    series::Series,
    storm::{ASKED_FOR, Of, Storm, storm},
};

/// A host that gets more and more macvlan children.
pub(crate) struct Growing {
    side: Side,
    /// How long it took to add each.
    pub(crate) added: Vec<f64>,
    namespaces: Vec<Netns>,
}

impl Growing {
    pub(crate) fn new(line: Line) -> Result<Self> {
        let namespaces = namespaces();
        for ns in &namespaces {
            // All links of a namespace hear a request: only the one that has the address answers.
            ns.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        }
        Ok(Self { side: Side::stack(line, 0)?, added: Vec::new(), namespaces })
    }

    pub(crate) const fn line(&self) -> &Line {
        self.side.line()
    }

    pub(crate) fn grow(&mut self, cx: &Context, to: usize) -> Result<()> {
        for number in self.added.len() + 1..to {
            if number % 10 == 0 {
                cx.check()?;
                cx.say(&format!("adding child {number} of {to}"));
            }
            let began = Instant::now();
            self.add(number);
            self.added.push(milliseconds(began));
        }
        Ok(())
    }

    fn add(&self, number: usize) {
        let line = self.side.line();
        let ns = &self.namespaces[number % self.namespaces.len()];
        let (ifname, cidr) = (format!("e{number}"), format!("{}/16", address(number)));
        if let Some(daemon) = &line.daemon {
            let name = format!("c{number}");
            daemon.child_with(&name, "lan", ns, &["--ifname", &ifname, "--ip", &cidr]);
        } else {
            let netns = ns.name();
            line.host.ip(&format!(
                "link add link {PARENT} name {ifname} netns {netns} type macvlan mode bridge"
            ));
            ns.ip(&format!("address add {cidr} dev {ifname}"));
            ns.up(&ifname);
        }
    }

    pub(crate) fn rates(&mut self, cx: &Context) -> Result<Series> {
        let rates = (0..cx.rounds().min(9)).map(|_| self.side.rate());
        Ok(Series::new(rates.collect::<Result<_>>()?))
    }

    pub(crate) fn storm(&self, cx: &Context, of: Of, rate: u32) -> Result<Storm> {
        storm(cx, self.line(), of, rate)
    }
}

/// The address of a child. The second child is asked for: the sink of the first one takes everything.
fn address(number: usize) -> Ipv4Addr {
    if number == 1 {
        return ASKED_FOR;
    }
    let byte = |n: usize| u8::try_from(n % 250).expect("below 250");
    Ipv4Addr::new(10, 77, 1 + byte(number / 250), 1 + byte(number))
}
