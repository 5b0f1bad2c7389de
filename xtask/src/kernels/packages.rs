//! A kernel's packages, fetched and unpacked by apt and dpkg without installing anything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use pglb_tests::command::run;

use super::{Kernel, Trust};

/// Where the program comes from that is the whole of the machine's own user space.
const BUSYBOX: (&str, &str) = (
    "http://deb.debian.org/debian bookworm main",
    "busybox-static",
);
const DEBIAN_KEYS: &str = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";

/// The newest kernel of its source and busybox, unpacked below `directory`; tells where.
pub(super) fn fetch(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let apt = Apt::new(kernel, directory)?;
    apt.get(&["update"])?;
    let image = apt.dependency(kernel.package, "linux-image-")?;
    // Ubuntu has the modules in a package of their own, on which that of the image depends.
    let modules = apt.dependency(&image, "linux-modules-").ok();
    let tree = directory.join(&image);
    if tree.exists() {
        return Ok(tree);
    }
    let packages = [Some(image.as_str()), modules.as_deref(), Some(BUSYBOX.1)];
    let names: Vec<&str> = packages.into_iter().flatten().collect();
    apt.get(&[&["download"], names.as_slice()].concat())?;
    let unpacked = directory.join("unpacked");
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "deb") {
            run(Command::new("dpkg-deb").arg("-x").args([&path, &unpacked]))?;
            fs::remove_file(&path)?;
        }
    }
    // The name tells that all of it is there.
    fs::rename(unpacked, &tree)?;
    Ok(tree)
}

/// apt with sources, lists and a cache of its own, that knows of no installed package.
struct Apt<'a> {
    directory: &'a Path,
}

impl<'a> Apt<'a> {
    fn new(kernel: &Kernel, directory: &'a Path) -> Result<Self> {
        fs::create_dir_all(directory.join("apt/lists/partial"))?;
        let options = match kernel.trust {
            Trust::Keyring => DEBIAN_KEYS,
            Trust::Certificate => "trusted=yes",
        };
        let sources = format!(
            "deb [arch=amd64 {options}] {}\ndeb [arch=amd64 {DEBIAN_KEYS}] {}\n",
            kernel.source, BUSYBOX.0
        );
        fs::write(directory.join("apt/sources.list"), sources)?;
        fs::write(directory.join("apt/status"), "")?;
        Ok(Self { directory })
    }

    fn command(&self, program: &str) -> Command {
        let own = |option: &str, name: &str| {
            let path = self.directory.join("apt").join(name);
            format!("{option}={}", path.display())
        };
        let mut command = Command::new(program);
        command.current_dir(self.directory);
        for option in [
            own("Dir::Etc::SourceList", "sources.list"),
            own("Dir::State::Lists", "lists"),
            own("Dir::State::Status", "status"),
            own("Dir::Cache", "cache"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            // apt's own user may not write below a directory of root's.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    fn get(&self, arguments: &[&str]) -> Result<()> {
        run(self.command("apt-get").arg("-qq").args(arguments)).map(drop)
    }

    /// What a package depends on whose name begins so.
    fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = run(self.command("apt-cache").args(["depends", package]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}*"))
    }
}
