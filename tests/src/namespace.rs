//! A network namespace: commands run in it, threads work in it, and it is gone when its owner is.

use std::{
    ffi::OsStr, fs::File, os::fd::AsFd as _, panic, process::Command, thread, time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{clock, command, process};

/// A named network namespace. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with its loopback up.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let namespace = Self { name: name.into() };
        command::run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.run("ip link set lo up")?;
        // Nobody else has the addresses of a test: they need not be asked for, which would take a second.
        namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. It keeps the mounts of this process, which `ip netns exec` and `ip -n` would not: a
    /// pin made inside stays visible outside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command inside, which must succeed; the words are separated by single spaces.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        command::run(self.command(program).args(words))
    }

    /// Works inside: sockets opened by `work`, or by threads it starts, belong to this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter the network namespace")?;
                Ok(work())
            });
            // A failed assertion inside is the caller's.
            inside
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends every process in a namespace and removes it.
pub(crate) fn remove(name: &str) {
    let inside = || -> Vec<u32> {
        let listed =
            command::run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
        listed
            .lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .filter(|pid| process::is_running(*pid))
            .collect()
    };
    // A process may start another one between the list and the signal.
    let _ = clock::wait_for("the end of all processes", Duration::from_secs(10), || {
        let pids = inside();
        pids.iter()
            .for_each(|pid| process::send(*pid, process::Signal::KILL));
        pids.is_empty()
    });
    let _ = command::run(Command::new("ip").args(["netns", "del", name]));
}
