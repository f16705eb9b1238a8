//! What has happened: one closed list of kinds, and what is said of each event.

mod log;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::log::{Events, Follower, Heard};

use crate::{
    error::{Error, Result},
    model::Mac,
};

/// What sort of thing has happened. Append-only: a name never changes its meaning.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum EventKind {
    /// The port of a child has come, or its link is up again.
    PortUp,
    /// The port of a child has gone, or its link is down.
    PortDown,
    /// The interface of a parent is there and up.
    ParentUp,
    /// The interface of a parent is down or gone, or the parent was removed.
    ParentDown,
    /// A child that somebody else made was found.
    NewMac,
    /// Somebody on the LAN has the address of a child, or one that a child was to get.
    AddressConflict,
    /// A child sends what is not its own.
    Spoof,
    /// A child or the wire sends more than it may.
    Storm,
}

impl EventKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 8] = [
        Self::PortUp,
        Self::PortDown,
        Self::ParentUp,
        Self::ParentDown,
        Self::NewMac,
        Self::AddressConflict,
        Self::Spoof,
        Self::Storm,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PortUp => "port_up",
            Self::PortDown => "port_down",
            Self::ParentUp => "parent_up",
            Self::ParentDown => "parent_down",
            Self::NewMac => "new_mac",
            Self::AddressConflict => "address_conflict",
            Self::Spoof => "spoof",
            Self::Storm => "storm",
        }
    }

    /// The kind with this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("there is no kind of event \"{name}\"; there are {names}"))
        })
    }

    /// True if somebody should look.
    fn is_warning(self) -> bool {
        match self {
            Self::PortUp | Self::PortDown | Self::ParentUp | Self::NewMac => false,
            Self::ParentDown | Self::AddressConflict | Self::Spoof | Self::Storm => true,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// When, in UTC with milliseconds (RFC 3339).
    pub(crate) time: String,
    /// Its number: a later event has a higher one, also after a restart of the daemon.
    pub(crate) id: u64,
    /// What sort of thing.
    pub(crate) kind: EventKind,
    /// The parent that it is about.
    pub(crate) parent: String,
    /// The child that it is about.
    pub(crate) child: Option<String>,
    /// The network that it is about.
    pub(crate) network: Option<String>,
    /// The port.
    pub(crate) port: Option<u16>,
    /// The VLAN.
    pub(crate) vlan: Option<u16>,
    /// The MAC: the child's, or that of who did it.
    #[schema(value_type = Option<String>)]
    pub(crate) mac: Option<Mac>,
    /// The address.
    #[schema(value_type = Option<String>)]
    pub(crate) ip: Option<IpAddr>,
    /// How many of its kind it stands for, if that is more than itself.
    pub(crate) count: Option<u64>,
    /// What has happened, in words.
    pub(crate) message: String,
}

impl Event {
    /// One with nothing in it but what every event has. It gets its time and number when it is noted.
    pub(crate) fn new(
        kind: EventKind,
        parent: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            time: String::new(),
            id: 0,
            kind,
            parent: parent.into(),
            child: None,
            network: None,
            port: None,
            vlan: None,
            mac: None,
            ip: None,
            count: None,
            message: message.into(),
        }
    }

    fn stands_for(&self) -> u64 {
        self.count.unwrap_or(1)
    }

    /// One line of the log.
    fn log(&self) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    event = self.kind.name(),
                    id = self.id,
                    parent = self.parent,
                    child = self.child,
                    network = self.network,
                    port = self.port,
                    vlan = self.vlan,
                    mac = self.mac.map(tracing::field::display),
                    ip = self.ip.map(tracing::field::display),
                    count = self.count,
                    "{}",
                    self.message
                )
            };
        }
        if self.kind.is_warning() {
            line!(warn);
        } else {
            line!(info);
        }
    }
}

/// Which events somebody wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Of this parent only.
    pub(crate) parent: Option<String>,
    /// Of these kinds only; of all if there are none.
    pub(crate) kinds: Vec<EventKind>,
    /// Those that are kept with a higher number than this.
    pub(crate) since: Option<u64>,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        self.parent.as_ref().is_none_or(|parent| *parent == event.parent)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.since.is_none_or(|since| event.id > since)
    }
}
