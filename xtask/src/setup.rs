//! `cargo xtask setup`: what a machine needs before pglb can be built and tried.
//!
//! Two things are not in a stable Rust toolchain: a compiler that comes with its library source, because the
//! kernel program builds its own `core`, and `bpf-linker`. On Debian both come from packages and crates.io;
//! elsewhere this names what is missing and stops.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use pglb_tests::{clock, postgres};

use crate::stage::{self, Step};

/// Installs what is missing, says each step in a line, and does nothing on a machine that has everything.
pub(crate) fn run() -> Result<()> {
    let started = clock::now();
    let has_compiler = find_compiler().is_some();
    let has_linker = find_linker();
    let packages = missing_packages(has_compiler, has_linker);
    if packages.is_empty() && has_compiler && has_linker {
        println!("setup: nothing to install ({})", stage::elapsed(started));
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!("{}", advice(&packages));
    }
    if find_program("rustup").is_none() {
        bail!(
            "{RUSTUP} is not installed, and it runs the kernel program's compiler: install it, then try again"
        );
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if find_compiler().is_none() {
        link_compiler()?;
    }
    if !has_linker {
        install_linker()?;
    }
    println!("setup: ready ({})", stage::elapsed(started));
    Ok(())
}

/// The names a machine can be asked about, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("psql", "postgresql-client"),
];
const SERVER: &str = "postgresql";
const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// LLVM must not be older than the compiler's; `g++` brings the C++ library that LLVM is linked with.
const LINKER: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "g++"];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";
const RUSTUP: &str = "rustup (https://rustup.rs)";
/// The name under which Debian's compiler is known to rustup; `lb-userspace/build.rs` looks for it.
const TOOLCHAIN: &str = "pglb-bpf";
/// The workspace's `rust-version`: an older compiler cannot build the kernel program.
const OLDEST_COMPILER: u32 = 95;

fn missing_packages(has_compiler: bool, has_linker: bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for (program, package) in PROGRAMS {
        if find_program(program).is_none() && !packages.contains(&package) {
            packages.push(package);
        }
    }
    if postgres::find_binaries().is_err() || postgres::find_account().is_err() {
        packages.push(SERVER);
    }
    if !has_compiler && !has_library_source(Path::new("/usr"), Path::new("/usr/bin/rustc")) {
        packages.extend(COMPILER);
    }
    if !has_linker {
        packages.extend(LINKER.into_iter().filter(|package| !is_installed(package)));
    }
    packages
}

/// What a user of another distribution has to do by hand.
fn advice(packages: &[&str]) -> String {
    let mut missing: Vec<&str> = packages
        .iter()
        .filter(|it| !COMPILER.contains(it))
        .copied()
        .collect();
    if find_program("rustup").is_none() {
        missing.push(RUSTUP);
    }
    if packages.contains(&COMPILER[0]) {
        missing.push(
            "a nightly with its source (`rustup toolchain install nightly --component rust-src`)",
        );
    }
    if packages.contains(&LINKER[0]) {
        missing.push("bpf-linker 0.13 with an LLVM not older than that nightly's (`cargo install bpf-linker`)");
    }
    format!(
        "this is not Debian, so nothing is installed for you; what is missing, packages by their Debian names: {}",
        missing.join(", ")
    )
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !pglb_tests::is_root() {
        bail!(
            "installing packages needs root: run `sudo apt-get install {list}`, then `cargo xtask setup` again"
        );
    }
    // Lists that are absent, or from before a package moved, are the usual reason for a failed installation; a
    // foreign source that cannot be reached is none, so the result of the update is not asked for.
    let update = Step::begin("setup: apt-get update");
    let _ = apt().args(["update", "-qq"]).output();
    update.end();
    let unknown: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|p| !is_offered(p))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "the package sources of this machine do not offer {}: Debian 12 with its security updates does",
            unknown.join(" ")
        );
    }
    let step = Step::begin(format!("setup: apt-get install {list}"));
    step.run(
        apt()
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    )
}

fn link_compiler() -> Result<()> {
    if !has_library_source(Path::new("/usr"), Path::new("/usr/bin/rustc")) {
        bail!(
            "no compiler with its library source: install a nightly (`rustup toolchain install nightly \
             --component rust-src`), or Debian's {} in version 1.{OLDEST_COMPILER} or newer",
            COMPILER.join(" ")
        );
    }
    let step = Step::begin(format!("setup: rustup toolchain link {TOOLCHAIN} /usr"));
    step.run(Command::new("rustup").args(["toolchain", "link", TOOLCHAIN, "/usr"]))?;
    find_compiler()
        .map(drop)
        .context("the linked toolchain does not run: is /usr/bin/cargo there?")
}

