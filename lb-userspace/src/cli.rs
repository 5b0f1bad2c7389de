//! The command line: what a user can type, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::units::parse_duration;
use crate::config::{DEFAULT_FILE, DEFAULT_SOCKET};
use crate::protocol::{BackendRef, ClientRef};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A layer-4 load balancer for PostgreSQL
#[derive(Debug, Parser)]
#[command(name = "pglb", version, styles = STYLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What pglb can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller in the foreground
    Run(RunArgs),
    /// Validate and explain a configuration; exit 0, or 2 with every error named
    Check(CheckArgs),
    /// Show services and backends; exit 0 ok, 1 degraded, 2 a service has no backend, 3 controller unreachable
    Status(StatusArgs),
    /// List open connections
    Connections(ConnectionsArgs),
    /// Send no new connections to a backend; the old ones may finish
    Drain(DrainArgs),
    /// Take a backend out of service
    Maint(BackendArgs),
    /// Put a backend back into service after drain or maint
    Ready(BackendArgs),
    /// Give a backend another weight, which outlives restarts and reloads
    Weight(WeightArgs),
    /// Reset connections now
    Kill(KillArgs),
    /// Tell which backend a new connection would get, and why
    Explain(ExplainArgs),
    /// Tell whether this host, its cards and the network are fit, and what to change; exit 0 fit, 1 warnings, 2 problems
    Doctor(DoctorArgs),
    /// Show the kernel's own tables; works when the controller is dead
    Dump(DumpArgs),
    /// Show or write the packets that XDP forwards, before and after, which tcpdump cannot see
    Capture(CaptureArgs),
    /// Take the XDP program and the pinned tables off this host
    Detach(HostArgs),
}

/// How a command reaches the controller.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// The controller's socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// How a command that works on the host itself knows what is there.
#[derive(Clone, Debug, Args)]
pub struct HostArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
}

/// `pglb run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
    /// Log rare events of the data path, one line each
    #[arg(long)]
    pub debug_datapath: bool,
}

/// `pglb check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `pglb status`
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Print JSON with stable keys
    #[arg(long)]
    pub json: bool,
    /// Show it again every so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub watch: Option<u32>,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb connections`
#[derive(Clone, Debug, Args)]
pub struct ConnectionsArgs {
    /// Only connections of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only connections on this backend
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<BackendRef>,
    /// Print JSON with stable keys
    #[arg(long)]
    pub json: bool,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb drain`
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// NAME or CLUSTER/NAME
    #[arg(value_name = "BACKEND")]
    pub backend: BackendRef,
    /// Wait until the last connection is gone; exit 0, or 2 when the time is up
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration, requires = "wait")]
    pub timeout: Duration,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb maint` and `pglb ready`
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    /// NAME or CLUSTER/NAME
    #[arg(value_name = "BACKEND")]
    pub backend: BackendRef,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb weight`
#[derive(Clone, Debug, Args)]
pub struct WeightArgs {
    /// NAME or CLUSTER/NAME
    #[arg(value_name = "BACKEND")]
    pub backend: BackendRef,
    /// 0 to 1000; 0 is no new connections
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub weight: u16,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb kill`
#[derive(Clone, Debug, Args)]
pub struct KillArgs {
    /// Whose connections are reset.
    #[command(flatten)]
    pub target: KillTargetArgs,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// Exactly one of these.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct KillTargetArgs {
    /// Reset every connection on this backend
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<BackendRef>,
    /// Reset every connection of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Reset every connection of this client, or the one of this port
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub client: Option<ClientRef>,
}

/// `pglb explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The service's name
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The client that would connect
    #[arg(value_name = "CLIENT_ADDR:PORT")]
    pub client: SocketAddr,
    /// The controller.
    #[command(flatten)]
    pub controller: SocketArgs,
}

/// `pglb doctor`
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file; without one in the usual place either, only the host is looked at
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON with stable keys
    #[arg(long)]
    pub json: bool,
}

/// `pglb dump`
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// The table
    #[arg(value_enum)]
    pub table: DumpTable,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// `pglb capture`
#[derive(Clone, Debug, Args)]
pub struct CaptureArgs {
    /// Only packets of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only packets of this client's connections
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub client: Option<ClientRef>,
    /// Write whole packets to a pcapng file, `-` for stdout, and show none
    #[arg(short, long, value_name = "FILE.pcapng")]
    pub write: Option<PathBuf>,
    /// End after this many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// The kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpTable {
    /// Services and their members
    Services,
    /// Backends and their load
    Backends,
    /// Connections
    Connections,
    /// Packets and connections by reason
    Counters,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_those_of_the_documentation() {
        let command = Cli::command();
        let names: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert_eq!(
            names.join(" "),
            "run check status connections drain maint ready weight kill explain doctor dump capture detach"
        );
    }

    #[test]
    fn every_flag_has_its_sentence() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = format!("{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{name}");
            }
        }
    }

    #[test]
    fn documented_lines_are_understood() {
        for line in [
            "pglb run -c /etc/pglb/pglb.toml",
            "pglb run --debug-datapath",
            "pglb check config/pglb.toml",
            "pglb status --json -w 2",
            "pglb doctor --json -c /etc/pglb/pglb.toml",
            "pglb connections --service orders-rw --backend orders/pg1 --json",
            "pglb drain pg1 --wait --timeout 5m",
            "pglb drain orders/pg1",
            "pglb maint pg1 --socket /tmp/pglb.sock",
            "pglb ready pg1",
            "pglb weight pg1 0",
            "pglb kill --backend pg1",
            "pglb kill --service orders-rw",
            "pglb kill --client 10.71.0.5",
            "pglb kill --client 10.71.0.5:41022",
            "pglb kill --client 2001:db8:71::5",
            "pglb kill --client [2001:db8:71::5]:41022",
            "pglb explain orders-ro 10.71.0.5:41022",
            "pglb explain orders-ro [2001:db8:71::5]:41022",
            "pglb doctor",
            "pglb doctor --json -c /etc/pglb/pglb.toml",
            "pglb dump connections --json -c /etc/pglb/pglb.toml",
            "pglb capture --service orders-rw --client 10.71.0.5:41022 -w out.pcapng --count 10",
            "pglb capture -w - -c /etc/pglb/pglb.toml",
            "pglb detach",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "pglb",
            "pglb status -w 0",
            "pglb drain",
            "pglb drain a/b/c",
            "pglb drain pg1 --wait --timeout 5",
            "pglb drain pg1 --timeout 5m",
            "pglb weight pg1 1001",
            "pglb kill",
            "pglb kill --backend pg1 --service orders-rw",
            "pglb kill --client pg1",
            "pglb kill --client [2001:db8:71::5]",
            "pglb explain orders-ro 10.71.0.5",
            "pglb explain orders-ro 2001:db8:71::5",
            "pglb dump everything",
            "pglb capture --count 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn drain_waits_five_minutes_unless_told_otherwise() {
        let Ok(Command::Drain(drain)) = parse("pglb drain pg1 --wait") else {
            panic!("drain was not understood");
        };
        assert_eq!(drain.timeout, Duration::from_secs(300));
    }
}
