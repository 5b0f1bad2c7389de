//! Whether this kernel accepts the program: it is loaded, attached to nothing, and let go.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::places::Places;
use super::{OBJECT, PROGRAM, explain_rejection, program};

/// What became of the trial.
#[derive(Debug)]
pub enum Outcome {
    /// The kernel accepts the program.
    Accepted,
    /// It does not, and why.
    Rejected(anyhow::Error),
    /// It was not asked: there is no place to try, for this process.
    NotTried(anyhow::Error),
}

/// Loads the program with small tables.
///
/// The tables want to be pinned, so they are, on a BPF file system that a thread of its own
/// mounts where nobody else sees it: both are gone with the thread.
pub fn load() -> Outcome {
    let apart = || match make_place() {
        Ok(()) => load_here().map_or_else(Outcome::Rejected, |()| Outcome::Accepted),
        Err(error) => Outcome::NotTried(error),
    };
    let trial = thread::scope(|scope| scope.spawn(apart).join());
    trial.unwrap_or_else(|_| Outcome::NotTried(anyhow!("the trial ended early")))
}

/// Mounts a BPF file system that belongs to this thread alone.
fn make_place() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("cannot make mounts private")?;
    let kind = Some("bpf");
    mount(kind, PLACE, kind, MsFlags::empty(), nothing).context("cannot mount bpffs")
}

fn load_here() -> Result<()> {
    let place = Path::new(PLACE);
    let places = Places::new(place, BUCKETS)?;
    let mut ebpf = places
        .loader(place)
        .load(OBJECT)
        .context("cannot make the tables")?;
    places.settle(&mut ebpf, place)?;
    program(&mut ebpf, PROGRAM)?
        .load()
        .map_err(explain_rejection)
}

/// Where the trial's own BPF file system goes, over whatever is there.
const PLACE: &str = "/sys/fs/bpf";
/// The buckets of tables in which nothing is ever put.
const BUCKETS: u32 = 1;

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "needs root"]
    fn this_kernel_accepts_the_program_and_nothing_is_left() {
        let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
        let before = mounts();
        let outcome = super::load();
        assert!(matches!(outcome, super::Outcome::Accepted), "{outcome:?}");
        assert_eq!(mounts(), before);
    }
}
