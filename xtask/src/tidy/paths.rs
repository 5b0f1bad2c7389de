//! The paths that a piece of Rust code names, found without a compiler: what `use` brings in, and what is written
//! out in full.

/// Every path and the line it stands in; a `use` with braces counts as one path for each name.
pub(super) fn used(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Number of the first line and text of a `use` that has not ended.
    let mut open: Option<(usize, String)> = None;
    for (number, line) in without_comments(code) {
        let line = line.trim();
        let begin = line
            .find("use ")
            .filter(|start| *start == 0 || line.starts_with("pub"));
        if let Some((_, text)) = &mut open {
            text.push_str(line);
        } else if let Some(begin) = begin {
            open = Some((number, line[begin + 4..].to_owned()));
        } else {
            found.extend(written_out(line).map(|path| (number, path)));
        }
        if let Some((number, text)) = open.take_if(|(_, text)| text.contains(';')) {
            let mut paths = Vec::new();
            expand("", text.split(';').next().unwrap_or_default(), &mut paths);
            found.extend(paths.into_iter().map(|path| (number, path)));
        }
    }
    found
}

/// Is a path the forbidden one, or below it? `Instant::now` forbids it below any module.
pub(super) fn is_within(path: &str, forbidden: &str) -> bool {
    let is_below = path
        .strip_prefix(forbidden)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let is_type = forbidden.starts_with(char::is_uppercase);
    is_below || is_type && (path == forbidden || path.ends_with(&format!("::{forbidden}")))
}

/// Numbered lines, without comments.
pub(super) fn without_comments(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = code.lines().enumerate();
    lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(brace) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        found.push(format!("{prefix}{name}"));
        return;
    };
    let inside = tree[brace + 1..]
        .rsplit_once('}')
        .map_or("", |(inside, _)| inside);
    let prefix = format!("{prefix}{}", tree[..brace].trim());
    let mut depth = 0;
    for branch in inside.split(|letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    }) {
        if !branch.trim().is_empty() {
            expand(&prefix, branch, found);
        }
    }
}

/// Words joined by `::` in a line of code.
fn written_out(line: &str) -> impl Iterator<Item = String> {
    let words =
        line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
    words
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("::"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_expanded() {
        let code = "use a::{b, c::{d as e, f}};\npub(crate) use g::h;\nlet x = i::j(k::L::m);";
        let paths: Vec<_> = used(code)
            .into_iter()
            .map(|(number, path)| format!("{number} {path}"))
            .collect();
        assert_eq!(
            paths,
            [
                "1 a::b",
                "1 a::c::d",
                "1 a::c::f",
                "2 g::h",
                "3 i::j",
                "3 k::L::m"
            ]
        );
    }

    #[test]
    fn a_path_is_within_its_module_and_not_within_a_namesake() {
        assert!(is_within("tokio::spawn", "tokio"));
        assert!(!is_within("tokio_postgres::Client", "tokio"));
        assert!(is_within("std::time::Instant::now", "Instant::now"));
        assert!(!is_within("std::time::Instant", "Instant::now"));
    }
}
