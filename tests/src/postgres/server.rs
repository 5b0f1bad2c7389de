//! One PostgreSQL server: its files, its processes, and what can happen to it.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};

use super::{Options, PROBE_PASSWORD, PROBE_USER, STARTUP, find_account, find_binaries};
use crate::{
    clock, command,
    process::{self, Signal},
    topology::{Host, Network},
};

/// One PostgreSQL server. Dropping it ends its processes.
#[derive(Debug)]
pub struct Server {
    network: Arc<Network>,
    index: usize,
    directory: PathBuf,
    binaries: PathBuf,
    account: (u32, u32),
    postmaster: Option<Child>,
}

impl Server {
    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.network.hosts()[self.index]
    }

    /// Runs SQL as superuser through the Unix socket, which works whatever the network does; rows come as lines,
    /// columns separated by `|`.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args([
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-h",
        ]);
        let rows = command::run(psql.arg(&self.directory).args(["-c", statement]))?;
        Ok(rows.trim_end().to_owned())
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], and waits until it accepts connections.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.await_readiness()
    }

    /// Stops it in an orderly way; clients are told.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(());
        };
        process::send(postmaster.id(), Signal::INT);
        process::wait(&mut postmaster, STARTUP).map(drop)
    }

    /// Kills all of its processes at once (SIGKILL). The host's kernel stays, and answers with RST.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(());
        };
        // A stopped postmaster starts no process that would escape.
        process::send(postmaster.id(), Signal::STOP);
        let children = process::children_of(postmaster.id());
        process::send(postmaster.id(), Signal::KILL);
        children
            .iter()
            .for_each(|pid| process::send(*pid, Signal::KILL));
        process::wait(&mut postmaster, STARTUP)?;
        clock::wait_for("the end of all server processes", STARTUP, || {
            !children.iter().any(|pid| process::is_running(*pid))
        })?;
        remove_shared_memory(&self.directory);
        Ok(())
    }

    /// Stops all of its processes in their tracks (SIGSTOP). The kernel still accepts connections for them.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets its processes go on after [`Self::pause`].
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Promotes a replica, and returns when it is the primary.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.sql("select pg_promote(true, 30)")?;
        ensure!(
            promoted == "t",
            "{} was not promoted: {promoted}",
            self.host().name()
        );
        Ok(())
    }

    /// Makes a replica stream from another server, such as a new primary.
    pub fn follow(&self, primary: &Self) -> Result<()> {
        self.sql(&format!(
            "alter system set primary_conninfo = '{}'",
            primary.replication_address()
        ))?;
        self.sql("select pg_reload_conf()").map(drop)
    }

    /// Fills the tables that pgbench works on.
    pub fn fill(&self) -> Result<()> {
        let mut pgbench = Command::new(self.binaries.join("pgbench"));
        pgbench
            .args(["-iq", "-s", "1", "-U", "postgres", "-h"])
            .arg(&self.directory)
            .arg("postgres");
        command::run(&mut pgbench).map(drop)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(super) fn prepare(network: &Arc<Network>, index: usize) -> Result<Self> {
        let directory = network.directory().join(network.hosts()[index].name());
        let account = find_account()?;
        fs::create_dir_all(&directory)?;
        std::os::unix::fs::chown(&directory, Some(account.0), Some(account.1))?;
        let binaries = find_binaries()?;
        Ok(Self {
            network: Arc::clone(network),
            index,
            directory,
            binaries,
            account,
            postmaster: None,
        })
    }

    pub(super) fn initialize(&self, options: Options) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--locale=C",
            "--encoding=UTF8",
        ]);
        command::run(initdb.args(["--wal-segsize=1", "-D"]).arg(self.data()))?;

        let mut settings = File::options()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        writeln!(
            settings,
            "{SETTINGS}max_connections = {}",
            options.max_connections
        )?;
        let method = if options.asks_password {
            "scram-sha-256"
        } else {
            "trust"
        };
        let access = format!(
            "local all all trust\nhost replication all all trust\nhost all all all {method}\n"
        );
        fs::write(self.data().join("pg_hba.conf"), access)?;

        let mut single = self.command("postgres");
        single
            .args(["--single", "-D"])
            .arg(self.data())
            .arg("postgres");
        let mut child = single
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut statements = format!("create role {PROBE_USER} login in role pg_monitor\n");
        for user in [PROBE_USER, "postgres"] {
            writeln!(statements, "alter role {user} password '{PROBE_PASSWORD}'")?;
        }
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(statements.as_bytes())?;
        let status = process::wait(&mut child, STARTUP)?;
        ensure!(status.success(), "the first statements failed ({status})");
        Ok(())
    }

    pub(super) fn copy_from(&self, primary: &Self) -> Result<()> {
        command::run(
            Command::new("cp")
                .arg("-a")
                .arg(primary.data())
                .arg(self.data()),
        )?;
        File::create(self.data().join("standby.signal"))?;
        let mut settings = File::options()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        writeln!(
            settings,
            "primary_conninfo = '{}'",
            primary.replication_address()
        )?;
        Ok(())
    }

    fn replication_address(&self) -> String {
        format!("host={} user=postgres", self.host().address())
    }

    pub(super) fn launch(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut postgres = self.command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.directory);
        postgres
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.postmaster = Some(postgres.spawn().context("cannot start postgres")?);
        Ok(())
    }

    pub(super) fn await_readiness(&self) -> Result<()> {
        let ready = || {
            let mut command = Command::new(self.binaries.join("pg_isready"));
            command::observe(command.arg("-q").arg("-h").arg(&self.directory))
                .is_ok_and(|out| out.status.success())
        };
        clock::wait_for(
            &format!("the start of PostgreSQL on {}", self.host().name()),
            STARTUP,
            ready,
        )
        .with_context(|| self.log())
        .map(drop)
    }

    /// A server program, on its host and as its account: PostgreSQL does not run as root.
    fn command(&self, program: &str) -> Command {
        let (user, group) = self.account;
        let mut command = self.host().namespace().command("setpriv");
        command.args([
            format!("--reuid={user}"),
            format!("--regid={group}"),
            "--clear-groups".to_owned(),
        ]);
        command.arg(self.binaries.join(program));
        // Ctrl-C at a terminal is for the owner alone, who then ends the servers in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.current_dir(&self.directory);
        command
    }

    fn signal_all(&self, signal: Signal) {
        let Some(postmaster) = &self.postmaster else {
            return;
        };
        process::send(postmaster.id(), signal);
        process::children_of(postmaster.id())
            .iter()
            .for_each(|pid| process::send(*pid, signal));
    }

    fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A killed server leaves the segment of System V memory by which it would recognize a second start.
pub(crate) fn remove_shared_memory(directory: &Path) {
    let Ok(lock) = fs::read_to_string(directory.join(DATA).join("postmaster.pid")) else {
        return;
    };
    let segment = lock
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = segment {
        let _ = command::observe(Command::new("ipcrm").args(["-m", id]));
    }
}

/// The data directory, within the server's own.
const DATA: &str = "data";
/// Durability is not what is tested; a small memory and a quick reconnection are wanted.
const SETTINGS: &str = "
listen_addresses = '*'
fsync = off
full_page_writes = off
synchronous_commit = off
shared_buffers = 16MB
autovacuum = off
max_wal_senders = 10
wal_keep_size = 256MB
wal_retrieve_retry_interval = 200ms
logging_collector = off
log_destination = stderr
log_min_messages = log
";
