//! Signals to processes that were started here, by their id.

use std::{
    fs,
    process::{Child, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::clock;

/// Sends a signal; a process that has ended meanwhile is no error.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // The only other failure is a missing permission, and root has it.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// The children of a process that still run.
pub fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state_of(*pid).is_some_and(|(state, ppid)| ppid == parent && state != 'Z'))
        .collect()
}

/// Does the process still run? One that only waits for its parent to notice its end does not.
pub fn is_running(pid: u32) -> bool {
    state_of(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Waits for a child that was told to end.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let mut status = None;
    clock::wait_for(&format!("the end of process {}", child.id()), limit, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    status.context("the process has no exit status")
}

/// State letter and parent of a process, from `/proc/PID/stat`.
fn state_of(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
