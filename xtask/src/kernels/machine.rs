//! A virtual machine that boots a kernel, runs a script over this machine's files, and ends.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{clock, command::run};

use crate::setup;

/// The first process of the machine.
const INIT: &str = include_str!("init.sh");
/// The modules that the way to this machine's files and the test networks need: directories of the tree, and how the
/// names there begin.
const MODULES: [(&str, &str); 7] = [
    ("drivers/virtio", ""),
    ("fs/fuse", ""),
    ("fs/overlayfs", ""),
    ("drivers/net", "veth."),
    ("net/8021q", ""),
    ("net/802", ""),
    ("net/llc", ""),
];
/// Long enough for a verifier under emulation; a machine that hangs is ended then.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// What `init.sh` says at its end if every test program ended well.
pub(super) const ALL_WELL: &str = "outcome: 0";

/// What a machine boots from.
pub(super) struct Image {
    /// The kernel's full version.
    pub(super) release: String,
    kernel: PathBuf,
    file_system: PathBuf,
    directory: PathBuf,
}

/// Makes a first file system of busybox, the modules, and the script.
pub(super) fn image(tree: &Path, directory: &Path, script: &str) -> Result<Image> {
    let modules = only_entry(&tree.join("lib/modules"))
        .or_else(|_| only_entry(&tree.join("usr/lib/modules")))?;
    let release = modules.file_name().unwrap_or_default();
    let release = release.to_string_lossy().into_owned();
    let busybox = [tree.join("bin/busybox"), tree.join("usr/bin/busybox")];
    let busybox = busybox.iter().find(|path| path.exists());
    let busybox = busybox.context("the package of busybox has no busybox")?;

    let first = directory.join("initramfs");
    let _ = fs::remove_dir_all(&first);
    for name in ["bin", "dev", "host", "layer", "proc", "root", "sys"] {
        fs::create_dir_all(first.join(name))?;
    }
    fs::copy(busybox, first.join("bin/busybox"))?;
    symlink("busybox", first.join("bin/sh"))?;
    fs::write(first.join("init"), INIT)?;
    fs::set_permissions(first.join("init"), PermissionsExt::from_mode(0o755))?;
    fs::write(first.join("script"), script)?;
    let own = first.join("lib/modules").join(&release);
    fs::create_dir_all(&own)?;
    for (part, start) in MODULES {
        copy_modules(&modules.join("kernel").join(part), start, &own)?;
    }
    // It tells modules from what is built in.
    fs::copy(modules.join("modules.builtin"), own.join("modules.builtin"))?;
    run(Command::new(busybox)
        .arg("depmod")
        .arg("-b")
        .args([&first])
        .arg(&release))?;

    let file_system = directory.join("initramfs.cpio");
    let pack = "find . | \"$1\" cpio -o -H newc > \"$2\"";
    run(Command::new("sh")
        .args(["-c", pack, "sh"])
        .args([&fs::canonicalize(busybox)?, &file_system])
        .current_dir(&first))?;
    Ok(Image {
        kernel: tree.join("boot").join(format!("vmlinuz-{release}")),
        release,
        file_system,
        directory: directory.to_owned(),
    })
}

/// Copies the modules of a directory whose names begin so, uncompressed.
fn copy_modules(from: &Path, start: &str, to: &Path) -> Result<()> {
    // What a kernel has built in has no directory.
    for entry in fs::read_dir(from).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(start) || !name.contains(".ko") {
            continue;
        }
        let copy = to.join(&*name);
        fs::copy(&path, &copy)?;
        match path.extension().and_then(|it| it.to_str()) {
            Some("xz") => run(Command::new("xz").arg("-d").arg(&copy)).map(drop)?,
            Some("zst") => {
                run(Command::new("zstd").args(["-q", "-d", "--rm"]).arg(&copy)).map(drop)?
            }
            _ => {}
        }
    }
    Ok(())
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    Ok(entries.next().context("an empty directory")??.path())
}

/// Boots the machine and waits for its end; tells where its console was written.
pub(super) fn boot(image: &Image) -> Result<PathBuf> {
    // The path of a socket has room for a hundred letters only.
    let socket = env::temp_dir().join(format!("pglb-kernels-{}.sock", process::id()));
    let console = image.directory.join("console.log");
    let shared = setup::find_file_server().context("virtiofsd is not there")?;
    // It ends with the machine, which is its only client.
    let mut files = Command::new(shared)
        .arg(format!("--socket-path={}", socket.display()))
        // Its other ways to lock itself in need rights that a container may lack.
        .args(["-o", "source=/,cache=auto,sandbox=chroot"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run virtiofsd")?;
    let result = clock::wait_for("virtiofsd", Duration::from_secs(10), || socket.exists())
        .and_then(|_| emulate(image, &socket, &console));
    let _ = files.kill();
    files.wait()?;
    let _ = fs::remove_file(&socket);
    result.map(|()| console)
}

fn emulate(image: &Image, socket: &Path, console: &Path) -> Result<()> {
    let output = Command::new("timeout")
        .arg(LONGEST.as_secs().to_string())
        .args([
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .args(["-machine", "q35", "-smp", "2", "-m", "2G"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        // The server of the files reads and writes the machine's memory.
        .args(["-object", "memory-backend-memfd,id=memory,size=2G,share=on"])
        .args(["-numa", "node,memdev=memory"])
        .args([
            "-chardev",
            &format!("socket,id=files,path={}", socket.display()),
        ])
        .args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.file_system)
        .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run qemu-system-x86_64")?;
    ensure!(
        output.status.success(),
        "the machine did not end by itself: {}; its console is in {}",
        String::from_utf8_lossy(&output.stderr).trim(),
        console.display()
    );
    Ok(())
}

/// What the console shows, in lines.
pub(super) fn read(console: &Path) -> Result<String> {
    let bytes = fs::read(console)?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

/// The end of it, where what went wrong is most likely; a verifier's log can be very long.
pub(super) fn tail(text: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(LINES);
    lines[last..]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}
