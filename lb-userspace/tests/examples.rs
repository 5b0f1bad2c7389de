//! What the papers show is so: the files in `config/` are configurations, and the commands exist.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use lb_userspace::cli::{Cli, Command};
use lb_userspace::config::{Config, Role, check, load};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the files in a directory with this ending.
fn files(directory: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    files.sort();
    files
        .iter()
        .map(|name| format!("{directory}/{name}"))
        .collect()
}

/// The fenced blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = read(page);
    let start = format!("```{language}\n");
    let blocks = text
        .split(&start)
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

fn pages() -> Vec<String> {
    [files(".", ".md"), files("docs", ".md")].concat()
}

fn parse(name: &str, text: &str) -> Config {
    check(name, text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn every_configuration_is_one() {
    let files = files("config", ".toml");
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let config = load(&root().join(&file)).unwrap_or_else(|error| panic!("{error}"));
        let primaries = config.services.iter().filter(|it| it.role == Role::Primary);
        assert_eq!(primaries.count(), 1, "{file} has a service for the primary");
        for service in &config.services {
            let cluster = config.cluster(&service.cluster).unwrap();
            assert!(
                cluster.backends.len() > 1,
                "{file} has somebody to fail over to"
            );
        }
    }
}

/// A key of `config/pglb.toml` that is commented out shows its default, or is no default but an
/// example.
#[test]
fn commented_keys_show_their_defaults() {
    const EXAMPLES: [&str; 5] = [
        "ca_file",
        "deny",
        "source_max_connections",
        "source_max_rate",
        "idle_limit",
    ];
    const FILE: &str = "config/pglb.toml";
    let text = read(FILE);
    let shipped = parse(FILE, &text);
    let lines: Vec<&str> = text.lines().collect();
    let mut keys = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        let Some(setting) = line.strip_prefix("# ") else {
            continue;
        };
        let Some((key, _)) = setting.split_once(" = ") else {
            continue;
        };
        if !key.chars().all(|it| it.is_ascii_lowercase() || it == '_') {
            continue;
        }
        keys.push(key);
        let mut changed = lines.clone();
        changed[place] = setting;
        let config = parse(FILE, &changed.join("\n"));
        let is_example = EXAMPLES.contains(&key);
        assert_eq!(
            config != shipped,
            is_example,
            "line {}: {setting}",
            place + 1
        );
    }
    for key in [
        "fast_interval",
        "max_lag",
        "algorithm",
        "on_down",
        "fallback",
        "pin_dir",
    ] {
        assert!(keys.contains(&key), "{key} is shown: {keys:?}");
    }
}

#[test]
fn the_configuration_of_the_readme_is_the_smallest_one() {
    let [text] = blocks("README.md", "toml").try_into().unwrap();
    assert_eq!(text.trim(), read("config/minimal.toml").trim());
}

#[test]
fn configurations_on_other_pages_are_none_that_fail() {
    for page in pages() {
        for block in blocks(&page, "toml")
            .iter()
            .filter(|it| it.contains("[gateway]"))
        {
            parse(&page, block);
        }
    }
}

/// The commands in code blocks, comments cut off.
#[test]
fn commands_that_are_shown_are_understood() {
    let mut shown = 0;
    for page in pages() {
        for line in blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
            let line = line.split('#').next().unwrap().trim();
            for command in line.split("&&").map(str::trim) {
                let words: Vec<&str> = command.split_whitespace().collect();
                match words.as_slice() {
                    ["pglb", ..] => {
                        let parsed = Cli::try_parse_from(&words);
                        assert!(parsed.is_ok(), "{page}: {command}: {}", parsed.unwrap_err());
                        shown += 1;
                    }
                    ["cargo", "xtask", task, ..] => assert_task(&page, task),
                    _ => {}
                }
            }
        }
    }
    assert!(shown >= 3, "the papers show commands");
}

/// `pglb WORD` in running text: a word that is a command.
#[test]
fn commands_that_are_named_exist() {
    // Where it stands what is not built yet.
    const NOT_YET: [&str; 2] = ["./CHANGELOG.md", "docs/limits.md"];
    let commands = Cli::command();
    let mut named = 0;
    for page in pages()
        .iter()
        .filter(|page| !NOT_YET.contains(&page.as_str()))
    {
        let text = read(page);
        for span in text
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2))
        {
            let words: Vec<&str> = span.split_whitespace().collect();
            match words.as_slice() {
                ["pglb", word, ..] if word.chars().all(char::is_alphabetic) => {
                    assert!(commands.find_subcommand(word).is_some(), "{page}: {span}");
                    named += 1;
                }
                ["cargo", "xtask", task, ..] => assert_task(page, task),
                _ => {}
            }
        }
    }
    assert!(named >= 10, "the papers name commands");
}

/// The tool is another package; its list of tasks is read as text.
fn assert_task(page: &str, task: &str) {
    let source = read("xtask/src/main.rs");
    let (first, rest) = task.split_at(1);
    let variant = format!("    {}{rest}", first.to_uppercase());
    // Alone, or with what it takes.
    let is_it = |line: &str| {
        let rest = line.strip_prefix(&variant);
        rest.is_some_and(|rest| rest.starts_with([',', ' ', '(']))
    };
    let is_there = source.lines().any(is_it) || task == "COMMAND";
    assert!(is_there, "{page}: cargo xtask {task}");
}

#[test]
fn the_unit_starts_what_there_is() {
    let unit = read("config/pglb.service");
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix("Exec"));
    let mut started = 0;
    assert!(lines.all(|line| {
        let (_, command) = line.split_once('=').unwrap();
        let Some(command) = command.strip_prefix("/usr/bin/") else {
            return true;
        };
        let parsed = Cli::try_parse_from(command.split_whitespace());
        started += usize::from(matches!(
            parsed.as_ref().map(|cli| &cli.command),
            Ok(Command::Run(_) | Command::Check(_))
        ));
        parsed.is_ok()
    }));
    assert_eq!(
        started, 2,
        "it checks the configuration and runs the controller"
    );
}