fn install_linker() -> Result<()> {
    let step = Step::begin(format!("setup: cargo install bpf-linker {LINKER_VERSION}"));
    let mut install = Command::new("cargo");
    install.args([
        "install",
        "--quiet",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
    ]);
    if Path::new(LLVM_PREFIX).is_dir() {
        // Without the prefix it looks for LLVM where other distributions keep it.
        install.env("LLVM_PREFIX", LLVM_PREFIX);
        install.args(["--no-default-features", "--features", "llvm-22"]);
    }
    step.run(install.current_dir("/"))
}

/// The toolchain of the kernel program, with its clippy; only `ci` needs that.
pub(crate) fn ready_linter() -> Result<String> {
    let toolchain = find_compiler().context("there is no toolchain for the kernel program")?;
    let has_clippy = || {
        output_of(Command::new("rustup").args(["run", &toolchain, "cargo-clippy", "--version"]))
            .is_some()
    };
    if !has_clippy() {
        ensure!(
            toolchain == TOOLCHAIN,
            "`{toolchain}` has no clippy: run `rustup component add clippy --toolchain {toolchain}`"
        );
        install_packages(&["rust-web-clippy"])?;
    }
    Ok(toolchain)
}

/// Where cargo-deny is, built first where it is missing; only `ci` needs it.
pub(crate) fn ready_deny() -> Result<Option<PathBuf>> {
    const NAME: &str = "cargo-deny";
    if find_program(NAME).is_none() {
        let step = Step::begin(format!("setup: cargo install {NAME}"));
        // It runs for a second: building it with optimizations takes longer than it can save.
        let install = ["install", "--quiet", "--locked", "--debug", NAME];
        step.run(Command::new("cargo").args(install).current_dir("/"))?;
    }
    Ok(find_program(NAME))
}

/// Installs what emulates a machine; only `kernels` and `ci` need it.
pub(crate) fn ready_emulator() -> Result<()> {
    let programs = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
    ];
    let mut packages: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if find_file_server().is_none() {
        packages.push(if is_offered("virtiofsd") {
            "virtiofsd"
        } else {
            "qemu-system-common"
        });
    }
    if packages.is_empty() {
        return Ok(());
    }
    ensure!(
        find_program("apt-get").is_some(),
        "the kernels to try are fetched with apt, and this is not Debian"
    );
    // Without it apt trusts no server.
    packages.push("ca-certificates");
    install_packages(&packages)
}

/// Where the program is that serves this machine's files to an emulated one; it is in no search path.
pub(crate) fn find_file_server() -> Option<PathBuf> {
    let places = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
    let mut places = places.into_iter().map(PathBuf::from);
    places.find(|place| place.exists())
}

/// A toolchain that can build `core`: the one Debian's packages were linked as, or a nightly with `rust-src`.
fn find_compiler() -> Option<String> {
    let installed = output_of(Command::new("rustup").args(["toolchain", "list", "--quiet"]))?;
    let names = installed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let candidates = names.filter(|name| *name == TOOLCHAIN || name.starts_with("nightly"));
    candidates.map(str::to_owned).find(|name| {
        let sysroot =
            output_of(Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]));
        sysroot.is_some_and(|sysroot| {
            let sysroot = Path::new(sysroot.trim());
            has_library_source(sysroot, &sysroot.join("bin/rustc"))
                && sysroot.join("bin/cargo").exists()
        })
    })
}

fn has_library_source(sysroot: &Path, rustc: &Path) -> bool {
    let minor = output_of(Command::new(rustc).arg("--version"))
        .and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= OLDEST_COMPILER)
        && sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
}

fn find_linker() -> bool {
    let Some(path) = find_program("bpf-linker") else {
        return false;
    };
    // An older one may carry an older LLVM, which fails on the first build with a message nobody understands.
    let version = output_of(Command::new(path).arg("--version")).unwrap_or_default();
    let mut numbers = version
        .trim()
        .trim_start_matches("bpf-linker ")
        .split('.')
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (0, 13),
        _ => false,
    }
}

/// Looks in PATH, in cargo's own directory and in those of the system administrator, which a user's PATH may lack.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home: Option<OsString> = env::var_os("HOME");
        home.map(|home| Path::new(&home).join(".cargo"))
    });
    env::split_paths(&path)
        .chain(cargo.map(|cargo| cargo.join("bin")))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| fs::metadata(candidate).is_ok_and(|file| file.is_file()))
}

fn is_installed(package: &str) -> bool {
    output_of(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_some_and(|status| status == "installed")
}

fn is_offered(package: &str) -> bool {
    output_of(Command::new("apt-cache").args(["policy", package])).is_some_and(|policy| {
        policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
    })
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
