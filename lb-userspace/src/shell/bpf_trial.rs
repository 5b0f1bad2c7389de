//! Whether this kernel accepts the program: it is loaded, attached to nothing, and let go.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use aya::EbpfLoader;
use aya::programs::Xdp;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::bpf::{OBJECT, PROGRAM, explain_rejection};

/// Loads the program with small tables; an error says why the kernel does not take it.
///
/// The tables want to be pinned, so they are, on a BPF file system that a thread of its own
/// mounts where nobody else sees it: both are gone with the thread.
pub fn load() -> Result<()> {
    let trial = thread::scope(|scope| scope.spawn(load_apart).join());
    trial.map_err(|_| anyhow!("the trial ended early"))?
}

/// Whether this process may try: to mount takes more than to load.
pub fn is_allowed() -> bool {
    thread::scope(|scope| {
        scope
            .spawn(|| unshare(CloneFlags::CLONE_NEWNS).is_ok())
            .join()
            .unwrap_or(false)
    })
}

fn load_apart() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("cannot make mounts private")?;
    let place = Path::new("/sys/fs/bpf");
    mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), nothing)
        .context("cannot mount bpffs")?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(place)
        .map_max_entries("ESTABLISHED", FLOWS)
        .map_max_entries("TRANSIENT", FLOWS)
        .override_global("DEBUG_DATAPATH", &0_u32, true)
        .override_global("REDIRECT_BACK", &0_u32, true)
        .load(OBJECT)
        .context("cannot make the tables")?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .context("the object has no XDP program")?
        .try_into()?;
    program.load().map_err(explain_rejection)
}

/// Room for a trial that forwards nothing (flows).
const FLOWS: u32 = 256;

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "needs root"]
    fn this_kernel_accepts_the_program_and_nothing_is_left() {
        let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
        let before = mounts();
        super::load().unwrap();
        assert_eq!(mounts(), before);
    }
}
