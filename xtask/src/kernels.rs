//! `cargo xtask kernels`: the program in the kernels that users have, each in a virtual machine without hardware help.
//!
//! A machine is emulated, boots in seconds, and sees this machine's file system read-only, with a layer of memory over
//! it: any test runs there as it was built here. Emulation is some twenty times slower than the processor, so tests
//! with time limits of their own may miss them; what runs unless others are named has none.

mod machine;
mod packages;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    interrupt, setup,
    stage::{self, Step},
    tests::{PACKAGES, Totals, VLAN_TESTS},
};

/// A kernel that a distribution in wide use has.
pub(crate) struct Kernel {
    /// The first two numbers of its version.
    version: &'static str,
    /// Where it is met.
    system: &'static str,
    /// A line of apt's `sources.list`, without its options.
    source: &'static str,
    /// The package that depends on the newest image.
    package: &'static str,
    /// How the source proves its origin.
    trust: Trust,
}

/// How packages are known to be what a distribution has published.
#[derive(Clone, Copy)]
enum Trust {
    /// By Debian's keys, which a Debian machine has.
    Keyring,
    /// By the certificate of the server: Debian does not have the other distribution's keys.
    Certificate,
}

/// The oldest first.
const KERNELS: [Kernel; 4] = [
    Kernel {
        version: "5.15",
        system: "Ubuntu 22.04",
        source: "https://archive.ubuntu.com/ubuntu jammy-updates main",
        package: "linux-image-generic",
        trust: Trust::Certificate,
    },
    Kernel {
        version: "6.1",
        system: "Debian 12",
        source: "http://deb.debian.org/debian bookworm main",
        package: "linux-image-cloud-amd64",
        trust: Trust::Keyring,
    },
    Kernel {
        version: "6.8",
        system: "Ubuntu 24.04",
        source: "https://archive.ubuntu.com/ubuntu noble-updates main",
        package: "linux-image-generic",
        trust: Trust::Certificate,
    },
    Kernel {
        version: "6.12",
        system: "Debian 13",
        source: "http://deb.debian.org/debian trixie main",
        package: "linux-image-cloud-amd64",
        trust: Trust::Keyring,
    },
];

/// A test program, and which of its tests are run: all, if no word is given that their names contain.
type Choice<'a> = (&'a str, &'a [&'a str]);

/// That the verifier takes the program, with all that can be switched on. The budget is left out: other kernels count
/// otherwise.
const LOADS: Choice<'_> = ("verifier", &["the_program_loads_with_every_constant_on"]);
/// That every packet is handled as its sentence says.
const PACKETS: Choice<'_> = ("packets", &[]);
/// That a whole pglb serves clients and hosts behind VLAN devices, which not every kernel has.
const VLAN: Choice<'_> = ("vlan", &[VLAN_TESTS]);
/// That the kernel's list of them is understood.
const VLAN_LIST: Choice<'_> = ("lb_userspace", &[VLAN_TESTS]);

/// Runs the named test programs in the named kernels: in all of them, if none is named; those that show that the
/// program loads and does what it should, if none is named.
pub(crate) fn run(versions: &[String], tests: &[String]) -> Result<()> {
    let mut kernels = Vec::new();
    for version in versions {
        let found = KERNELS.iter().find(|kernel| kernel.version == version);
        let known = || KERNELS.map(|kernel| kernel.version).join(", ");
        kernels.push(found.with_context(|| format!("`{version}` is none of {}", known()))?);
    }
    if kernels.is_empty() {
        kernels.extend(&KERNELS);
    }
    let mut choices: Vec<Choice<'_>> = tests.iter().map(|name| (name.as_str(), &[][..])).collect();
    if choices.is_empty() {
        choices.extend([LOADS, PACKETS, VLAN_LIST, VLAN]);
    }
    interrupt::prepare("kernels")?;
    setup::run()?;
    try_all(&kernels, &choices).map(drop)
}

/// Checks that the oldest kernel whose packages Debian itself has takes the program, and what this machine's kernel
/// may be unable to.
pub(crate) fn check() -> Result<Totals> {
    let [_, debian, ..] = &KERNELS;
    try_all(&[debian], &[VLAN_LIST, VLAN])
}

fn try_all(kernels: &[&Kernel], choices: &[Choice<'_>]) -> Result<Totals> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels to try are those for x86-64, and this machine is another"
    );
    setup::ready_emulator()?;
    let script = script(choices)?;
    let mut failed = Vec::new();
    let mut totals = Totals::default();
    for kernel in kernels {
        match try_one(kernel, &script) {
            Ok(more) => totals += more,
            Err(error) => {
                println!("Linux {}: {error:#}", kernel.version);
                failed.push(kernel.version);
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "not right on Linux {}",
        failed.join(", ")
    );
    Ok(totals)
}

fn try_one(kernel: &Kernel, script: &str) -> Result<Totals> {
    let directory = root()?.join("target/kernels").join(kernel.version);
    let step = Step::begin(format!(
        "Linux {} ({}): packages",
        kernel.version, kernel.system
    ));
    let tree = packages::fetch(kernel, &directory)?;
    step.end();
    let image = machine::image(&tree, &directory, script)?;
    let step = Step::begin(format!("Linux {}: tests", image.release));
    let console = machine::boot(&image)?;
    let text = machine::read(&console)?;
    let mut totals = Totals::default();
    text.lines()
        .filter_map(Totals::of_line)
        .for_each(|it| totals += it);
    if totals.check().is_err() || !text.lines().any(|line| line == machine::ALL_WELL) {
        println!("{totals}");
        print!("{}", machine::tail(&text));
        bail!("{totals}; the whole console is in {}", console.display());
    }
    print!("{totals}, ");
    step.end();
    Ok(totals)
}

/// The top of the source tree, as it is in the machine too.
fn root() -> Result<PathBuf> {
    fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).context("where is the source?")
}

/// Builds the test programs and the `pglb` that they may start; returns what the machine runs, as lines of a shell.
fn script(choices: &[Choice<'_>]) -> Result<String> {
    let programs = build()?;
    let mut script = format!("cd {}\n", root()?.join("tests").display());
    for (name, words) in choices {
        let program = programs.get(*name);
        let program = program.with_context(|| format!("there is no test program `{name}`"))?;
        writeln!(
            script,
            "{program} --include-ignored --color=never --test-threads=2 {} || outcome=1",
            words.join(" ")
        )?;
    }
    Ok(script)
}

/// Builds as for `cargo xtask test`, which may have done so already; tells where the programs are, by their names.
fn build() -> Result<BTreeMap<String, String>> {
    stage::flush();
    let output = Command::new("cargo")
        .args(["build", "--all-targets", "--message-format=json"])
        .args(PACKAGES)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo build")?;
    ensure!(output.status.success(), "the tests cannot be built");
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.to_owned()))
    };
    Ok(messages.lines().filter_map(program).collect())
}
