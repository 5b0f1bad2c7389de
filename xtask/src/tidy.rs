//! `cargo xtask tidy`: the rules of the source layout, checked by reading the files. It is a test as well.

mod paths;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// Prints every breach, one a line.
pub(crate) fn run() -> Result<()> {
    let breaches = breaches(&root())?;
    breaches
        .iter()
        .for_each(|breach| println!("tidy: {breach}"));
    ensure!(
        breaches.is_empty(),
        "the source layout has {} breaches",
        breaches.len()
    );
    Ok(())
}

/// Who may not use what. The first word names files by the beginning of their path; an exception does the same.
struct Rule {
    place: &'static str,
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const RULES: [Rule; 10] = [
    Rule {
        place: "lb-common/src/",
        except: &["lb-common/src/pod.rs"],
        forbidden: &["aya", "aya_ebpf", "std", "alloc"],
        why: "it is compiled for the kernel as well",
    },
    Rule {
        place: "lb-userspace/src/engine",
        except: &[],
        forbidden: &[
            "aya",
            "crate::cli",
            "crate::commands",
            "crate::shell",
            "serde_json",
            "std::env",
            "std::fs",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::process",
            "std::thread",
            "Instant::now",
            "SystemTime::now",
            "tokio",
            "tokio_postgres",
        ],
        why: "the engine decides and touches nothing",
    },
    Rule {
        place: "lb-userspace/src/",
        except: &["lb-userspace/src/shell/bpf"],
        forbidden: &["aya", "aya_log"],
        why: "only shell/bpf*.rs speak to the kernel program",
    },
    Rule {
        place: "lb-userspace/src/",
        except: &["lb-userspace/src/shell/probe"],
        forbidden: &["tokio_postgres", "tokio_postgres_rustls"],
        why: "only the probe speaks to PostgreSQL",
    },
    Rule {
        place: "lb-userspace/src/config",
        except: &[],
        forbidden: &[
            "crate::cli",
            "crate::commands",
            "crate::engine",
            "crate::shell",
            "tokio",
        ],
        why: "the configuration knows nothing of what is done with it",
    },
    Rule {
        place: "lb-userspace/src/capture",
        except: &[],
        forbidden: &[
            "crate::cli",
            "crate::commands",
            "crate::engine",
            "crate::shell",
            "std::fs",
            "tokio",
        ],
        why: "it reads packets, wherever they come from",
    },
    Rule {
        place: "lb-userspace/src/shell",
        except: &[],
        forbidden: &["crate::cli", "crate::commands"],
        why: "the shell does not know who called it",
    },
    Rule {
        place: "lb-userspace/src/doctor",
        except: &["lb-userspace/src/doctor/look"],
        forbidden: &[
            "crate::cli",
            "crate::commands",
            "crate::engine",
            "std::env",
            "std::fs",
            "std::io",
            "std::process",
            "std::thread",
            "tokio",
        ],
        why: "findings are judged from facts; only doctor/look* collects them",
    },
    Rule {
        place: "lb-userspace/src/commands",
        except: &["lb-userspace/src/commands/dump.rs"],
        forbidden: &["crate::engine"],
        why: "commands speak the protocol; only `dump` reads the kernel's tables itself",
    },
    Rule {
        place: "tests/src/",
        except: &[],
        forbidden: &["lb_userspace", "lb_common", "aya"],
        why: "it must build before the kernel program's toolchain is there",
    },
];

/// The beginnings of the paths of those files that may contain the word. What the bench compares with is not shipped.
const UNSAFE: [&str; 4] = [
    "bench/ebpf/src/",
    "lb-ebpf/src/packet.rs",
    "lb-ebpf/src/maps.rs",
    "lb-common/src/pod.rs",
];
/// Lines of a source file without its tests: more than that is more than one idea.
const LONGEST: usize = 400;
/// Names that say nothing about what a file is for.
const EMPTY_NAMES: [&str; 5] = [
    "utils.rs",
    "util.rs",
    "helpers.rs",
    "types.rs",
    "manager.rs",
];

fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files(root, "rs")? {
        let text = read(root, &file)?;
        if EMPTY_NAMES
            .iter()
            .any(|name| file.ends_with(&format!("/{name}")))
        {
            found.push(format!(
                "{file}: the name does not say what the file is for"
            ));
        }
        if !is_test(&file) {
            check_source(&file, &text, &mut found);
        }
    }
    for file in files(root, "md")? {
        check_links(root, &file, &read(root, &file)?, &mut found);
    }
    check_reasons(root, &mut found)?;
    Ok(found)
}

