//! The committed result: read, compared with, replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::report::{Report, Row};
use crate::show;

const BEGIN: &str = "<!-- begin: cargo xtask bench --save -->\n";
const END: &str = "<!-- end -->\n";

/// The last committed result, if there is one.
pub(crate) fn committed() -> Result<Option<Report>> {
    let path = docs("benchmarks.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let report = serde_json::from_str(&text);
    Ok(Some(report.with_context(|| {
        format!("{} is no result of the bench", path.display())
    })?))
}

/// The committed row of the same case.
pub(crate) fn like<'r>(row: &Row, report: Option<&'r Report>) -> Option<&'r Row> {
    report?.rows.iter().find(|other| other.is_like(row))
}

/// Writes a result to a file.
pub(crate) fn write(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a result the committed one.
pub(crate) fn save(report: &Report) -> Result<()> {
    write(&docs("benchmarks.json"), report)?;
    let path = docs("benchmarks.md");
    let page =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let page = replace(&page, &show::page(report))
        .with_context(|| format!("{} has no place between two markers", path.display()))?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// The page with another text between the markers.
fn replace(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{text}{END}{after}"))
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = format!("a\n{BEGIN}b\n{END}c\n");
        assert_eq!(
            replace(&page, "d\n"),
            Some(format!("a\n{BEGIN}d\n{END}c\n"))
        );
        assert_eq!(replace("a\n", "d\n"), None);
    }

    #[test]
    fn the_committed_page_has_its_markers() {
        let page = fs::read_to_string(docs("benchmarks.md")).unwrap();
        assert!(replace(&page, "").is_some());
    }
}
