//! Builds a crate of kernel programs from a build script, with a compiler of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use aya_build::{Package, Toolchain, build_ebpf};

/// The toolchain that `cargo xtask setup` makes of Debian's packages.
const LINKED_TOOLCHAIN: &str = "pglb-bpf";
/// Makes a stable compiler take the `-Z` flags that build `core` for the BPF target.
const BOOTSTRAP: &str = "RUSTC_BOOTSTRAP";
/// Tells the second run of this script from the first.
const INNER: &str = "PGLB_BUILD_XDP";

/// Builds the package in `directory` and leaves its object files in `OUT_DIR`.
pub(crate) fn build(package: &str, directory: &str) -> ExitCode {
    println!("cargo:rerun-if-env-changed=PATH");
    match try_build(package, directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo:error=cannot build {package}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_build(name: &str, root_dir: &str) -> anyhow::Result<()> {
    if env::var_os(INNER).is_some() {
        let package = Package {
            name,
            root_dir,
            ..Package::default()
        };
        return build_ebpf([package], toolchain());
    }
    // The variable must reach the compiler of that package alone, and a process cannot safely change
    // its own environment, so the script runs itself once more.
    let inner = Command::new(env::current_exe()?)
        .env(INNER, "1")
        .env(BOOTSTRAP, "1")
        // Incremental compilation keeps functions apart that must be merged for the verifier.
        .env_remove("CARGO_INCREMENTAL")
        .env("PATH", path_with_cargo_bin())
        .output()?;
    // The compiler's progress comes as warnings; they are worth reading when it fails only.
    let is_worth_reading =
        |line: &&str| !inner.status.success() || !line.starts_with("cargo:warning=   ");
    let output = String::from_utf8_lossy(&inner.stdout);
    output
        .lines()
        .filter(is_worth_reading)
        .for_each(|line| println!("{line}"));
    anyhow::ensure!(
        inner.status.success(),
        "it takes a compiler with library source and bpf-linker; `cargo xtask setup` installs both"
    );
    Ok(())
}

/// The linked toolchain where there is one, else nightly.
fn toolchain() -> Toolchain<'static> {
    let is_linked = Command::new("rustup")
        .args(["run", LINKED_TOOLCHAIN, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if is_linked {
        Toolchain::Custom(LINKED_TOOLCHAIN)
    } else {
        Toolchain::Nightly
    }
}

/// `PATH`, with the place where `cargo install` puts bpf-linker behind it.
fn path_with_cargo_bin() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME").map(PathBuf::from)?;
        fs::exists(home.join(".cargo"))
            .ok()?
            .then(|| Path::new(&home).join(".cargo"))
    });
    let places = env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin")));
    env::join_paths(places).unwrap_or(path)
}
