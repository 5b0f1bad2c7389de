//! Capturing in the kernel program: turning it on, reading what it tells, and its end.

use std::fs::{File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::perf::{PerfBufferError, PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Array, Map, MapData, PerfEventArray};
use aya::util::online_cpus;
use lb_common::capture::{Capture, MOST_BYTES, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock;

/// How often capturing must be renewed: four times in the two seconds that a renewal lasts.
pub const RENEWED_EVERY: Duration = Duration::from_millis(500);

/// Capturing: on from the first renewal, and off when it is dropped, or 2 s after the last renewal
/// of a process that was killed.
pub struct Captures {
    row: Array<MapData, Capture>,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    snap: u32,
    _turn: File,
}

impl Captures {
    /// Prepares to capture with the tables in `pin_dir`, `snap` bytes of each packet as it leaves.
    pub fn open(pin_dir: &Path, snap: u32) -> Result<Self> {
        let turn = take_turn(pin_dir)?;
        let pinned = |name: &str| {
            let path = pin_dir.join(name);
            if !path.exists() {
                bail!(
                    "the program that runs here is older than `pglb capture`: restart the \
                     controller with this version"
                );
            }
            MapData::from_pin(&path)
                .with_context(|| format!("cannot open the table {}", path.display()))
        };
        let row = Map::Array(pinned("CAPTURE")?).try_into()?;
        let mut queue: PerfEventArray<MapData> =
            Map::PerfEventArray(pinned("CAPTURES")?).try_into()?;
        let cpus = online_cpus()
            .map_err(|(_, error)| error)
            .context("cannot tell which CPUs there are")?;
        let pages = pages(cpus.len());
        let buffers = cpus
            .into_iter()
            .map(|cpu| open_buffer(&mut queue, cpu, pages));
        Ok(Self {
            row,
            buffers: buffers.collect::<Result<_>>()?,
            snap: snap.min(MOST_BYTES),
            _turn: turn,
        })
    }

    /// Has the program go on capturing for two seconds more.
    pub fn renew(&mut self) -> Result<()> {
        let capture = Capture::renewed(clock::kernel_tick(), self.snap);
        self.row
            .set(0, capture, 0)
            .context("cannot turn capturing on")
    }

    /// Waits until the program has told something, `stop` has input, or the time is up; tells
    /// whether it is `stop`.
    pub fn wait(&self, stop: BorrowedFd<'_>, limit: Duration) -> Result<bool> {
        let buffers = self.buffers.iter().map(AsFd::as_fd);
        let mut files: Vec<PollFd<'_>> = [stop]
            .into_iter()
            .chain(buffers)
            .map(|file| PollFd::new(file, PollFlags::POLLIN))
            .collect();
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, limit) {
            Ok(_) => Ok(files[0].any().unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// Reads what the program has told, a record and the packet as it left at a time; returns
    /// how many it had no room for.
    pub fn drain(&mut self, mut each: impl FnMut(&Record, &[u8])) -> u64 {
        let mut lost = 0;
        let mut joined = Vec::new();
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => {
                    joined.clear();
                    joined.extend_from_slice(head);
                    joined.extend_from_slice(tail);
                    if let Some((record, left)) = Record::read(&joined) {
                        each(&record, left);
                    }
                }
                PerfEvent::Lost { count } => lost += count,
            });
        }
        lost
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        // When it fails, the program turns itself off in two seconds.
        let _ = self.row.set(0, Capture::default(), 0);
    }
}

/// Two captures would take the packets from each other. The lock goes with the process.
fn take_turn(pin_dir: &Path) -> Result<File> {
    let directory =
        File::open(pin_dir).with_context(|| format!("cannot open {}", pin_dir.display()))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => bail!("another `pglb capture` runs here already"),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", pin_dir.display()))
        }
    }
}

/// A buffer for one CPU: large, or as large as a process without `CAP_IPC_LOCK` may have it.
fn open_buffer(
    queue: &mut PerfEventArray<MapData>,
    cpu: u32,
    pages: usize,
) -> Result<PerfEventArrayBuffer<MapData>> {
    let opened = match queue.open(cpu, Some(pages)) {
        Err(PerfBufferError::MMapError { .. }) => queue.open(cpu, Some(SMALLEST)),
        opened => opened,
    };
    opened.with_context(|| format!("cannot open the perf buffer of CPU {cpu}"))
}

/// Pages of a buffer for each of so many CPUs: a power of two, as perf wants it.
fn pages(cpus: usize) -> usize {
    let share = (ALL / cpus.max(1)).clamp(SMALLEST, LARGEST);
    1 << share.ilog2()
}

/// Pages of all buffers together, where there are more than a few CPUs: 64 MiB.
const ALL: usize = 16_384;
/// Pages of a buffer: 8 MiB.
const LARGEST: usize = 2_048;
/// Pages of a buffer: 128 KiB.
const SMALLEST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_what_many_cpus_need() {
        let sizes = [1, 2, 8, 9, 64, 96, 1_000, 4_096].map(pages);
        assert_eq!(sizes, [2048, 2048, 2048, 1024, 256, 128, 32, 32]);
    }
}
