//! The command line: what may be typed, and the text of every help page, man page and completion.

mod child;
mod docker;
mod events;
mod network;
mod policy;
mod top;
mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::{
    child::ChildCommand,
    docker::{DockerCommand, Spec},
    events::EventsArgs,
    network::NetworkCommand,
    policy::BindingCommand,
    top::TopArgs,
    trace::TraceArgs,
};
use super::values::text;
use crate::{
    check,
    metrics::Address,
    model::{Adopt, ParentSpec, StormLimits, TcMode, UnknownPolicy, XdpMode},
};

/// Containers, VMs and network namespaces with their own place on the LAN
///
/// maclane does what macvlan does, through a dataplane in eBPF that lets the host and its children
/// reach each other, knows VLANs without sub-interfaces, and counts every frame that it drops.
#[derive(Debug, Parser)]
#[command(
    name = "maclane",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  maclane parent add eth0
  maclane network create lan50 --parent eth0 --vlan 50
  maclane child add web --network lan50 --netns web --ip 192.168.50.9/24
  maclane child ls
  maclane stats --watch

Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such object, 4 no daemon."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Socket of the daemon (for "daemon" itself see --runtime-dir)
    #[arg(long, global = true, value_name = "PATH", env = "MACLANE_SOCKET")]
    #[arg(default_value = "/run/maclane/maclane.sock")]
    pub(crate) socket: PathBuf,
    /// Tables for people, JSON for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say only errors on standard error
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// What the API says
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon
    #[command(after_help = DAEMON_HELP)]
    Daemon(DaemonArgs),
    /// Interfaces that children sit on
    #[command(subcommand)]
    Parent(ParentCommand),
    /// Layer-2 segments: a parent and a VLAN
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Interfaces that belong to containers, VMs and namespaces
    #[command(subcommand)]
    Child(ChildCommand),
    /// Whose addresses are: stations on the wire that are pinned, and the leases of children
    #[command(subcommand)]
    Binding(BindingCommand),
    /// The forwarding table
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Frames and bytes of every port, and the reasons of drops
    #[command(after_help = STATS_HELP)]
    Stats(StatsArgs),
    /// Which frames were dropped, of whom and why, with the last one of each
    #[command(after_help = DROPS_HELP)]
    Drops {
        /// Only those of this parent
        #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
        parent: Option<String>,
    },
    /// Frames as they pass, each with the way that it takes and what becomes of it
    ///
    /// Programs that tell of frames are put in the place of those that do not, without a gap, for as long as
    /// somebody traces.
    #[command(after_help = TRACE_HELP)]
    Trace(TraceArgs),
    /// The busiest ports, on the whole terminal
    ///
    /// Keys: q ends, the arrows scroll, s sorts by something else, p pauses, ? shows all of them.
    #[command(after_help = "Examples:\n  maclane top\n  maclane top --parent eth0 --interval 5")]
    Top(TopArgs),
    /// What has happened: ports and parents that come and go, strangers with an address of a child
    #[command(after_help = EVENTS_HELP)]
    Events(EventsArgs),
    /// Write everything that was asked for, and what children got, as one JSON document
    #[command(after_help = EXPORT_HELP)]
    Export,
    /// Make what a backup has and what is not there
    ///
    /// What is there as the backup has it is left alone. What is there and differs is an error, and
    /// nothing is changed. Children whose namespace is not there are made when it comes.
    #[command(after_help = EXPORT_HELP)]
    Import {
        /// What `maclane export` has written; "-" is standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        /// Only say what would be made
        #[arg(long)]
        dry_run: bool,
    },
    /// Make parents and networks what the configuration file says
    ///
    /// What the file has made and does not have any more is removed; what was made by hand is left
    /// alone. If any of it cannot be, nothing is changed.
    #[command(after_help = "Examples:\n  maclane reload --dry-run\n  maclane reload")]
    Reload {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Docker's network and IPAM plugin
    #[command(subcommand)]
    Docker(DockerCommand),
    /// Say what this host can do, what is missing and how to get it
    ///
    /// Reads only, changes nothing, and works without a daemon. The exit status is 1 if a finding
    /// is "fail".
    Doctor,
    /// Versions of this program and of the daemon
    Version,
    /// List the points at which a test can let the daemon die
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Failpoints,
    /// Write a shell's completions to standard output
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    #[command(after_help = "Example:\n  maclane man /usr/local/share/man/man1")]
    Man {
        /// The directory; made if it is not there
        dir: PathBuf,
    },
}

const DAEMON_HELP: &str = "\
Runs in the foreground until SIGTERM or SIGINT. Traffic goes on while it is down. SIGHUP does what
`maclane reload` does.
MACLANE_LOG filters the log, as in MACLANE_LOG=maclane=debug.

Examples:
  maclane daemon
  maclane daemon --state-dir /tmp/m/state --runtime-dir /tmp/m/run";

const EXPORT_HELP: &str = "\
Examples:
  maclane export > maclane.json
  maclane import --dry-run maclane.json
  maclane import maclane.json
  ssh other maclane export | maclane import -";

const DROPS_HELP: &str = "\
Examples:
  maclane drops
  maclane drops --parent eth0
  maclane drops -o json | jq '.[] | select(.port == \"web\")'";

