//! pglb itself, run in the gateway's namespace as a user would run it.

use std::{
    env,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    clock, command,
    process::{self, Signal},
    status::Status,
    topology::{self, Host, Network},
};

/// A configuration, made from the demo's by replacing parts of its text.
#[derive(Clone, Debug)]
pub struct Config {
    text: String,
}

impl Config {
    /// The file the demo runs with.
    pub fn demo() -> Self {
        Self {
            text: include_str!("../../config/demo.toml").to_owned(),
        }
    }

    /// One service of what is not PostgreSQL, on all hosts.
    pub fn plain() -> Self {
        Self {
            text: include_str!("plain.toml").to_owned(),
        }
    }

    /// A configuration written by the test.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// Replaces every `old` by `new`; an `old` that is not there is an error of the test.
    pub fn replace(mut self, old: &str, new: &str) -> Result<Self> {
        ensure!(self.text.contains(old), "the configuration has no {old:?}");
        self.text = self.text.replace(old, new);
        Ok(self)
    }

    /// Adds a line to every service.
    pub fn with_service_line(mut self, line: &str) -> Self {
        self.text = self
            .text
            .replace("[[service]]\n", &format!("[[service]]\n{line}\n"));
        self
    }

    /// The configuration as it must be for a network: its family's addresses, its interfaces, and no host that is
    /// not there.
    pub fn fitted_to(&self, network: &Network) -> Self {
        let is_there = |line: &&str| {
            let name = line.trim_start().strip_prefix("{ name = \"");
            let name = name.and_then(|rest| rest.split('"').next());
            name.is_none_or(|name| network.hosts().iter().any(|host| host.name() == name))
        };
        let interfaces = format!("interfaces = {:?}", network.interfaces());
        let line_of = |line| {
            if str::starts_with(line, "interfaces") {
                &interfaces
            } else {
                line
            }
        };
        let lines: Vec<&str> = self.text.lines().filter(is_there).map(line_of).collect();
        let vip = (IpAddr::V4(topology::VIP), network.address(topology::VIP));
        let hosts = (11..).map(|last| Ipv4Addr::new(10, 72, 0, last).into());
        let hosts = hosts.zip(network.hosts().iter().map(Host::address));
        let replace = |text: String, (old, new)| text.replace(&quoted(old), &quoted(new));
        Self {
            text: hosts.chain([vip]).fold(lines.join("\n") + "\n", replace),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets a key of `[gateway]`, whether it was there or not.
    fn with_gateway_key(&self, key: &str, value: &Path) -> Self {
        let is_it = |line: &&str| line.split('=').next().is_none_or(|name| name.trim() != key);
        let kept: Vec<&str> = self.text.lines().filter(is_it).collect();
        let line = format!("[gateway]\n{key} = \"{}\"", value.display());
        Self {
            text: kept.join("\n").replacen("[gateway]", &line, 1) + "\n",
        }
    }
}

/// A running pglb. Dropping it takes the program and the pins off the gateway again.
#[derive(Debug)]
pub struct Gateway {
    network: Arc<Network>,
    binary: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    pins: PathBuf,
    log: PathBuf,
    controller: Option<Child>,
}

impl Gateway {
    /// Starts pglb with a configuration whose `pin_dir` and `control_socket` are replaced by the network's own, and
    /// waits until `pglb status` answers.
    pub fn start(network: &Arc<Network>, config: &Config) -> Result<Self> {
        let directory = network.directory();
        let own = network.name().replacen(topology::PREFIX, "pglb-test-", 1);
        let mut gateway = Self {
            network: Arc::clone(network),
            binary: find_binary()?,
            config: directory.join("pglb.toml"),
            socket: directory.join("pglb.sock"),
            pins: Path::new(topology::PINS).join(own),
            log: directory.join("pglb.log"),
            controller: None,
        };
        gateway.write_config(config)?;
        gateway.launch()?;
        Ok(gateway)
    }

    /// Starts the controller again, after [`Self::kill`] or [`Self::terminate`], and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut run = self.command(&["run"]);
        run.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.controller = Some(run.spawn().context("cannot start pglb")?);
        let mut ended = None;
        let answered = clock::wait_for("an answer of `pglb status`", STARTUP, || {
            ended = self
                .controller
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            ended.is_some() || self.status().is_ok()
        });
        answered.with_context(|| self.log())?;
        ensure!(
            ended.is_none(),
            "pglb ended while it started ({ended:?}): {}",
            self.log()
        );
        Ok(())
    }

    /// Replaces the configuration file; a running controller is not told.
    pub fn write_config(&self, config: &Config) -> Result<()> {
        let own = config
            .with_gateway_key("pin_dir", &self.pins)
            .with_gateway_key("control_socket", &self.socket);
        fs::write(&self.config, own.text()).context("cannot write the configuration")
    }

    /// A `pglb` command on the gateway, with the option that leads it to this instance.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.gateway().command(&self.binary);
        command.args(arguments);
        match arguments.first() {
            Some(&("run" | "doctor" | "dump" | "capture" | "detach")) => {
                command.arg("-c").arg(&self.config)
            }
            _ => command.arg("--socket").arg(&self.socket),
        };
        command
    }