fn check_source(file: &str, text: &str, found: &mut Vec<String>) {
    let code = without_tests(text);
    let lines = code.lines().count();
    if lines > LONGEST {
        found.push(format!(
            "{file}: {lines} lines without tests, the limit is {LONGEST}"
        ));
    }
    for (number, path) in paths::used(code) {
        for rule in RULES.iter().filter(|rule| applies(rule, file)) {
            let is_breach = |forbidden: &&&str| paths::is_within(&path, forbidden);
            if let Some(forbidden) = rule.forbidden.iter().find(is_breach) {
                found.push(format!("{file}:{number}: uses {forbidden}: {}", rule.why));
            }
        }
    }
    if !UNSAFE.iter().any(|place| file.starts_with(place)) {
        let numbered = paths::without_comments(code);
        for (number, line) in numbered.filter(|(_, line)| is_unsafe(line)) {
            found.push(format!(
                "{file}:{number}: unsafe code stands in {} alone: {line}",
                UNSAFE.join(", ")
            ));
        }
    }
}

fn applies(rule: &Rule, file: &str) -> bool {
    file.starts_with(rule.place) && !rule.except.iter().any(|place| file.starts_with(place))
}

/// `unsafe` as a word before what it makes unsafe, and not in an attribute or in a lint's name.
fn is_unsafe(line: &str) -> bool {
    [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "unsafe trait",
    ]
    .iter()
    .any(|word| line.contains(word))
        && !line.contains('"')
}

/// Every reason has a row `| `label` | ...` in its table.
fn check_reasons(root: &Path, found: &mut Vec<String>) -> Result<()> {
    const TABLE: &str = "docs/reasons.md";
    let source = read(root, "lb-common/src/reason.rs")?;
    let labels = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \""));
    let labels: Vec<&str> = labels
        .filter_map(|(_, rest)| rest.split('"').next())
        .collect();
    ensure!(
        !labels.is_empty(),
        "lb-common/src/reason.rs has no labels that tidy can read"
    );
    let Ok(table) = read(root, TABLE) else {
        found.push(format!("{TABLE} is missing"));
        return Ok(());
    };
    for label in labels {
        if !table
            .lines()
            .any(|line| line.starts_with(&format!("| `{label}` |")))
        {
            found.push(format!("{TABLE}: there is no row for `{label}`"));
        }
    }
    Ok(())
}

/// Relative links lead to something.
fn check_links(root: &Path, file: &str, text: &str, found: &mut Vec<String>) {
    let directory = Path::new(file).parent().unwrap_or_else(|| Path::new(""));
    for (number, line) in text.lines().enumerate() {
        for link in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            let is_elsewhere = link.contains("://") || link.starts_with("mailto:");
            if !target.is_empty() && !is_elsewhere && !root.join(directory).join(target).exists() {
                found.push(format!(
                    "{file}:{}: the link to {target} leads nowhere",
                    number + 1
                ));
            }
        }
    }
}

/// The part of a file before its own tests.
fn without_tests(text: &str) -> &str {
    let start = text
        .find("#[cfg(test)]\nmod ")
        .or_else(|| text.find("#[cfg(test)]\n#[expect"));
    start.map_or(text, |start| &text[..start])
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") && !file.starts_with("xtask/") || file.contains("/tests/")
}

/// Every file with that ending that belongs to the project, by its path from the root, sorted.
fn files(root: &Path, ending: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in
            fs::read_dir(root.join(&directory)).context("cannot read a directory of the project")?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = directory.join(&name);
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == ending) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn the_project_is_tidy() {
        let breaches = breaches(&root()).unwrap();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    #[track_caller]
    fn check(file: &str, text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        check_source(file, text, &mut found);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn breaches_are_found() {
        check(
            "lb-userspace/src/engine/plan.rs",
            "use std::{fmt, fs::File};\n",
            &["plan.rs:1: uses std::fs"],
        );
        check(
            "lb-userspace/src/engine.rs",
            "\nlet a = tokio::spawn(b);\n",
            &["engine.rs:2: uses tokio"],
        );
        check(
            "lb-userspace/src/engine.rs",
            "// tokio::spawn\nuse std::time::Instant;\n",
            &[],
        );
        check(
            "lb-userspace/src/shell/run.rs",
            "use crate::{\n    cli::Cli,\n    config,\n};\n",
            &["crate::cli"],
        );
        check(
            "lb-userspace/src/shell/bpf_tables.rs",
            "use aya::maps::Array;\n",
            &[],
        );
        check(
            "lb-userspace/src/shell/run.rs",
            "use aya::maps::Array;\n",
            &["only shell/bpf"],
        );
        check(
            "lb-userspace/src/shell/run.rs",
            "#[cfg(test)]\nmod tests { use aya::Ebpf; }\n",
            &[],
        );
        check(
            "lb-common/src/flow.rs",
            "fn a() { unsafe { b() } }\n",
            &["unsafe code"],
        );
        check("lb-common/src/flow.rs", &"\n".repeat(401), &["401 lines"]);
    }

    #[test]
    fn links_are_followed() {
        let mut found = Vec::new();
        let text = "[a](Cargo.toml) [b](https://example.org) [c](#here) [d](nowhere.md#there)";
        check_links(&root(), "README.md", text, &mut found);
        assert_eq!(found, ["README.md:1: the link to nowhere.md leads nowhere"]);
    }
}