const STATS_HELP: &str = "\
Examples:
  maclane stats
  maclane stats --parent eth0 --watch
  maclane stats --watch -o json | jq -c '.[].drops[] | select(.packets > 0)'";

const TRACE_HELP: &str = "\
Examples:
  maclane trace --child web
  maclane trace --drops
  maclane trace --parent eth0 --vlan 10 --reason source_ip -c 1
  maclane trace --mac 02:42:c0:a8:32:32 --pcap frames.pcapng
  maclane trace --pcap - | wireshark -k -i -
  maclane trace -o json | jq -r '[.from, .verdict, .reason] | @tsv'";

const EVENTS_HELP: &str = "\
Examples:
  maclane events
  maclane events --follow --parent eth0 --kind address_conflict --kind spoof
  maclane events --follow -o json | jq -c 'select(.kind == \"parent_down\")'";

const COMPLETIONS_HELP: &str = "\
Examples:
  maclane completions bash > /usr/share/bash-completion/completions/maclane
  maclane completions zsh > \"${fpath[1]}/_maclane\"
  maclane completions fish > ~/.config/fish/completions/maclane.fish";

/// Where the daemon keeps its things.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// What declares parents and networks; /etc/maclane/maclane.toml, if it is there
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Desired state: parents, networks and children
    #[arg(long, value_name = "DIR", default_value = "/var/lib/maclane")]
    pub(crate) state_dir: PathBuf,
    /// Lock and socket (DIR/maclane.sock)
    #[arg(long, value_name = "DIR", default_value = "/run/maclane")]
    pub(crate) runtime_dir: PathBuf,
    /// Where the BPF file system is mounted
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub(crate) bpffs: PathBuf,
    /// How long a child whose namespace is gone keeps its addresses; then it is removed
    ///
    /// Time counts during which the daemon runs, from the beginning again after a reboot. Within it,
    /// a namespace that comes back under its name gets the child as it was.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lease_grace: u32,
    /// Be Docker's network and IPAM plugin "maclane", too; `docker = true` in the configuration file does
    /// the same
    #[arg(long)]
    pub(crate) docker: bool,
    /// Where Docker looks for the plugin
    #[arg(long, value_name = "PATH", default_value = crate::docker::SOCKET)]
    pub(crate) docker_socket: PathBuf,
    /// Give metrics to Prometheus at this loopback address, too; `metrics = "…"` in the configuration
    /// file does the same
    ///
    /// They are at /metrics of the socket in any case.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<Address>,
    /// How TC programs are attached; `auto` is TCX from Linux 6.6 on, clsact below
    #[arg(long, value_name = "HOW", default_value = "auto", hide = true)]
    pub(crate) tc: TcMode,
}

/// What to do with parents.
#[derive(Debug, Subcommand)]
pub(crate) enum ParentCommand {
    /// Attach maclane to an interface
    ///
    /// macvlan children that somebody else made on it (Docker, CNI, by hand) reach the host from
    /// then on, with no change to them.
    #[command(
        after_help = "Examples:\n  maclane parent add eth0\n  maclane parent add eth0 --xdp off --unknown drop\n  maclane parent add eth0 --storm broadcast=2000,unknown=10000"
    )]
    Add(ParentAdd),
    /// Detach maclane from an interface
    #[command(after_help = "Examples:\n  maclane parent rm eth0\n  maclane parent rm eth0 --force")]
    Rm {
        /// The interface
        #[arg(value_parser = text(check::iface))]
        iface: String,
        /// Remove its networks and children with it
        #[arg(long)]
        force: bool,
    },
    /// List parents
    Ls,
    /// Show all about a parent
    #[command(after_help = "Example:\n  maclane parent show eth0")]
    Show {
        /// The interface
        #[arg(value_parser = text(check::iface))]
        iface: String,
    },
}

/// A parent to add.
#[derive(Debug, Args)]
pub(crate) struct ParentAdd {
    /// The interface that children will sit on: eth0, a bond, eth0.50
    #[arg(value_parser = text(check::iface))]
    iface: String,
    /// How XDP is attached
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    xdp: XdpMode,
    /// What happens to unicast frames from the wire for nobody here
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    unknown: UnknownPolicy,
    /// How many frames of each kind come in from the wire in a second, 0 for no limit; broadcast=1000
    /// if left out
    #[arg(long, value_name = "LIST")]
    storm: Option<StormLimits>,
    /// Which macvlan links that maclane has not made are adopted; no frame of the others passes
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    adopt: Adopt,
}

impl From<ParentAdd> for ParentSpec {
    fn from(ParentAdd { iface, xdp, unknown, storm, adopt }: ParentAdd) -> Self {
        Self { iface, xdp, unknown, storm: storm.unwrap_or_default(), adopt }
    }
}

/// What to do with the forwarding table.
#[derive(Debug, Subcommand)]
pub(crate) enum FdbCommand {
    /// List its entries
    Ls {
        /// Only those of this parent
        #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
        parent: Option<String>,
    },
}

/// Which counters to show, and how.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only this parent
    #[arg(long, value_name = "IFACE", value_parser = text(check::iface))]
    pub(crate) parent: Option<String>,
    /// Show rates every second, until Ctrl-C; with -o json, the counters on a line
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
