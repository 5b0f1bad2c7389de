//! The directory in which maps and links are pinned: made on a BPF file system, which is mounted
//! where there is none.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Makes `pin_dir` on a BPF file system.
///
/// Where the nearest existing directory is on none, one is mounted: on `/sys/fs/bpf` when
/// `pin_dir` lies under it, as every other tool expects, else on `pin_dir` itself.
pub fn prepare(pin_dir: &Path) -> Result<()> {
    if !pin_dir.is_absolute() {
        bail!("pin_dir {} is no absolute path", pin_dir.display());
    }
    if is_on_bpffs(nearest_existing(pin_dir))? {
        return make_directory(pin_dir);
    }
    let usual = Path::new(USUAL_MOUNT);
    if pin_dir.starts_with(usual) {
        mount_bpffs(usual)?;
        make_directory(pin_dir)
    } else {
        let was_there = pin_dir.exists();
        make_directory(pin_dir)?;
        mount_bpffs(pin_dir).inspect_err(|_| {
            if !was_there {
                let _ = fs::remove_dir(pin_dir);
            }
        })
    }
}

/// Takes an empty `pin_dir` away again, with the BPF file system that is mounted on it, if any.
///
/// A file system on `/sys/fs/bpf` stays: others may use it. A directory that still holds pins is
/// an error, and is left as it is; one that is not there is none.
pub fn release(pin_dir: &Path) -> Result<()> {
    let names = match fs::read_dir(pin_dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    let names = names.map_err(|error| explain(error, "reading", pin_dir))?;
    if names
        .iter()
        .any(|name| !KERNELS_OWN.iter().any(|own| name == own))
    {
        bail!("{} still holds pins", pin_dir.display());
    }
    if pin_dir == Path::new(USUAL_MOUNT) {
        return Ok(());
    }
    if is_on_bpffs(pin_dir)? && is_mount_point(pin_dir)? {
        umount2(pin_dir, MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| explain(errno, "unmounting bpffs from", pin_dir))?;
    }
    match fs::remove_dir(pin_dir) {
        Ok(()) => Ok(()),
        // A directory of the host that something was put into meanwhile, or that holds a mount.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("removing {}", pin_dir.display())),
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| explain(error, "making", path))
}

fn mount_bpffs(target: &Path) -> Result<()> {
    // Pins are handles to the data plane: nobody but root shall find them.
    let mode = Some("mode=0700");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), target, Some("bpf"), flags, mode)
        .map_err(|errno| explain(errno, "mounting bpffs on", target))
}

fn is_on_bpffs(path: &Path) -> Result<bool> {
    let found = statfs(path).map_err(|errno| explain(errno, "looking at", path))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether another file system begins at `path` than the one that its parent is on.
fn is_mount_point(path: &Path) -> Result<bool> {
    let device = |path: &Path| -> Result<u64> {
        let metadata =
            fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        Ok(metadata.dev())
    };
    match path.parent() {
        Some(parent) => Ok(device(path)? != device(parent)?),
        None => Ok(true),
    }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or_else(|| Path::new("/"))
}

fn explain(error: impl Into<io::Error>, doing: &str, path: &Path) -> anyhow::Error {
    let error = error.into();
    let doing = format!("{doing} {}", path.display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        anyhow::anyhow!("{doing} needs root")
    } else {
        anyhow::Error::new(error).context(doing)
    }
}

/// Where the BPF file system is mounted on most hosts.
const USUAL_MOUNT: &str = "/sys/fs/bpf";
/// What a kernel built with `CONFIG_BPF_PRELOAD` puts into every BPF file system by itself.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::shell::lone_thread;

    #[test]
    fn a_relative_directory_is_refused() {
        let error = prepare(Path::new("pins")).unwrap_err();
        assert_eq!(error.to_string(), "pin_dir pins is no absolute path");
    }

    #[test]
    fn what_is_not_there_is_released_already() {
        release(Path::new("/nonexistent/pglb")).unwrap();
    }

    #[test]
    fn the_nearest_existing_directory_is_found_above_the_missing_ones() {
        assert_eq!(
            nearest_existing(Path::new("/proc/no/such")),
            Path::new("/proc")
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn under_the_usual_mount_bpffs_is_mounted_there_and_stays() {
        lone_thread::with_own_mounts(|| {
            mount_tmpfs(USUAL_MOUNT);
            let pin_dir = Path::new("/sys/fs/bpf/pglb/deep");
            prepare(pin_dir).unwrap();
            assert!(is_on_bpffs(pin_dir).unwrap());
            prepare(pin_dir).unwrap();

            release(pin_dir).unwrap();
            assert!(!pin_dir.exists());
            assert!(is_on_bpffs(Path::new(USUAL_MOUNT)).unwrap());
        });
    }

    #[test]
    #[ignore = "needs root"]
    fn elsewhere_bpffs_is_mounted_on_the_directory_itself_and_goes_with_it() {
        lone_thread::with_own_mounts(|| {
            mount_tmpfs("/mnt");
            let pin_dir = PathBuf::from("/mnt/pglb/pins");
            prepare(&pin_dir).unwrap();
            assert!(is_on_bpffs(&pin_dir).unwrap());
            assert!(is_mount_point(&pin_dir).unwrap());
            prepare(&pin_dir).unwrap();

            fs::create_dir(pin_dir.join("pin")).unwrap();
            let error = release(&pin_dir).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} still holds pins", pin_dir.display())
            );
            fs::remove_dir(pin_dir.join("pin")).unwrap();

            release(&pin_dir).unwrap();
            assert!(!pin_dir.exists());
        });
    }

    /// Hides whatever the host has there, with what the test makes.
    fn mount_tmpfs(target: &str) {
        let flags = MsFlags::empty();
        mount(Some("none"), target, Some("tmpfs"), flags, None::<&str>).unwrap();
    }
}