    /// Runs a `pglb` command that must succeed, and returns what it printed.
    pub fn pglb(&self, arguments: &[&str]) -> Result<String> {
        command::run(&mut self.command(arguments))
    }

    /// Runs a `pglb` command whose failure is a result like any other.
    pub fn observe(&self, arguments: &[&str]) -> Result<Output> {
        command::observe(&mut self.command(arguments))
    }

    /// The table of `pglb status`, whether all is well or not.
    pub fn table(&self) -> Result<String> {
        let output = self.observe(&["status"])?;
        ensure!(
            output.status.code() != Some(UNREACHABLE),
            "{}",
            command::text_of(&output.stderr).trim()
        );
        Ok(command::text_of(&output.stdout))
    }

    /// What `pglb status --json` shows; a degraded service is no error.
    pub fn status(&self) -> Result<Status> {
        let output = self.observe(&["status", "--json"])?;
        ensure!(
            output.status.code() != Some(UNREACHABLE),
            "{}",
            command::text_of(&output.stderr).trim()
        );
        Status::parse(&command::text_of(&output.stdout))
    }

    /// Waits until the status is as a test needs it, and returns it.
    pub fn await_status(
        &self,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let waited = clock::wait_for(what, limit, || {
            last = self.status().ok();
            last.as_ref().is_some_and(&is_it)
        });
        waited.with_context(|| format!("last seen: {last:?}"))?;
        last.context("no status was seen")
    }

    /// Waits until exactly these backends are eligible in a service.
    pub fn await_eligible(
        &self,
        service: &str,
        backends: &[&str],
        limit: Duration,
    ) -> Result<Status> {
        let what = format!("{service} having exactly {backends:?} eligible");
        self.await_status(&what, limit, |status| status.eligible(service) == backends)
    }

    /// Kills the controller (SIGKILL).
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::KILL)
    }

    /// Stops the controller as systemd does (SIGTERM).
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::TERM)
    }

    /// Has the controller read its configuration again (SIGHUP).
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.write_config(config)?;
        let controller = self
            .controller
            .as_ref()
            .context("the controller does not run")?;
        process::send(controller.id(), Signal::HUP);
        Ok(())
    }

    /// Where this instance pins its maps and links.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where its log goes.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What the controller has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut controller = self
            .controller
            .take()
            .context("the controller does not run")?;
        process::send(controller.id(), signal);
        process::wait(&mut controller, STARTUP)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            show(&format!("what pglb logged:\n{}", self.log()));
        }
        let _ = self.kill();
        if self.pins.exists() {
            let _ = self.observe(&["detach"]);
            let _ = fs::remove_dir_all(&self.pins);
        }
    }
}

/// Where cargo has put `pglb`: beside this very program, or one directory up from a test. `PGLB_BINARY` names another.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("PGLB_BINARY") {
        return Ok(binary.into());
    }
    let this = env::current_exe().context("cannot find this program")?;
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("pglb"))
        .find(|path| path.is_file());
    found.context("pglb is not built: run `cargo build` first")
}

/// How an address begins in a configuration, up to its port.
fn quoted(address: IpAddr) -> String {
    let socket = SocketAddr::new(address, 0).to_string();
    format!("\"{}", socket.trim_end_matches('0'))
}

/// Exit status of `pglb status` when the controller does not answer.
const UNREACHABLE: i32 = 3;
/// Limit for the controller's start and end.
const STARTUP: Duration = Duration::from_secs(20);

#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn show(text: &str) {
    eprintln!("{text}");
}
